"""What becomes of the data, for the console: excluded by the index, too long for a phase, failed while reading; rows left empty; epochs."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence

from data_pipelines.index.lengths import LengthIndex
from data_pipelines.planning.advice import Advice
from data_pipelines.planning.forecast import Forecast
from data_pipelines.planning.planner import BUDGETS, budgets
from data_pipelines.planning.too_long import TooLong
from data_pipelines.schema import VISUAL_TOKEN_BYTES
from data_pipelines.sources import Source
from neo_jax import config


def excluded_lines(indexes: Sequence[LengthIndex]) -> Iterator[str]:
    """Yields a line for each source with samples that its index excludes."""
    for index in indexes:
        if count := index.unusable.total():
            reasons = ", ".join(f"{number} {reason}" for reason, number in index.unusable.most_common())
            yield f"{index.name}: {share(count, len(index))} samples cannot be used ({reasons}): {index.log}"


def ignored_lines(sources: Sequence[Source]) -> Iterator[str]:
    """Yields a line for each source whose rows have keys that are not read."""
    for source in sources:
        if source.ignored:
            keys = ", ".join(f"{key} ({count} rows)" for key, count in source.ignored.most_common())
            yield f"{source.name}: keys of its rows that are not read: {keys}"


def converted_lines(indexes: Sequence[LengthIndex]) -> Iterator[str]:
    """Yields a line for each source with pictures that its `pictures` policy changes when they are read."""
    for index in indexes:
        if index.conversions:
            kinds = ", ".join(f"{number} {kind}" for kind, number in index.conversions.most_common())
            yield f"{index.name}: pictures that are converted by the source's `pictures` policy: {kinds}"


def too_long_lines(phase: config.Phase, too_long: Mapping[str, TooLong]) -> Iterator[str]:
    """A line for each source with samples that its `keep` leaves out, and one for those that fit no row of a phase: how many, which budget
    they pass, how long the longest is."""
    for source, found in too_long.items():
        if found.filtered:
            yield f"{phase.name}: {share(found.filtered, found.usable + found.filtered)} samples of {source} are left out by its `keep`"
        if not found.total:
            continue
        columns = zip(BUDGETS, found.passed.tolist(), budgets(phase.input()).tolist(), found.longest.tolist(), strict=True)
        parts = [f"{passed} exceed {name} {budget}, the longest needs {longest}" for name, passed, budget, longest in columns if passed]
        if found.not_taken:
            parts.append(f"{found.not_taken} are of a kind that the phase does not take")
        named = "skipped.jsonl" if found.total == len(found.samples) else f"the first {len(found.samples)} in skipped.jsonl"
        yield f"{phase.name}: {share(found.total, found.usable)} samples of {source} do not fit a row ({'; '.join(parts)}): {named}"


def epoch_lines(phases: Sequence[config.Phase], forecast: Forecast, sources: Sequence[Source]) -> Iterator[str]:
    """How often each source will have been read by the end of the run, and a line for each whose max_epochs end that before."""
    counts = ", ".join(f"{name} {epochs:.2g}" for name, epochs in forecast.epochs[-1].items())
    yield f"epochs of each source by the end of the run, about: {counts}"
    limits = {source.name: source.settings.max_epochs for source in sources}
    for phase, names in zip(phases, forecast.used_up, strict=True):
        for name in names:
            yield f"{name} is used up in phase {phase.name} (max_epochs {limits[name]:g}); from there on other sources take its share"


def underfilled_lines(phase: config.Phase, advice: Advice | None) -> Iterator[str]:
    """Yields a line if a budget other than the context limits the rows of a phase: which one, which value would do, and its cost in memory."""
    if advice is None:
        return
    short = [each for each in zip(BUDGETS, advice.budgets, advice.better, strict=True) if each[1] != each[2]]
    before = " and ".join(f"{name} {now}" for name, now, _ in short)
    after = " and ".join(f"{name} {better}" for name, _, better in short)
    cost = "at no cost"
    if (more := advice.better[1] - advice.budgets[1]) > 0:
        cost = f"for {more * VISUAL_TOKEN_BYTES / 2**20:.3g} MiB more pixels a row"
    used = "is" if len(short) == 1 else "are"
    yield (
        f"{phase.name}: about {advice.fill:.0%} of the context will be filled, since {before} {used} used up first; "
        f"with {after} about {advice.better_fill:.0%} would be, {cost}"
    )


class FailureLines:
    """Console lines about samples that failed while reading, when there are new ones."""

    def __init__(self) -> None:
        self._reported: collections.Counter[tuple[str, str]] = collections.Counter()

    def new(self, counts: Mapping[tuple[str, str], int], samples: int) -> Iterator[str]:
        """Yields a line for each source and reason with failures since the last call.

        Args:
          counts: failures so far, by (source, reason).
          samples: number of samples tried so far.
        """
        for (source, reason), count in counts.items():
            if count > self._reported[source, reason]:
                self._reported[source, reason] = count
                yield f"{source}: {share(count, samples)} samples tried so far failed while reading ({reason}): skipped.jsonl"


def share(count: int, total: int) -> str:
    """Returns text such as "30 of 40 (75%)", with enough digits that a share between 0 and 1 does not read 0% or 100%."""
    percent = 100 * count / total
    digits = next(n for n in range(12) if n == 11 or round(percent, n) not in (0, 100) or count in (0, total))
    return f"{count} of {total} ({percent:.{digits}f}%)"
