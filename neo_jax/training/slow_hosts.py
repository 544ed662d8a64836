"""Names a process whose rows come late: in every step, all others wait for it. A host that computes slowly cannot be told apart from here."""

from __future__ import annotations

import collections
import pathlib
import socket
import statistics
import time

from data_pipelines.printable import printable
from neo_jax.processes import exchange
from neo_jax.training.health import write_incident

STEPS = 20  # over which times are averaged
MIN_STEPS = 4  # the first ones of a phase wait for what all processes begin
EVERY = 5  # steps between comparisons, for which all processes wait for each other
SHARE = 0.1  # of a step's time that a process must wait for its rows to be called slow
TIMES = 2  # and so many times as long as the median of all processes


class SlowHosts:
    """The time that this process waits for its rows, compared with the other processes'.

    Args:
      directory: of the run; its incidents take a line for each slow process.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._ends: collections.deque[float] = collections.deque(maxlen=STEPS + 1)
        self._waited: collections.deque[float] = collections.deque(maxlen=STEPS)
        self._named: set[int] = set()

    def step_ended(self, waited: float, step: int, phase: str, compares: bool) -> list[str]:
        """Notes a step; returns a sentence if a process is found to be slow that was not before. Every process calls it after the same steps.

        Args:
          waited: seconds that the step waited for its rows in this process.
          step, phase: of the run.
          compares: whether the step is logged; if EVERY divides its number, processes exchange their times.
        """
        self._ends.append(time.monotonic())
        self._waited.append(waited)
        if not compares or step % EVERY or len(self._ends) <= MIN_STEPS:
            return []
        seconds = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        mine = statistics.fmean(list(self._waited)[1:])  # the first step's wait came before its time is counted
        hosts, waits = zip(*exchange.gather([socket.gethostname(), mine]), strict=True)
        if (slow := slowest(waits, seconds)) is None or slow in self._named:
            return []
        self._named.add(slow)
        sentence = (
            f"process {slow} on {printable(hosts[slow])} is slow: it waits {waits[slow]:.2f} s of a step's {seconds:.2f} s for its rows, the median "
            f"of all processes is {statistics.median_low(waits):.2f} s; the others wait for it"
        )
        if exchange.is_first():
            write_incident(self._directory, step, phase, "slow process", reason=sentence)
        return [sentence]


def slowest(waits: tuple[float, ...], seconds: float) -> int | None:
    """Returns the process that waits longest for its rows, if it is far from usual.

    Args:
      waits: mean seconds that each process waits in a step.
      seconds: mean seconds of a step.
    """
    longest = max(waits)
    usual = statistics.median_low(waits)  # of two processes: the faster one's
    return waits.index(longest) if longest > SHARE * seconds and longest > TIMES * usual else None
