"""What happens with samples that cannot be used: skipped, counted, named in a log, and too many of them stop the work."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import DataError


@dataclasses.dataclass(frozen=True)
class FailurePolicy:
    """When skipped samples stop the work.

    Attributes:
      max_rate: largest share of samples that may fail, in [0, 1].
      max_run: most samples that may fail one after the other.
      minimum_samples: samples seen before `max_rate` is judged.
    """

    max_rate: float = 0.05
    max_run: int = 64
    minimum_samples: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.max_rate <= 1 or self.max_run < 1 or self.minimum_samples < 1:
            raise DataError(f"{self}: max_rate lies in [0, 1], max_run and minimum_samples are at least 1")


class Failures:
    """Counts samples and failures, and names each failure once in a file of JSON lines: source, key, reason, message.

    Args:
      path: the log. An existing one is continued: what it names already is not written again.
      policy: when to stop.

    Attributes:
      samples, failed: how many were seen and how many of them failed.
      reasons: failures by reason.
    """

    def __init__(self, path: pathlib.Path, policy: FailurePolicy):
        self.policy = policy
        self.samples = self.failed = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self._path = path
        self._run = 0
        self._by_source: collections.Counter[tuple[str, str]] = collections.Counter()
        self._named = _named(path)

    @property
    def by_source(self) -> dict[tuple[str, str], int]:
        return dict(self._by_source)

    def state(self) -> dict[str, Any]:
        return {"samples": self.samples, "counts": [[*key, count] for key, count in self._by_source.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.samples = state["samples"]
        self._by_source = collections.Counter({(source, reason): count for source, reason, count in state["counts"]})
        self.failed = self._by_source.total()
        self.reasons = collections.Counter()
        for (_, reason), count in self._by_source.items():
            self.reasons[reason] += count

    def succeed(self) -> None:
        self.samples += 1
        self._run = 0

    def fail(self, source: str, key: str, reason: str, message: str) -> None:
        """Counts and names a failure. Raises DataError with a summary when the policy says that it is one too many."""
        self.samples += 1
        self.failed += 1
        self._run += 1
        self.reasons[reason] += 1
        self._by_source[source, reason] += 1
        self.name(source, key, reason, message)
        if self._run > self.policy.max_run:
            raise DataError(f"{self._run} samples failed one after the other (at most {self.policy.max_run} may): {self.summary()}")
        self.check_rate()

    def check_rate(self) -> None:
        """Raises DataError with a summary when too large a share has failed."""
        if self.samples >= self.policy.minimum_samples and self.failed > self.policy.max_rate * self.samples:
            raise DataError(f"more than {self.policy.max_rate:.2%} of the samples failed: {self.summary()}")

    def name(self, source: str, key: str, reason: str, message: str) -> None:
        """Writes a line to the log unless the log has it, without counting a failure."""
        if (source, key, reason) in self._named:
            return
        self._named.add((source, key, reason))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as log:
            log.write(failure_line(source, key, reason, message))

    def summary(self) -> str:
        by_reason = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        return f"{self.failed} of {self.samples} samples failed ({by_reason or 'none'}); they are named in {self._path}"


def failure_line(source: str, key: str, reason: str, message: str) -> str:
    return json.dumps({"source": source, "key": key, "reason": reason, "message": message}, ensure_ascii=False) + "\n"


def _named(path: pathlib.Path) -> set[tuple[str, str, str]]:
    """What a log names; a line that a killed process left unfinished counts as not written."""
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
