"""What of the data is not trained on, for the console: excluded by the index, too long for a phase, failed while reading."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence

from data_pipelines.index.lengths import LengthIndex
from data_pipelines.planning.planner import BUDGETS, budgets
from data_pipelines.planning.too_long import TooLong
from data_pipelines.sources import Source
from neo_jax import config


def excluded_lines(indexes: Sequence[LengthIndex]) -> Iterator[str]:
    """A line for each source of which the index excludes samples."""
    for index in indexes:
        if count := index.unusable.total():
            reasons = ", ".join(f"{number} {reason}" for reason, number in index.unusable.most_common())
            yield f"{index.name}: {share(count, len(index))} samples cannot be used ({reasons}): {index.log}"


def ignored_lines(sources: Sequence[Source]) -> Iterator[str]:
    """A line for each source whose rows have keys that are not read."""
    for source in sources:
        if source.ignored:
            keys = ", ".join(f"{key} ({count} rows)" for key, count in source.ignored.most_common())
            yield f"{source.name}: keys of its rows that are not read: {keys}"


def converted_lines(indexes: Sequence[LengthIndex]) -> Iterator[str]:
    """A line for each source with pictures that lose something, or are turned, when they are read."""
    for index in indexes:
        if index.conversions:
            kinds = ", ".join(f"{number} {kind}" for kind, number in index.conversions.most_common())
            yield f"{index.name}: pictures that are converted by the source's `pictures` policy: {kinds}"


def too_long_lines(phase: config.Phase, too_long: Mapping[str, TooLong]) -> Iterator[str]:
    """A line for each source with samples that fit no row of a phase: how many, which budget they pass, how long the longest is."""
    for source, found in too_long.items():
        if not found.total:
            continue
        columns = zip(BUDGETS, found.passed.tolist(), budgets(phase.input()).tolist(), found.longest.tolist(), strict=True)
        parts = [f"{passed} pass {name} {budget}, the longest needs {longest}" for name, passed, budget, longest in columns if passed]
        if found.not_taken:
            parts.append(f"{found.not_taken} are of a kind that the phase takes none of")
        named = "skipped.jsonl" if found.total == len(found.samples) else f"the first {len(found.samples)} in skipped.jsonl"
        yield f"{phase.name}: {share(found.total, found.usable)} samples of {source} do not fit a row ({'; '.join(parts)}): {named}"


class FailureLines:
    """Tells on the console of samples that failed while reading, when there are new ones."""

    def __init__(self) -> None:
        self._told: collections.Counter[tuple[str, str]] = collections.Counter()

    def new(self, counts: Mapping[tuple[str, str], int], samples: int) -> Iterator[str]:
        """A line for each source and reason with failures that were not told of yet.

        Args:
          counts: failures so far by (source, reason).
          samples: tried so far.
        """
        for (source, reason), count in counts.items():
            if count > self._told[source, reason]:
                self._told[source, reason] = count
                yield f"{source}: {share(count, samples)} samples tried so far failed while reading ({reason}): skipped.jsonl"


def share(count: int, total: int) -> str:
    """ "30 of 40 (75%)", with as many digits as keep a share that is not whole from reading 0% or 100%."""
    percent = 100 * count / total
    digits = next(n for n in range(12) if n == 11 or round(percent, n) not in (0, 100) or count in (0, total))
    return f"{count} of {total} ({percent:.{digits}f}%)"
