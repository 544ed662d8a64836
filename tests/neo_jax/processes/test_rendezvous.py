"""Processes meet or hear why not: who is missing, who differs, who is there twice; and what else comes to the port is passed over."""

import concurrent.futures
import contextlib
import socket

import pytest

from neo_jax.processes.rendezvous import GroupError, Meeting, MissingError, meet


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def compare(mine, other) -> list[str]:
    return [] if mine == other else [f"program {mine['program']} -> {other.get('program')}"]


def gather(*members: tuple[int, str], processes: int, seconds: float = 20.0, port: int | None = None) -> list[str]:
    """What each (index, program) hears: "" for go, else the name of the error and its message."""
    port = port or free_port()

    def one(index: int, program: str) -> str:
        try:
            meet(Meeting(index, processes, "127.0.0.1", port, seconds), {"program": program}, compare)
        except (GroupError, MissingError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(one, *zip(*members, strict=True)))


def test_all_go_on():
    assert gather((2, "a"), (0, "a"), (1, "a"), processes=3) == ["", "", ""]


def test_the_port_is_free_afterwards():
    port = free_port()
    assert gather((0, "a"), (1, "a"), processes=2, port=port) == ["", ""]
    assert gather((0, "a"), (1, "a"), processes=2, port=port) == ["", ""]


def test_the_missing_are_named_in_every_process():
    heard = gather((0, "a"), (2, "a"), processes=4, seconds=1.0)
    assert heard[0] == heard[1]
    assert "MissingError" in heard[0] and "processes 1, 3 of 4 did not reach process 0 at 127.0.0.1" in heard[0]


def test_process_0_missing():
    (heard,) = gather((1, "a"), processes=2, seconds=0.5)
    assert "MissingError: process 1 of 2 did not reach process 0" in heard


def test_one_that_differs_is_named_in_every_process():
    heard = gather((0, "a"), (1, "a"), (2, "b"), processes=3)
    assert len(set(heard)) == 1
    assert "GroupError" in heard[0] and "process 2 on " in heard[0] and "differs from process 0: program a -> b" in heard[0]


@pytest.mark.parametrize(("index", "sentence"), [(1, "two processes are numbered 1"), (7, "numbered 7; 3 processes are 0 to 2")])
def test_a_wrong_number(index, sentence):
    heard = gather((0, "a"), (1, "a"), (index, "a"), processes=3)
    assert len(set(heard)) == 1
    assert "GroupError" in heard[0] and sentence in heard[0]


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        (heard,) = gather((0, "a"), processes=2, port=server.getsockname()[1])
    assert "MissingError" in heard and "cannot listen on port" in heard


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n", b'{"process": true}\n', b"[" * 200_000 + b"\n", b'{"process": 1, "processes": 2}\n', b""],
)
def test_what_does_not_belong_is_passed_over(sent):
    port = free_port()

    def stranger() -> bytes:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=10)
                break
            except OSError:
                continue
        with connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(gather, (0, "a"), processes=2, port=port)
        with contextlib.suppress(ConnectionResetError):  # closed with something unread
            assert pool.submit(stranger).result() == b""
        assert gather((1, "a"), processes=2, port=port) == [""]
        assert first.result() == [""]
