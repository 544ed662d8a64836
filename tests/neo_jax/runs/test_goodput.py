"""Every second of a run goes into one bucket, over all of its starts."""

import json
import pathlib
import threading
import time

import jax
import pytest

from neo_jax.runs import goodput
from neo_jax.runs.goodput import BUCKETS, Clock, process_age, read_goodput

TRACE, LOWER, COMPILE = goodput.COMPILING


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


def seconds(directory: pathlib.Path) -> dict[str, float]:
    found, problems = read_goodput(directory)
    assert problems == []
    return {bucket: pytest.approx(value, abs=1e-6) for bucket, value in found.seconds.items() if value > 1e-3}


def test_each_second_is_in_one_bucket(tmp_path):
    now = Time()
    with Clock(age=2.0, now=now) as clock:
        now.passes(3)  # start
        clock.write_to(tmp_path)
        with clock.during("restore"):
            now.passes(5)
        with clock.during("step"):
            for number in (1, 2):
                clock.step(number)
                with clock.during("data"):
                    now.passes(1)
                now.passes(10)
                with clock.during("save"):
                    now.passes(4)
        with pytest.raises(KeyError), clock.during("evaluation"):
            now.passes(7)
            raise KeyError
        now.passes(1)  # start again: the block before it is over
    assert seconds(tmp_path) == {"start": 6, "restore": 5, "data": 2, "step": 20, "save": 8, "evaluation": 7}
    found, _ = read_goodput(tmp_path)
    assert found.total == pytest.approx(48) == pytest.approx(found.ended - found.began)
    assert found.share == pytest.approx(20 / 48)
    assert tuple(found.seconds) == BUCKETS


def test_compilations_are_counted_once_wherever_they_fall(tmp_path):
    """A trace holds the traces of the functions that it calls; what another thread compiles takes none of the run's time."""
    now = Time()
    with Clock(now=now) as clock:
        clock.write_to(tmp_path)
        with clock.during("step"):
            now.passes(1)
            now.passes(3)
            jax.monitoring.record_event_duration_secs(TRACE, 3)  # of an inner function
            now.passes(2)
            jax.monitoring.record_event_duration_secs(TRACE, 5)  # of the outer one, which holds it
            now.passes(4)
            jax.monitoring.record_event_duration_secs(LOWER, 4)
            now.passes(20)
            jax.monitoring.record_event_duration_secs(COMPILE, 20)
            jax.monitoring.record_event_duration_secs("/jax/compilation_cache/cache_retrieval_time_sec", 20)
            other = threading.Thread(target=jax.monitoring.record_event_duration_secs, args=(COMPILE, 100))
            other.start()
            other.join()
            now.passes(6)
    assert seconds(tmp_path) == {"step": 7, "compile": 29}


def test_jax_still_says_when_it_compiles(tmp_path):
    """The names of the events, in the installed jax: a real program, compiled within a step."""
    with Clock() as clock:
        clock.write_to(tmp_path)
        with clock.during("step"):
            jax.jit(lambda x: (x * 3.25).sum() + time.monotonic())(1.0)  # a constant that no cache has
    assert read_goodput(tmp_path)[0].seconds["compile"] > 0


def start(directory: pathlib.Path, now: Time, steps: range) -> None:
    with Clock(now=now) as clock:
        clock.write_to(directory)
        with clock.during("step"):
            for number in steps:
                clock.step(number)
                with clock.during("data"):
                    now.passes(1)
                now.passes(2)


def test_steps_that_are_done_again_are_replayed_and_the_time_between_starts_is_idle(tmp_path, monkeypatch):
    moment = Time()
    monkeypatch.setattr(goodput.time, "time", moment)
    now = Time()
    start(tmp_path, now, range(1, 6))  # the fifth may have been cut short
    moment.passes(15 + 100)
    start(tmp_path, now, range(3, 8))
    assert seconds(tmp_path) == {"data": 8, "step": 16, "replayed": 6, "idle": 100}
    found, _ = read_goodput(tmp_path)
    assert (found.starts, found.step) == (2, 7)
    assert found.total == pytest.approx(130) == pytest.approx(found.ended - found.began)


def test_a_step_back_within_a_start_replays_too(tmp_path):
    now = Time()
    with Clock(now=now) as clock, clock.during("step"):
        clock.write_to(tmp_path)
        for number in (1, 2, 3, 2, 3, 4):
            clock.step(number)
            now.passes(1)
    assert seconds(tmp_path) == {"step": 4, "replayed": 2}


def test_the_edge_of_a_phase_replays_nothing(tmp_path):
    """The loop asks for a step that the phase does not have, and for the same one of the next phase."""
    now = Time()
    with Clock(now=now) as clock, clock.during("step"):
        clock.write_to(tmp_path)
        for number in (1, 2, 2, 3):
            clock.step(number)
            now.passes(1)
    assert seconds(tmp_path) == {"step": 4}


def test_a_killed_start_loses_what_came_after_its_last_line(tmp_path):
    """The thread writes while the run is in one bucket; a line cut by the kill is left out, and spoils no other."""
    with Clock() as clock:
        clock.write_to(tmp_path)
        with clock.during("step"):
            deadline = time.monotonic() + 30
            clock._wake.set()
            while not (tmp_path / goodput.NAME).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
    whole, _ = read_goodput(tmp_path)
    with (tmp_path / goodput.NAME).open("a") as file:
        file.write('{"began": 1, "ti')
    found, problems = read_goodput(tmp_path)
    assert found == whole and "1 lines cannot be read" in problems[0]
    start(tmp_path, Time(), range(1, 3))
    assert read_goodput(tmp_path)[0].starts == 2


def test_a_full_disk_delays_lines_and_loses_nothing(tmp_path, monkeypatch, caplog):
    calls = []

    def full(path, values):
        calls.append(values)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")
        real(path, values)

    real = goodput.append_line
    monkeypatch.setattr(goodput, "append_line", full)
    now = Time()
    with Clock(now=now) as clock:
        clock._path = tmp_path / goodput.NAME
        for _ in range(3):
            with clock.during("save"):
                now.passes(5)
            clock._line()
        clock._path = None
    assert seconds(tmp_path) == {"save": 15}
    assert len([each for each in caplog.messages if "cannot be written" in each]) == 1


def test_a_clock_that_was_set_back_is_named_and_takes_no_time(tmp_path):
    lines = [
        {"began": 100.0, "time": 200.0, "step": 1, "seconds": {"step": 100.0}},
        {"began": 150.0, "time": 160.0, "step": 2, "seconds": {"step": 10.0}},
        {"began": 150.0, "time": 170.0, "step": "x", "seconds": []},
    ]
    (tmp_path / goodput.NAME).write_text("".join(json.dumps(each) + "\n" for each in lines))
    found, problems = read_goodput(tmp_path)
    assert found.seconds["idle"] == 0 and found.total == 110
    assert "set back" in problems[1] and "1 lines" in problems[0]


def test_no_file_no_starts(tmp_path):
    found, problems = read_goodput(tmp_path)
    assert (found.starts, found.total, found.share, problems) == (0, 0, 0, [])


def test_the_age_of_this_process():
    assert 0 < process_age() < 24 * 3600
