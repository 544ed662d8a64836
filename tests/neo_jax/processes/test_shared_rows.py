"""The exchange of processes that hold parts of the same rows, over a stand-in of jax's key-value store."""

import collections
import concurrent.futures
import itertools
import json
import threading
import time

import jax
import pytest

from neo_jax.processes import shared_rows
from neo_jax.processes.shared_rows import SharedRows


class Store:
    """As jax's client: a reader waits for a value that is not there yet, for some time."""

    def __init__(self):
        self.values, self.changed, self.most = {}, threading.Condition(), 0

    def key_value_set(self, key, value):
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.most = max(self.most, len(self.values))
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, timeout_ms / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: no {key}")
            return self.values[key]

    def key_value_delete(self, key):
        with self.changed:
            del self.values[key]


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(shared_rows, "client_of_run", lambda: store)
    monkeypatch.setattr(shared_rows, "WAIT_MS", 20)
    monkeypatch.setattr(jax, "process_index", lambda: int(threading.current_thread().name.partition(" ")[0]))
    return store


def test_each_gets_the_values_of_all_and_old_ones_are_forgotten(store, monkeypatch):
    """Two processes of three threads each, which take a few rows in advance, as a loader's threads do; the store stays small."""
    rows, ahead = 300, 4
    monkeypatch.setattr(shared_rows, "_readings", itertools.repeat(0))
    got = {process: [] for process in range(2)}

    def read(process):
        member, coming = SharedRows([process], [0, 1], ahead), collections.deque()
        with concurrent.futures.ThreadPoolExecutor(
            3, initializer=lambda: setattr(threading.current_thread(), "name", str(process))
        ) as pool:
            for row in range(rows):
                if len(coming) == ahead:
                    got[process].append(coming.popleft().result(30))
                coming.append(pool.submit(member.gather, row, "part", {"row": row, "from": process}))
            got[process] += [each.result(30) for each in coming]

    readers = [threading.Thread(target=read, args=(process,)) for process in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    expected = [[{"row": row, "from": each} for each in range(2)] for row in range(rows)]
    assert got == {0: expected, 1: expected}
    assert store.most <= 2 * 4 * ahead, "values of rows long read are deleted"


def test_one_waits_until_the_other_comes_or_the_reading_ends(store):
    first, results = SharedRows([0], [0, 1], 1), []

    def gather(row):
        try:
            results.append(first.gather(row, "part", 1))
        except RuntimeError as error:
            results.append(str(error))

    def waiting(row):
        thread = threading.Thread(target=gather, args=(row,), name="0")
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive(), "it waits longer than one question to the store"
        return thread

    thread = waiting(5)
    (own,) = store.values
    store.key_value_set(own[:-1] + "1", json.dumps(2))
    thread.join(5)
    assert results == [[1, 2]]
    thread = waiting(6)
    first.close()
    thread.join(5)
    assert "the reading ended while a thread waited" in results[1]


def test_readings_do_not_meet(store):
    keys = {SharedRows([0], [0, 1], 1)._key(0, "part", 0) for _ in range(3)}
    assert len(keys) == 3


def test_readings_of_whole_rows_are_counted_too(store):
    """Else a process that shares its rows in a later phase alone would meet the others' values of an earlier one."""
    before = int(SharedRows([0], [0, 1], 1)._folder.rpartition("/")[2])
    shared_rows.count_reading()
    assert SharedRows([0], [0, 1], 1)._folder.endswith(f"/{before + 2}")


def test_an_error_of_the_store_is_not_waited_out(store, monkeypatch):
    def broken(key, timeout_ms):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: the service is gone")

    monkeypatch.setattr(store, "blocking_key_value_get", broken)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNAVAILABLE"):
        SharedRows([0], [0, 1], 1).gather(0, "part", None)
