"""Rows that several processes hold: each decodes the images of its own context shards, and all leave out the same samples."""

import collections
import threading
import time

import pytest
import small_corpus
from small_corpus import phase, tokenizer

from data_pipelines.batch import arrays
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import RowLoader
from data_pipelines.media import images
from data_pipelines.schema import SampleError

SHARDS = 4
PHASES = (phase(rows=8, rows_per_step=2, context=512, visual_tokens=400, frames=8),)


class Meeting:
    """What the processes of one row exchange, here threads of one process. `busy` slows one of them, so that others must wait."""

    def __init__(self, held, busy=None):
        self.held, self.busy = held, busy
        self.given = collections.defaultdict(dict)
        self.changed = threading.Condition()

    def share(self, process):
        return Member(self, process)


class Member:
    def __init__(self, meeting, process):
        self.meeting, self.process, self.shards, self.closed = meeting, process, meeting.held[process], False

    def gather(self, row, part, value):
        if self.process == self.meeting.busy:
            time.sleep(0.01)
        with self.meeting.changed:
            given = self.meeting.given[row, part]
            assert self.process not in given, "each process gives one value"
            given[self.process] = value
            self.meeting.changed.notify_all()
            assert self.meeting.changed.wait_for(lambda: len(given) == len(self.meeting.held), timeout=20)
            return [given[process] for process in sorted(given)]

    def close(self):
        self.closed = True


@pytest.fixture
def opened(tmp_path):
    small_corpus.write_corpus(tmp_path, repeats=4)
    source = small_corpus.jsonl(tmp_path / "mixed.jsonl", "mixed")
    LengthIndex.open(source, tokenizer(), tmp_path / "index")

    def loader(log="log", threads=2):
        index = LengthIndex.open(source, tokenizer(), tmp_path / "index")
        policy = FailurePolicy(max_rate=0.9)
        return RowLoader([source], [index], PHASES, tokenizer(), 0, policy, tmp_path / f"{log}.jsonl", threads)

    return loader


def read_shared(opened, held, busy=None, local=None, shards=SHARDS):
    """Batches of each process, and its loader."""
    meeting = Meeting(held, busy)
    loaders = [opened(f"log{process}", threads=1 + process) for process in range(len(held))]
    read = [[] for _ in held]
    members = [meeting.share(process) for process in range(len(held))]

    def run(process):
        batches = loaders[process].batches(loaders[process].start(), local, shards, share=members[process])
        read[process] += [batch for batch, _ in batches]

    threads = [threading.Thread(target=run, args=(process,)) for process in range(len(held))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(member.closed for member in members)
    return read, loaders


def assert_own_parts(read, expected, held, shards=SHARDS):
    """Every array equals the whole's, the pixels those of the process's own shards."""
    for batches, own in zip(read, held, strict=True):
        assert len(batches) == len(expected) > 0
        for batch, whole in zip(batches, expected, strict=True):
            for (name, mine), (_, theirs) in zip(arrays(batch), arrays(whole), strict=True):
                if name == "visual":
                    mine, theirs = (x.reshape(len(x), shards, -1, x.shape[-1])[:, own] for x in (mine, theirs))
                    assert mine.any()
                assert (mine == theirs).all(), name


@pytest.mark.parametrize(("held", "busy"), [([[0, 1], [2, 3]], 1), ([[0, 3], [1], [2]], 0), ([[0, 1, 2, 3]] * 2, None)])
@pytest.mark.parametrize("local", [None, [1]])
def test_each_process_has_its_part_of_the_same_rows(opened, held, busy, local):
    whole = opened("whole")
    expected = [batch for batch, _ in whole.batches(whole.start(), local, SHARDS)]
    read, loaders = read_shared(opened, held, busy, local)
    assert_own_parts(read, expected, held)
    assert all(loader.failures.state() == whole.failures.state() for loader in loaders)


def test_only_images_of_which_a_part_is_held_are_decoded(opened, monkeypatch):
    decoded = collections.Counter()
    decode = images.decode

    def counting(content, *arguments):
        decoded[threading.current_thread().name] += 1
        return decode(content, *arguments)

    monkeypatch.setattr("data_pipelines.opened.images.decode", counting)
    whole = opened("whole")
    list(whole.batches(whole.start(), None, SHARDS))
    of_whole = decoded.total()
    decoded.clear()
    held = [[shard] for shard in range(SHARDS)]
    read_shared(opened, held)
    assert of_whole <= decoded.total() < 0.75 * SHARDS * of_whole


@pytest.mark.parametrize("held", [[[0, 1], [2, 3]], [[0], [1], [2], [3]]])
def test_all_leave_out_what_fails_in_one(opened, tmp_path, held):
    """Most images end early, several of some samples: their headers are whole, so each process learns it only if it decodes them or is told."""
    for path in (tmp_path / "media/pictures" / name for name in ("0.png", "1.jpg", "3.jpg", "5.jpg")):
        path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    whole = opened("whole")
    expected = [batch for batch, _ in whole.batches(whole.start(), None, SHARDS)]
    assert whole.failures.failed > 4
    read, loaders = read_shared(opened, held)
    assert_own_parts(read, expected, held)
    for number, loader in enumerate(loaders):
        assert loader.failures.state() == whole.failures.state()
        assert sorted((tmp_path / f"log{number}.jsonl").read_text().splitlines()) == sorted(
            (tmp_path / "whole.jsonl").read_text().splitlines()
        )


def test_a_damaged_clip_fails_whatever_frames_are_held(opened, tmp_path):
    path = tmp_path / "media/long.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    size = content.index(b"moov") - 4 - start if content.find(b"moov") > start else len(content) - start
    content[start + size // 2 : start + size * 3 // 4] = bytes(size * 3 // 4 - size // 2)
    path.write_bytes(content)
    whole = opened("whole")
    expected = [batch for batch, _ in whole.batches(whole.start(), None, SHARDS)]
    assert whole.failures.failed > 0
    held = [[0], [1], [2], [3]]
    read, loaders = read_shared(opened, held)
    assert_own_parts(read, expected, held)
    assert all(loader.failures.state() == whole.failures.state() for loader in loaders)


def test_what_fails_for_a_moment_in_one_process_is_left_out_by_all(opened, monkeypatch):
    """One process cannot read a file once, as from a disk that is away for a moment: rows stay equal all the same."""
    lock, failed = threading.Lock(), []
    read_bytes = images.read_bytes

    def failing(media, *arguments):
        with lock:
            if media.name.endswith("3.jpg") and len(failed) < 5:
                failed.append(media.name)
                raise SampleError("unreadable", f"{media.name}: away for a moment")
        return read_bytes(media, *arguments)

    monkeypatch.setattr("data_pipelines.opened.images.read_bytes", failing)
    held = [[0, 1], [2, 3]]
    read, (one, other) = read_shared(opened, held)
    assert len(failed) == 5 and one.failures.failed > 0
    assert one.failures.state() == other.failures.state()
    for mine, theirs in zip(*read, strict=True):
        for (name, a), (_, b) in zip(arrays(mine), arrays(theirs), strict=True):
            assert name == "visual" or (a == b).all(), name


def test_closing_ends_the_waiting(opened):
    """A process that stops between two steps, while its threads wait for others that come no more."""
    waiting = threading.Event()

    class Left(Member):
        def gather(self, row, part, value):
            if row < 2:
                return [value]
            waiting.set()
            while not self.closed:
                time.sleep(0.01)
            raise RuntimeError("closed")

    member = Left(Meeting([[0, 1], [2, 3]]), 0)
    loader = opened()
    batches = loader.batches(loader.start(), None, SHARDS, share=member)
    next(batches)
    assert waiting.wait(10)
    began = time.monotonic()
    batches.close()
    assert member.closed and time.monotonic() - began < 5
