import json

import pytest

from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.schema import DataError


@pytest.mark.parametrize(
    ("failed", "samples", "stops"),
    [
        (1, 1, False),
        (19, 19, False),  # fewer than 20 tell nothing
        (1, 20, False),
        (2, 20, True),
        (15, 40, True),
        (3, 100, False),
        (5, 100, True),
        (100, 10_000, False),
        (131, 10_000, True),
        (10_000, 1_000_000, False),
        (10_400, 1_000_000, True),
    ],
)
def test_a_share_of_the_samples_seen_so_far_stops_beyond_chance(failed, samples, stops):
    assert FailurePolicy(max_rate=0.01).exceeded(failed, samples) is stops


@pytest.mark.parametrize(
    ("failed", "samples", "stops"),
    [(19, 19, False), (1, 20, False), (2, 20, True), (1, 100, False), (100, 10_000, False), (101, 10_000, True)],
)
def test_the_share_of_a_whole_source_is_exact_but_for_one_row(failed, samples, stops):
    assert FailurePolicy(max_rate=0.01).exceeded(failed, samples, whole=True) is stops


def test_no_failure_is_allowed_at_a_rate_of_zero_and_any_at_one():
    for whole in (False, True):
        assert FailurePolicy(max_rate=0.0).exceeded(1, 20, whole) and not FailurePolicy(max_rate=0.0).exceeded(0, 20, whole)
        assert not FailurePolicy(max_rate=1.0).exceeded(20, 20, whole)


def counted(path):
    failures = Failures(path, FailurePolicy(max_rate=0.5))
    for number in range(6):
        failures.succeed("a" if number else "b")
    failures.fail("a", "a:1", "missing_file", "gone")
    failures.fail("b", "b:1", "too_dark", "dark")
    failures.fail("b", "b:2", "too_dark", "dark")
    return failures


def test_counts_by_source_and_reason_live_in_a_state(tmp_path):
    failures = counted(tmp_path / "log.jsonl")
    assert (failures.samples, failures.failed) == (9, 3)
    assert failures.seen == {"a": 6, "b": 3} and failures.reasons == {"too_dark": 2, "missing_file": 1}
    assert failures.by_source == {("a", "missing_file"): 1, ("b", "too_dark"): 2}
    again = Failures(tmp_path / "other.jsonl", FailurePolicy(max_rate=0.5, max_run=3))
    again.restore(json.loads(json.dumps(failures.state())))
    assert again.state() == failures.state() and again.reasons == failures.reasons
    with pytest.raises(DataError, match="4 samples failed one after the other"):  # the run goes on where it stood
        again.fail("a", "a:2", "missing_file", "gone")


def test_restored_counts_judge_as_if_there_had_been_no_restart(tmp_path):
    state = {"seen": {"a": 39}, "failed": [["a", "truncated", 2]], "run": 0}
    failures = Failures(tmp_path / "log.jsonl", FailurePolicy(max_rate=0.01))
    failures.restore(state)
    with pytest.raises(DataError, match=r"more than 1.00% of the samples failed: 3 of 40 samples failed \(3 truncated\)"):
        failures.fail("a", "a:9", "truncated", "cut")


@pytest.mark.parametrize(
    "state",
    [{}, {"seen": {"a": -1}, "failed": [], "run": 0}, {"seen": {}, "failed": [["a"]], "run": 0}, {"seen": [], "failed": [], "run": 0}],
)
def test_what_is_no_state_is_refused(tmp_path, state):
    with pytest.raises(DataError, match="not the counts of failed samples"):
        Failures(tmp_path / "log.jsonl", FailurePolicy()).restore(state)


def test_names_in_the_log_are_shown_as_text_and_read_back(tmp_path):
    """A key is a file name of an archive: no terminal that shows the log obeys it, and the same sample is written once."""
    key = "a\x1b]0;x\x07\x9b2J\u202e 猫"
    for _ in range(2):
        Failures(tmp_path / "log.jsonl", FailurePolicy()).name("s", key, "bad", "m")
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert line.isprintable() and "猫" in line and json.loads(line)["key"] == key
