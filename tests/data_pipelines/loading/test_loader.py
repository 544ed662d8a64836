import collections
import dataclasses
import json
import re
import threading

import numpy as np
import pytest
import small_corpus
from small_corpus import phase, tokenizer

from data_pipelines.batch import arrays, batch_spec, map_arrays
from data_pipelines.convert import convert
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import RowLoader
from data_pipelines.planning.planner import InputState
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source

PHASES = (
    phase(name="short", rows=12, rows_per_step=4, mixture={"mixed": 2.0, "text": 1.0}),
    phase(
        name="long",
        rows=8,
        rows_per_step=4,
        context=1024,
        visual_tokens=900,
        max_pixels=256 * 256,
        mixture={"mixed": 1.0},
        loss_weighting="token",
    ),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root, repeats=3)
    small_corpus.write_sums(root / "text.jsonl", 100)
    return root


def open_input(root, log, phases=PHASES, names=("mixed", "text"), threads=2, policy=None, block_rows=5, seed=3):
    sources = [small_corpus.jsonl(root / f"{name}.jsonl", name) for name in names]
    indexes = [LengthIndex.open(source, tokenizer(), root / "index") for source in sources]
    return RowLoader(sources, indexes, phases, tokenizer(), seed, policy or FailurePolicy(), log, threads, block_rows)


def read(reader, state=None, local_rows=None):
    """All steps to the end of the last phase: [(phase, batch, state after it)]."""
    state = state or reader.start()
    steps = []
    while state.phase < len(PHASES):
        number = state.phase
        for batch, after in reader.batches(state, local_rows):
            steps.append((number, batch, after))
        state = steps[-1][2]
    return steps


@pytest.fixture(scope="module")
def whole(root):
    """All steps of one run without interruption."""
    return read(open_input(root, root / "whole.jsonl"))


def assert_equal(one, other):
    assert len(one) == len(other)
    for (_, batch, state), (_, other_batch, other_state) in zip(one, other, strict=True):
        assert state == other_state
        for (name, array), (_, other) in zip(arrays(batch), arrays(other_batch), strict=True):
            assert array.tobytes() == other.tobytes(), name


def test_batches_have_the_fields_of_the_schema_and_are_full(root, tmp_path):
    reader = open_input(root, tmp_path / "log.jsonl")
    steps = read(reader)
    assert [number for number, _, _ in steps] == [0, 0, 0, 1, 1]
    fills = collections.defaultdict(list)
    for number, batch, _ in steps:
        expected = batch_spec(4, PHASES[number].context, PHASES[number].visual_tokens)
        for (name, array), (_, spec) in zip(arrays(batch), arrays(expected), strict=True):
            assert array.shape == spec.shape and array.dtype == spec.dtype, name
        fills[number].append((batch.source >= 0).mean())
        assert (batch.loss_weights >= 0).all() and batch.loss_weights.sum() > 0
    assert min(np.mean(fill) for fill in fills.values()) > 0.85  # 12 rows, 5 at a time
    assert {int(s) for s in np.unique(steps[0][1].source)} == {-1, 0, 1} and {int(s) for s in np.unique(steps[-1][1].source)} == {
        -1,
        0,
    }
    assert reader.failures.failed == 0 and reader.failures.samples > 30
    assert not (tmp_path / "log.jsonl").exists()


def test_the_last_state_of_a_phase_starts_the_next_and_the_last_ends(root, tmp_path, whole):
    states = [state for _, _, state in whole]
    assert [(state.phase, state.row) for state in states] == [(0, 4), (0, 8), (1, 0), (1, 4), (2, 0)]
    assert states[2].positions[1] == states[4].positions[1] > 0  # the text source rests in the second phase
    assert states[4].positions[0] > states[2].positions[0] > 0
    with pytest.raises(DataError, match="nothing is left to read"):
        open_input(root, tmp_path / "log.jsonl").batches(states[-1])


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_the_batches(root, tmp_path, whole, threads):
    assert_equal(whole, read(open_input(root, tmp_path / "log.jsonl", threads=threads)))


def test_rows_split_over_processes_in_any_way_are_the_same_rows(root, tmp_path, whole):
    for local in ([3, 0], [1, 2], [2]):
        part = read(open_input(root, tmp_path / "log.jsonl"), local_rows=local)
        assert_equal([(number, map_arrays(lambda array, local=local: array[local], batch), state) for number, batch, state in whole], part)


@pytest.fixture(scope="module")
def containers(root, tmp_path_factory):
    """The folder of a source by its container, each with several files of the same samples."""
    folders = {"jsonl": root}
    for name in ("tar", "parquet"):
        folders[name] = tmp_path_factory.mktemp(name)
        convert(
            SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media")), folders[name], 50_000, FailurePolicy(), name
        )
        assert len(list(folders[name].glob(f"mixed/*.{name}"))) > 1
    return folders


@pytest.mark.parametrize("container", ["jsonl", "tar", "parquet"])
def test_a_run_goes_on_with_another_number_of_hosts_and_threads(containers, root, tmp_path, container):
    """Steps of 12 rows, each host with a run of them: 4 hosts of one thread read the first step, 2 of two the second, 3 of four the third."""
    phases = (phase(rows=36, rows_per_step=12, mixture={"mixed": 1.0, "text": 1.0}),)
    mixed = {"jsonl": "mixed.jsonl", "tar": "mixed/*.tar", "parquet": "mixed/*.parquet"}[container]
    settings = SourceSettings("mixed", container, str(containers[container] / mixed), str(root / "media") if container == "jsonl" else "")
    sources = [open_source(settings, tmp_path / "tables"), small_corpus.jsonl(root / "text.jsonl", "text")]
    indexes = [LengthIndex.open(source, tokenizer(), tmp_path / "index") for source in sources]

    def opened(threads):
        return RowLoader(sources, indexes, phases, tokenizer(), 3, FailurePolicy(), tmp_path / "log.jsonl", threads, 5)

    reader = opened(2)
    whole = list(reader.batches(reader.start()))
    state = reader.start()
    for (batch, after), (hosts, threads) in zip(whole, ((4, 1), (2, 2), (3, 4)), strict=True):
        parts = []
        for local in np.split(np.arange(12), hosts):
            batches = opened(threads).batches(state, local.tolist())
            parts.append(next(batches))
            batches.close()
        together = map_arrays(lambda *arrays: np.concatenate(arrays), *(part for part, _ in parts))
        assert all((mine == theirs).all() for (_, mine), (_, theirs) in zip(arrays(together), arrays(batch), strict=True))
        assert {part_after for _, part_after in parts} == {after}
        state = after


def test_any_state_resumes_exactly_in_a_new_input(root, tmp_path, whole):
    for number, (_, _, state) in enumerate(whole[:-1]):
        resumed = read(open_input(root, tmp_path / "log.jsonl"), InputState.from_json(state.to_json()))
        assert_equal(whole[number + 1 :], resumed)


def test_another_seed_gives_other_rows(root, tmp_path):
    one, other = (next(open_input(root, tmp_path / "log.jsonl", seed=seed).batches(InputState(0, 0, 0, (0, 0))))[0] for seed in (1, 2))
    assert (one.inputs.tokens != other.inputs.tokens).any()


def test_keys_name_the_samples_of_a_row(root, tmp_path):
    reader = open_input(root, tmp_path / "log.jsonl")
    with pytest.raises(DataError, match="is not being read"):
        reader.keys(0, 0)
    batches = reader.batches(reader.start())
    batch, _ = next(batches)
    for row in range(4):
        keys = reader.keys(0, row)
        sources = batch.source[row]
        assert ("text/" in "".join(keys)) == bool((sources == 1).any())
        documents = (batch.inputs.positions[row, :, 0] == 0) & (sources >= 0)
        assert documents.sum() == len(keys)
        assert all(key.startswith(("mixed/mixed.jsonl:", "text/text.jsonl:")) for key in keys)
    batches.close()


def test_closing_stops_the_threads(root, tmp_path):
    before = set(threading.enumerate())
    batches = open_input(root, tmp_path / "log.jsonl", threads=3).batches(InputState(0, 0, 0, (0, 0)))
    next(batches)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert started
    batches.close()
    for thread in started:
        thread.join()


def truncated_corpus(root, bad, good=20):
    """Pictures of noise of which the first `bad` end early: their headers are whole, so only decoding finds out."""
    rows = []
    for number in range(bad + good):
        path = root / f"media/{number}.jpg"
        small_corpus.write_image(path, 64, 64, number)
        if number < bad:
            path.write_bytes(path.read_bytes()[:-600])
        rows.append({"image": path.name, "conversations": small_corpus.turns(f"<image> {number}?")})
    return small_corpus.write_jsonl(root / "mixed.jsonl", rows)


ONE = (phase(rows=8, rows_per_step=4, context=128, visual_tokens=100),)


def test_a_sample_that_fails_to_decode_is_left_out_counted_and_named_once(tmp_path):
    truncated_corpus(tmp_path, bad=3)
    policy = FailurePolicy(max_rate=0.5)
    reader = open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=policy)
    placed = 0
    for batch, _ in reader.batches(reader.start()):
        starts = ((batch.inputs.positions[..., 0] == 0) & (batch.source >= 0)).sum()
        placed += int(starts)
        images = [np.count_nonzero(slots >= 0) for slots in batch.inputs.visual_slot]
        assert all(count % 4 == 0 for count in images)  # 64 x 64 pixels are four visual tokens: no image in part
    failures = reader.failures
    assert failures.reasons == {"truncated": failures.failed} and failures.failed >= 3
    assert placed == failures.samples - failures.failed
    named = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted((entry["source"], entry["key"], entry["reason"]) for entry in named) == [
        ("mixed", f"mixed.jsonl:{line}", "truncated") for line in (1, 2, 3)
    ]
    again = open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=policy)
    assert len(list(again.batches(again.start()))) == 2
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (FailurePolicy(max_rate=0.2, max_run=1000, minimum_samples=10), r"more than 20.00% of the samples failed: .*truncated"),
        (FailurePolicy(max_rate=1.0, max_run=4, minimum_samples=10), r"5 samples failed one after the other .*truncated"),
    ],
)
def test_too_many_failures_stop_with_a_summary(tmp_path, policy, message):
    truncated_corpus(tmp_path, bad=19, good=1)
    reader = open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=policy)
    with pytest.raises(DataError, match=message) as stopped:
        list(reader.batches(reader.start()))
    assert str(tmp_path / "log.jsonl") in str(stopped.value)


def test_an_index_that_excludes_too_much_stops_at_once(tmp_path):
    (tmp_path / "media").mkdir()
    good = {"conversations": small_corpus.turns("x")}
    small_corpus.write_jsonl(tmp_path / "mixed.jsonl", [good, "{", {"image": "none.png", "conversations": small_corpus.turns("<image>")}])
    with pytest.raises(DataError, match=r"2 of the 3 samples of source 'mixed' cannot be used \(1 broken_json, 1 missing_file\)"):
        open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=FailurePolicy(max_rate=0.5, minimum_samples=3))
    reader = open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=FailurePolicy(max_rate=0.5, minimum_samples=4))
    assert len(list(reader.batches(reader.start()))) == 2


def test_a_file_that_changed_since_it_was_indexed_is_left_out(tmp_path):
    truncated_corpus(tmp_path, bad=0)
    reader = open_input(tmp_path, tmp_path / "log.jsonl", ONE, ("mixed",), policy=FailurePolicy(max_rate=0.5))
    small_corpus.write_image(tmp_path / "media/5.jpg", 64, 128)
    (tmp_path / "media/6.jpg").unlink()
    list(reader.batches(reader.start()))
    assert set(reader.failures.reasons) == {"changed", "missing_file"}
    assert "the next start measures it again" in (tmp_path / "log.jsonl").read_text()


def test_samples_too_long_for_a_phase_are_counted_and_named(root, tmp_path):
    rows = [{"conversations": small_corpus.turns("word " * (400 if number == 4 else 3))} for number in range(9)]
    (tmp_path / "media").mkdir()
    small_corpus.write_jsonl(tmp_path / "mixed.jsonl", rows)
    phases = (phase(rows=4, context=128), phase(name="q", rows=4, context=4096))
    reader = open_input(tmp_path, tmp_path / "log.jsonl", phases, ("mixed",))
    assert [{name: found.total for name, found in reader.layout(number).too_long.items()} for number in reader.laid_out] == [
        {"mixed": 1},
        {"mixed": 0},
    ]
    list(reader.batches(reader.start()))
    (named,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (named["key"], named["reason"]) == ("mixed.jsonl:5", "too_long")
    assert re.search(r"phase 'p': context \d{3} of 128; raise the budget", named["message"]), named["message"]
    assert reader.failures.failed == 0


def test_many_samples_are_looked_at_when_their_phase_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.loading.loader.LAID_OUT_AT_ONCE", 0)
    rows = [{"conversations": small_corpus.turns("word " * (400 if number == 4 else 3))} for number in range(9)]
    (tmp_path / "media").mkdir()
    small_corpus.write_jsonl(tmp_path / "mixed.jsonl", rows)
    phases = (phase(rows=4, context=4096), phase(name="q", rows=4, context=128))
    reader = open_input(tmp_path, tmp_path / "log.jsonl", phases, ("mixed",))
    assert reader.laid_out == []
    *_, (_, state) = reader.batches(reader.start())
    assert reader.laid_out == [0] and state.phase == 1
    list(reader.batches(state))
    assert reader.laid_out == [0, 1] and reader.layout(1).too_long["mixed"].total == 1
    assert json.loads((tmp_path / "log.jsonl").read_text())["key"] == "mixed.jsonl:5"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"mixd": 1.0}}, "names the source 'mixd'"),
        ({"mixture": {"mixed": -1.0}}, "must be positive"),
        ({"mixture": {}}, "empty mixture"),
        ({"context": 4}, "no sample of source 'mixed' fits phase"),
    ],
)
def test_impossible_phases_are_refused_before_the_first_row_even_late_ones(root, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_input(root, tmp_path / "log.jsonl", (PHASES[0], dataclasses.replace(PHASES[1], **changes)))


def test_impossible_arguments_are_refused(root, tmp_path):
    reader = open_input(root, tmp_path / "log.jsonl")
    for state, local, message in (
        (InputState(0, 2, 0, (0, 0)), None, "the state's row 2 is not the first of a step: phase 'short' has 4 rows a step"),
        (InputState(0, 0, 0, (0,)), None, "is not a state"),
        (reader.start(), [4], "must be among the 4 rows"),
        (reader.start(), [], "at least one"),
    ):
        with pytest.raises(DataError, match=message):
            reader.batches(state, local)
    for rows_per_step in (5, 0):
        with pytest.raises(DataError, match=f"the 12 rows of phase 'short' are not whole steps of {rows_per_step} rows"):
            open_input(root, tmp_path / "log.jsonl", (dataclasses.replace(PHASES[0], rows_per_step=rows_per_step),))
    with pytest.raises(DataError, match="no phases"):
        open_input(root, tmp_path / "log.jsonl", ())
    with pytest.raises(DataError, match="each once"):
        open_input(root, tmp_path / "log.jsonl", names=("mixed", "mixed"))
    with pytest.raises(DataError, match="threads"):
        open_input(root, tmp_path / "log.jsonl", threads=0)
    with pytest.raises(DataError, match="max_rate"):
        FailurePolicy(max_rate=1.5)


def test_samples_that_the_index_excludes_are_named_once_in_the_same_log(tmp_path):
    (tmp_path / "media").mkdir()
    good = [{"conversations": small_corpus.turns(f"What is {i}?")} for i in range(20)]
    bad = [{"conversations": [{"from": "human", "value": "Nobody answers."}]}, {"conversations": [{"from": "robot", "value": "x"}]}]
    small_corpus.write_jsonl(tmp_path / "text.jsonl", [*good, *bad])
    phases = (phase(rows=4, mixture={"text": 1.0}),)
    for _ in range(2):  # a resumed run names nothing again
        open_input(tmp_path, tmp_path / "log.jsonl", phases, ("text",), policy=FailurePolicy(max_rate=0.5))
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert [(line["key"], line["reason"]) for line in lines] == [("text.jsonl:21", "no_answer"), ("text.jsonl:22", "unknown_role")]
