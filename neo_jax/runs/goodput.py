"""What the wall-clock time of a run went into, over all of its starts: goodput.jsonl in its directory, only ever appended to.

A line says what the seconds since the line before went into:

  {"began": 1700000000.0, "time": 1700000030.0, "step": 17, "seconds": {"start": 4.1, "compile": 9.2, "data": 0.3, "step": 16.4}}

`began` tells starts apart. Within a start time is measured by a clock that cannot jump, so its lines add up to `time` less `began`. The time between
the last line of a start and the beginning of the next is idle. docs/observe.md says what each bucket means.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import jax

from neo_jax.runs.lines import append_line, read_objects

NAME = "goodput.jsonl"
BUCKETS = ("start", "compile", "data", "step", "save", "restore", "evaluation", "replayed", "idle")
REPLAYABLE = ("data", "step")  # buckets whose time counts as replayed in steps that were done before
LINE_SECONDS = 30.0  # a process that is killed loses no more than this
COMPILING = (  # jax's names of what it does before a program runs for the first time; a program from the compile cache passes through them too
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

logger = logging.getLogger(__name__)


class Clock:
    """Counts the seconds of one start into buckets, inside a `with` block. The run's thread switches it; another one writes the lines.

    Seconds in which jax traces, lowers or compiles a program in the run's thread count as "compile", whatever bucket they fall into.

    Args:
      age: seconds for which the process has run already.
      now: returns seconds of a clock that cannot jump, for tests.
    """

    def __init__(self, age: float = 0.0, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._first = now() - age
        self._began = time.time() - age
        self._since = self._first  # up to which time is counted
        self._written = self._first
        self._bucket, self._step, self._done_before = "start", 0, 0
        self._seconds: dict[str, float] = {}  # not yet written
        self._compiled: list[tuple[float, float]] = []  # (begin, seconds) of what was compiled within the present bucket
        self._path: pathlib.Path | None = None
        self._changed, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._owner = threading.get_ident()
        self._warned = False

    def __enter__(self) -> Clock:
        self._owner = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)
        self._closed = True
        self._wake.set()
        if self._path is not None:
            self._thread.join(timeout=5.0)  # a file system that stalls must not keep the process

    def write_to(self, directory: pathlib.Path) -> None:
        """Begins to write lines, and reads which steps earlier starts have done."""
        self._path = directory / NAME
        done, _ = read_goodput(directory)
        self.done_before(done.step - 1)  # the last one may have been cut short
        self._thread = threading.Thread(target=self._write, name="goodput", daemon=True)
        self._thread.start()
        self._wake.set()

    def done_before(self, step: int) -> None:
        """Says that steps up to this one were done before: when they are done again, they are replayed."""
        self._done_before = max(self._done_before, step)

    @contextlib.contextmanager
    def during(self, bucket: str) -> Iterator[None]:
        """Counts a `with` block into a bucket; the one around it goes on afterwards."""
        before = self._switch(bucket)
        try:
            yield
        finally:
            self._switch(before)

    def step(self, number: int) -> None:
        """Says which step of the run is being done."""
        self._switch(self._bucket)
        if number < self._step:  # the run went back within this start; the end of a phase names the first step of the next twice
            self.done_before(self._step)
        self._step = number

    def _switch(self, bucket: str) -> str:
        with self._changed:
            self._count()
            before, self._bucket = self._bucket, bucket
            self._compiled.clear()
            if before not in REPLAYABLE and before != bucket and self._since - self._written > 1:
                self._wake.set()
        return before

    def _count(self) -> None:
        now = self._now()
        self._add(self._kind(), now - self._since)
        self._since = now

    def _kind(self) -> str:
        return "replayed" if self._bucket in REPLAYABLE and 0 < self._step <= self._done_before else self._bucket

    def _add(self, bucket: str, seconds: float) -> None:
        self._seconds[bucket] = self._seconds.get(bucket, 0.0) + seconds

    def _heard(self, event: str, duration_secs: float, **_: object) -> None:
        """Moves the seconds of a compilation that has just ended from the present bucket; what was compiled within it is moved already."""
        if event not in COMPILING or threading.get_ident() != self._owner:
            return
        with self._changed:
            self._count()
            begin, inside = self._since - duration_secs, 0.0
            while self._compiled and self._compiled[-1][0] >= begin:
                inside += self._compiled.pop()[1]
            self._compiled.append((begin, duration_secs))
            self._add("compile", duration_secs - inside)
            self._add(self._kind(), inside - duration_secs)

    def _write(self) -> None:
        while not self._closed:
            self._wake.wait(LINE_SECONDS)
            self._wake.clear()
            self._line()
        self._line()

    def _line(self) -> None:
        assert self._path is not None
        with self._changed:
            self._count()
            written, self._seconds, self._written = self._seconds, {}, self._since
            moment, step = self._began + self._since - self._first, self._step
        if not written:
            return
        try:
            append_line(self._path, {"began": self._began, "time": moment, "step": step, "seconds": written})
        except OSError as error:  # the next line has these seconds too
            with self._changed:
                for bucket, seconds in written.items():
                    self._add(bucket, seconds)
            if not self._warned:
                logger.warning("%s cannot be written (%s): the time of the run is counted, and written once it can be", self._path, error)
            self._warned = True


@dataclasses.dataclass(frozen=True)
class Goodput:
    """What a run's time went into.

    Attributes:
      seconds: by bucket, all of BUCKETS; their sum is the wall-clock time from the beginning of the first start to the last line.
      starts: number of starts.
      step: last step that any start was doing; it may not have ended.
      began, ended: beginning of the first start, and time of the last line, in seconds since 1970; 0 without a line.
    """

    seconds: Mapping[str, float]
    starts: int = 0
    step: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """The share of the time that went into steps that count."""
        return self.seconds["step"] / self.total if self.total else 0.0


def read_goodput(directory: pathlib.Path) -> tuple[Goodput, list[str]]:
    """Returns what the time of a run went into, and a sentence for each thing that is wrong with its file. Without a file there are no starts."""
    path = directory / NAME
    seconds = dict.fromkeys(BUCKETS, 0.0)
    began = ended = first = 0.0
    starts = step = 0
    try:
        lines, damaged = read_objects(path)
    except OSError as error:
        return Goodput(seconds), [f"{path} cannot be read ({error.strerror}): the run's use of time is not shown"]
    problems, back = [], 0.0
    for values in lines:
        try:
            begin, end, number = float(values["began"]), float(values["time"]), int(values["step"])
            spent = {bucket: float(value) for bucket, value in values["seconds"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
            continue
        if begin != began:
            if starts and begin < ended:
                back += ended - begin
            seconds["idle"] += max(0.0, begin - ended) if starts else 0.0
            first, starts, began = first or begin, starts + 1, begin
        for bucket, value in spent.items():
            seconds[bucket] = seconds.get(bucket, 0.0) + value
        ended, step = end, max(step, number)
    if damaged:
        problems.append(f"{path}: {damaged} lines cannot be read; their time is left out")
    if back > 1:
        problems.append(f"{path}: a start begins {back:.0f} s before the end of the one before: the computer's clock was set back")
    return Goodput(seconds, starts, step, first, ended), problems


def process_age() -> float:
    """Returns for how many seconds this process has run; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0
