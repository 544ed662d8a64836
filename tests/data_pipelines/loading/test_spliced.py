"""A mixture or limit that changes while a phase is read: the block at hand is finished as planned, then the new settings hold."""

import collections
import dataclasses

import pytest
import small_corpus
from small_corpus import phase, tokenizer

from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import RowLoader
from data_pipelines.loading.spliced import Earlier, Limits
from data_pipelines.planning.planner import InputState
from data_pipelines.schema import DataError
from data_pipelines.sources import open_source

NAMES = ("a", "b", "c")
BEFORE = phase(rows=48, rows_per_step=2, context=128, mixture={"a": 3.0, "b": 1.0})
NO_LIMITS = dict.fromkeys(("a", "b"), Limits((), 0.0))
BLOCK = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for name in NAMES:
        rows = [{"conversations": small_corpus.turns(f"What is {i} and {name}?", f"{i}{name}.")} for i in range(400)]
        small_corpus.write_jsonl(root / f"{name}.jsonl", rows)
    (root / "media").mkdir()
    return root


def loader(root, settings, names=("a", "b"), earlier=(), **limits):
    sources = [small_corpus.jsonl(root / f"{name}.jsonl", name) for name in names]
    sources = [open_source(dataclasses.replace(source.settings, **limits.get(source.name, {}))) for source in sources]
    indexes = [LengthIndex.open(source, tokenizer(), root / "index") for source in sources]
    result = RowLoader(sources, indexes, [settings], tokenizer(), 3, FailurePolicy(), root / "log.jsonl", 2, BLOCK)
    result.plan_earlier(earlier)
    return result


def read(reader, state=None, steps=None):
    """The keys of each row, and the state after the last step."""
    state = state or reader.start()
    rows = []
    for number, (_, after) in enumerate(reader.batches(state), 1):
        rows += [reader.keys(0, state.row + offset) for offset in range(2)]
        state = after
        if number == steps:
            break
    return rows, state


def assert_nothing_is_repeated_or_lost(rows, state, names):
    """Every source's samples were read once an epoch: as many as its position says."""
    counts = collections.Counter(key for row in rows for key in row)
    for name, position in zip(names, state.positions, strict=True):
        own = {key: count for key, count in counts.items() if key.startswith(f"{name}/")}
        assert sum(own.values()) == position
        whole, rest = divmod(position, 400)
        assert set(own.values()) <= {whole, whole + 1} and sum(count == whole + 1 for count in own.values()) == rest


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 21, 23])
def test_a_block_is_finished_as_it_was_planned(root, steps):
    unchanged, _ = read(loader(root, BEFORE))
    rows, state = read(loader(root, BEFORE), steps=steps)
    after = dataclasses.replace(BEFORE, mixture={"b": 1.0, "c": 2.0})
    names = ("c", "a", "b")  # the new source stands first
    state = dataclasses.replace(state, positions=(0, *state.positions))
    changed = loader(root, after, names)
    until = min(changed.next_block(state), BEFORE.rows)
    assert until == min(-(-2 * steps // BLOCK) * BLOCK, 48)
    changed.plan_earlier([Earlier("p", until, BEFORE.mixture, NO_LIMITS)])
    rest, end = read(changed, state)
    assert rows + rest[: until - 2 * steps] == unchanged[:until]
    later = [key for row in rest[until - 2 * steps :] for key in row]
    assert all(key.startswith(("b/", "c/")) for key in later) and bool(later) == (until < 48)
    assert_nothing_is_repeated_or_lost(rows + rest, end, names)
    if until < 48:
        again = loader(root, after, names, [Earlier("p", until, BEFORE.mixture, NO_LIMITS)])  # resumed before and behind the change
        states = [after_step for _, after_step in changed.batches(state)]
        for resumed in (states[0], states[-2]):
            assert read(again, resumed)[0] == rest[resumed.row - state.row :]


@pytest.mark.parametrize("rows_before", [(32,), (30, 44)])  # of the phase, each time it ended; 30 are whole blocks, 32 are not
def test_a_phase_that_gets_more_steps_after_its_end(root, rows_before):
    """Nothing is repeated; a later resume, from before the end and from behind it, gives the same rows."""
    rows, states, state, ends = [], [], None, []
    for total in (*rows_before, 60):
        reader = loader(root, dataclasses.replace(BEFORE, rows=total))
        reader.plan_continued({"p": ends})
        new, end = read(reader, state)
        assert len(rows) + len(new) == total and end.phase == 1
        states += [after for _, after in reader.batches(state or reader.start())][:-1]
        rows, state, ends = rows + new, InputState(0, total, 0, end.positions), [*ends, total]
    assert_nothing_is_repeated_or_lost(rows, state, ("a", "b"))
    assert rows[: rows_before[0]] == read(loader(root, dataclasses.replace(BEFORE, rows=rows_before[0])))[0]
    whole = loader(root, dataclasses.replace(BEFORE, rows=60))
    whole.plan_continued({"p": rows_before})
    for resumed in (states[2], states[rows_before[0] // 2 - 2], states[-1], states[-5]):
        assert read(whole, resumed)[0] == rows[resumed.row :]


def test_limits_change_and_change_back(root):
    """`keep` and max_epochs from the second block on, another mixture from the fourth."""
    first, state = read(loader(root, BEFORE), steps=3)
    earlier = [Earlier("p", 10, BEFORE.mixture, NO_LIMITS)]
    limited = loader(root, BEFORE, earlier=earlier, a={"keep": ("tokens >= 28",)}, b={"max_epochs": 0.05})
    second, state = read(limited, state, steps=10)
    earlier.append(Earlier("p", 30, BEFORE.mixture, {"a": Limits(("tokens >= 28",), 0.0), "b": Limits((), 0.05)}))
    third, state = read(loader(root, dataclasses.replace(BEFORE, mixture={"a": 1.0}), earlier=earlier), state)
    rows = first + second + third
    of_b = [number for number, row in enumerate(rows) if any(key.startswith("b/") for key in row)]
    assert 10 < max(of_b) < 30
    counts = collections.Counter(key for row in rows for key in row)
    assert set(counts.values()) == {1}
    short = [key for row in rows[10:30] for key in row if key.startswith("a/") and int(key.rpartition(":")[2]) <= 10]
    assert not short, "those of one digit have 27 tokens"


def test_what_is_written_beside_a_run_is_read_back():
    earlier = Earlier("p", 30, {"a": 1.0}, {"a": Limits(("tokens > 3",), 2.0)})
    assert Earlier.from_json(earlier.to_json()) == earlier
    for broken in ({}, [], {"phase": "p", "until": 1, "mixture": {}, "limits": {"a": [1]}}):
        with pytest.raises(DataError, match="not what rows were planned by"):
            Earlier.from_json(broken)
