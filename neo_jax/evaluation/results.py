"""Results of a benchmark: a line for each answer, their scores by family, and the comparison of two results."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole

ANSWERS, SCORES = "answers.jsonl", "scores.json"
NORMAL_QUANTILE = 1.959964  # of a two-sided 95% interval


@dataclasses.dataclass(frozen=True)
class Result:
    """One answer.

    Attributes:
      key: name of the row.
      family: kind of question; "" if the row has none.
      prediction: what the model said.
      answers: the accepted answers.
      score: from 0 to 1.
    """

    key: str
    family: str
    prediction: str
    answers: tuple[str, ...]
    score: float


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean score of some questions, with its 95% interval (normal approximation over the questions)."""

    questions: int
    mean: float
    low: float
    high: float


def scores_of(results: Sequence[Result]) -> dict[str, Score]:
    """Returns the scores of each family, in the order of first appearance, and of all questions ("all")."""
    families: dict[str, list[float]] = {}
    for each in results:
        families.setdefault(each.family or "no family", []).append(each.score)
    parts = families if len(families) > 1 else {}
    return {name: _mean(values) for name, values in [*parts.items(), ("all", [each.score for each in results])] if values}


def differences_of(ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, Score]:
    """Returns the mean paired difference (ours less theirs) of each family over the questions that both have, with its 95% interval."""
    other = {each.key: each.score for each in theirs}
    both = [dataclasses.replace(each, score=each.score - other[each.key]) for each in ours if each.key in other]
    return scores_of(both)


def _mean(values: Sequence[float]) -> Score:
    count, mean = len(values), math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else math.inf
    half = NORMAL_QUANTILE * deviation / math.sqrt(count)
    return Score(count, mean, mean - half, mean + half)


class AnswersFile:
    """The answers of an evaluation, written as they come: one that was stopped goes on where it was.

    Args:
      folder: created if it does not exist.
      settings: what the answers depend on; they are the first line. A file with other settings is refused.

    Attributes:
      results: by key, those of earlier starts included.

    Raises:
      DataError: the file has other settings, or a line in it cannot be read.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ANSWERS
        self.results: dict[str, Result] = {}
        wanted = json.loads(json.dumps(settings))
        if self.path.exists():
            found, results = read_answers(self.path)
            if found != wanted:
                changed = ", ".join(sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)))
                raise DataError(f"{self.path} holds answers to other settings ({changed} differ): name a new --output, or remove it")
            self.results = {each.key: each for each in results}
        # Written anew: a line that was cut off by a kill is dropped.
        lines = [json.dumps({"settings": wanted}), *(json.dumps(dataclasses.asdict(each)) for each in self.results.values())]
        write_whole(self.path, "\n".join(lines) + "\n")

    def add(self, results: Iterable[Result]) -> None:
        """Appends answers; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for each in results:
                file.write(json.dumps(dataclasses.asdict(each)) + "\n")
                self.results[each.key] = each


def read_answers(path: pathlib.Path) -> tuple[dict[str, Any], list[Result]]:
    """Returns settings and results of a file of answers; a last line that was cut off is left out. Raises DataError if it is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    results = []
    try:
        settings = json.loads(lines[0])["settings"]
        whole = lines[1 : len(lines) - 1]  # what stands behind the last end of a line was cut off
        for line in whole:
            values = json.loads(line)
            results.append(Result(**values | {"answers": tuple(values["answers"])}))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of answers ({type(error).__name__}: {error}): name the folder of another evaluation") from error
    return settings, results


def write_scores(folder: pathlib.Path, settings: Mapping[str, Any], scores: Mapping[str, Score]) -> None:
    """Writes the scores beside the answers."""
    content = {"settings": settings, "scores": {name: dataclasses.asdict(score) for name, score in scores.items()}}
    write_whole(folder / SCORES, json.dumps(content, indent=1) + "\n")


def table(scores: Mapping[str, Score], title: str) -> str:
    """Returns scores in per cent as a table for the terminal."""
    width = max(map(len, [title, *scores]))
    lines = [f"{title:<{width}}  questions  mean, %  95% interval"]
    for name, score in scores.items():
        interval = f"{100 * score.low:.1f} to {100 * score.high:.1f}" if math.isfinite(score.low) else "-"
        lines.append(f"{name:<{width}}  {score.questions:>9,}  {100 * score.mean:>7.1f}  {interval}")
    return "\n".join(lines)
