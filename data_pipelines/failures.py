"""Handling of samples that cannot be used: they are skipped, counted and logged; too many of them stop the work."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import DataError


@dataclasses.dataclass(frozen=True)
class FailurePolicy:
    """Limits on skipped samples; beyond them the work stops.

    Attributes:
      max_rate: largest share of samples that may fail, in [0, 1].
      max_run: largest number of consecutive samples that may fail.
      minimum_samples: number of samples that must be seen before `max_rate` is checked.
    """

    max_rate: float = 0.01
    max_run: int = 100
    minimum_samples: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.max_rate <= 1 or self.max_run < 1 or self.minimum_samples < 1:
            raise DataError(f"{self}: max_rate lies in [0, 1], max_run and minimum_samples are at least 1")

    def exceeded(self, failed: int, samples: int, whole: bool = False) -> bool:
        """Returns whether too many samples failed: of a whole source (`whole`), or of the samples seen so far.

        Of n samples seen so far, at most max_rate n + 3 sqrt(max_rate n) may fail: three standard deviations above the share, so that
        one bad row among the first 20 does not stop a run, but 15 of 40 do. Of a whole source, at most max_rate n may fail, or one if that
        is more (none if max_rate is 0).
        """
        expected = self.max_rate * samples
        allowed = max(expected, 1.0 if self.max_rate else 0.0) if whole else expected + 3 * math.sqrt(expected)
        return samples >= self.minimum_samples and failed > allowed


class Failures:
    """Counts samples and failures, and writes each failure once to a file of JSON lines: source, key, reason, message.

    Args:
      path: path of the log. An existing log is continued; failures that it already contains are not written again.
      policy: limits at which the work stops.

    Attributes:
      seen: number of samples by source, including failed ones.
      by_source: number of failures by source and reason.
    """

    def __init__(self, path: pathlib.Path, policy: FailurePolicy):
        self.policy = policy
        self.seen: collections.Counter[str] = collections.Counter()
        self.by_source: collections.Counter[tuple[str, str]] = collections.Counter()
        self._path = path
        self._run = 0
        self._named = _named(path)

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return self.seen.total()

    @property
    def failed(self) -> int:
        """Number of failed samples."""
        return self.by_source.total()

    @property
    def reasons(self) -> collections.Counter[str]:
        """Number of failures by reason, over all sources."""
        reasons: collections.Counter[str] = collections.Counter()
        for (_, reason), count in self.by_source.items():
            reasons[reason] += count
        return reasons

    def state(self) -> dict[str, Any]:
        """Returns the counts as JSON-serializable data for a checkpoint; the argument of `restore`."""
        counts = [[source, reason, count] for (source, reason), count in sorted(self.by_source.items())]
        return {"seen": dict(sorted(self.seen.items())), "failed": counts, "run": self._run}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sets the counts from the result of `state`. Raises DataError if the argument is not such a result."""
        try:
            seen = {str(source): _count(count) for source, count in state["seen"].items()}
            failed = {(str(source), str(reason)): _count(count) for source, reason, count in state["failed"]}
            run = _count(state["run"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not the counts of failed samples: {state!r}: expected seen, failed and run ({error})") from error
        self.seen, self.by_source, self._run = collections.Counter(seen), collections.Counter(failed), run

    def succeed(self, source: str) -> None:
        self.seen[source] += 1
        self._run = 0

    def fail(self, source: str, key: str, reason: str, message: str) -> None:
        """Counts and logs a failure. Raises DataError with a summary if it exceeds the policy's limits."""
        self.seen[source] += 1
        self.by_source[source, reason] += 1
        self._run += 1
        self.name(source, key, reason, message)
        if self._run > self.policy.max_run:
            raise DataError(f"{self._run} samples failed one after the other (at most {self.policy.max_run} may): {self.summary()}")
        self.check_rate()

    def check_rate(self, whole: bool = False) -> None:
        """Raises DataError with a summary if too large a share has failed; `whole`: all samples of the source were seen."""
        if self.policy.exceeded(self.failed, self.samples, whole):
            raise DataError(f"more than {self.policy.max_rate:.2%} of the samples failed: {self.summary()}")

    def name(self, source: str, key: str, reason: str, message: str) -> None:
        """Writes a failure to the log, unless the log contains it, without counting it."""
        if (source, key, reason) in self._named:
            return
        self._named.add((source, key, reason))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as log:
            log.write(failure_line(source, key, reason, message))

    def summary(self) -> str:
        return f"{self.failed} of {self.samples} samples failed ({counts_text(self.reasons)}); they are named in {self._path}"


def counts_text(counts: collections.Counter[str]) -> str:
    """Formats counts as "3 broken_json, 1 missing_file", the largest first; "none" if there are none."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def failure_line(source: str, key: str, reason: str, message: str) -> str:
    """Returns a line of the log: JSON in any script, but what a terminal that shows the file would obey is written as \\uXXXX."""
    text = json.dumps({"source": source, "key": key, "reason": reason, "message": message}, ensure_ascii=False)
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text) + "\n"


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _named(path: pathlib.Path) -> set[tuple[str, str, str]]:
    """Returns (source, key, reason) of each failure in a log. A line that a killed process left incomplete is ignored."""
    if not path.exists():
        return set()
    named = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            named.add((entry["source"], entry["key"], entry["reason"]))
        except (ValueError, KeyError, TypeError):
            continue
    return named
