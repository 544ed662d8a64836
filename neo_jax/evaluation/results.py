"""Results of a benchmark: a line for each answer, their scores by family, and the comparison of two results."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole

ANSWERS, RESULTS, SCORES = "answers.jsonl", "results.jsonl", "scores.json"
NEW_OUTPUT, OTHER_FOLDER = "name a new --output, or remove it", "name the folder of another evaluation"
NORMAL_QUANTILE = 1.959964  # of a two-sided 95% interval


@dataclasses.dataclass(frozen=True)
class Result:
    """One answer and its score.

    Attributes:
      key: name of the row.
      family: kind of question; "" if the row has none.
      prediction: what the model said.
      score: from 0 to 1; None: it counts within another row's.
      details: accepted answers, or what a benchmark made of the answer.
    """

    key: str
    family: str
    prediction: str
    score: float | None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean score of some questions, with its 95% interval (normal approximation over the questions)."""

    questions: int
    mean: float
    low: float
    high: float


def scores_of(results: Sequence[Result]) -> dict[str, Score]:
    """Returns the scores of each family, in the order of first appearance, and of all questions ("all")."""
    scored = [(each.family, each.score) for each in results if each.score is not None]
    families: dict[str, list[float]] = {}
    for family, score in scored:
        families.setdefault(family or "no family", []).append(score)
    parts = families if len(families) > 1 else {}
    return {name: _mean(values) for name, values in [*parts.items(), ("all", [score for _, score in scored])] if values}


def differences_of(ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, Score]:
    """Returns the mean paired difference (ours less theirs) of each family over the questions that both have, with its 95% interval."""
    other = {each.key: each.score for each in theirs}
    pairs = [(each, each.score, other.get(each.key)) for each in ours]
    return scores_of(
        [dataclasses.replace(each, score=mine - yours) for each, mine, yours in pairs if mine is not None and yours is not None]
    )


def _mean(values: Sequence[float]) -> Score:
    count, mean = len(values), math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else math.inf
    half = NORMAL_QUANTILE * deviation / math.sqrt(count)
    return Score(count, mean, mean - half, mean + half)


class AnswersFile:
    """The answers of an evaluation, written as they come: one that was stopped goes on where it was.

    Args:
      folder: created if it does not exist.
      settings: what the answers depend on; they are the first line.
      replace: answers to other settings are removed; else they are refused.

    Attributes:
      predictions: by key, those of earlier starts included.

    Raises:
      DataError: the file has other settings, or a line in it cannot be read.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], replace: bool = False):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made a folder for answers ({error.strerror or error}): name another one") from error
        self.path = folder / ANSWERS
        self.predictions: dict[str, str] = {}
        wanted = json.loads(json.dumps(settings))
        if self.path.exists():
            found, predictions = read_answers(self.path)
            if found == wanted:
                self.predictions = predictions
            elif not replace:
                changed = ", ".join(sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)))
                raise DataError(f"{self.path} holds answers to other settings ({changed} differ): {NEW_OUTPUT}")
        # Written anew: a line that was cut off by a kill is dropped.
        lines = [{"settings": wanted}, *({"key": key, "prediction": text} for key, text in self.predictions.items())]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, predictions: Mapping[str, str]) -> None:
        """Appends answers; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"key": key, "prediction": text}) + "\n" for key, text in predictions.items())
        self.predictions |= predictions


def read_answers(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns settings and answers of a file of answers; a last line that was cut off is left out. Raises DataError if it is no such file."""
    settings, *lines = _lines(path, NEW_OUTPUT)
    try:
        predictions = {line["key"]: line["prediction"] for line in lines}
        if not all(isinstance(text, str) for pair in predictions.items() for text in pair):
            raise TypeError("a key or an answer is no text")
        return dict(settings["settings"]), predictions
    except (KeyError, TypeError, ValueError) as error:
        raise _no_file_of(path, error, NEW_OUTPUT) from error


def read_results(folder: pathlib.Path) -> list[Result]:
    """Returns the results of an evaluation's folder. Raises DataError if it has none."""
    path = folder / RESULTS
    try:
        results = [Result(**line) for line in _lines(path, OTHER_FOLDER)]
        if not all(isinstance(each.score, int | float | None) for each in results):
            raise TypeError("a score is no number")
        return results
    except TypeError as error:
        raise _no_file_of(path, error, OTHER_FOLDER) from error


def _lines(path: pathlib.Path, remedy: str) -> list[Any]:
    try:
        *whole, _ = path.read_text(encoding="utf-8").split("\n")  # what stands behind the last end of a line was cut off
        if not whole:
            raise ValueError("it is empty")
        return [json.loads(line) for line in whole]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from error
    except ValueError as error:
        raise _no_file_of(path, error, remedy) from error


def _no_file_of(path: pathlib.Path, error: Exception, remedy: str) -> DataError:
    return DataError(f"{path} is no file of an evaluation ({type(error).__name__}: {error}): {remedy}")


def write_results(folder: pathlib.Path, results: Sequence[Result], scores: Mapping[str, Any]) -> None:
    """Writes results.jsonl and scores.json."""
    write_whole(folder / RESULTS, "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in results))
    write_whole(folder / SCORES, json.dumps(scores, indent=1) + "\n")


def table(scores: Mapping[str, Score], title: str) -> str:
    """Returns scores in per cent as a table for the terminal."""
    width = max(map(len, [title, *scores]))
    lines = [f"{title:<{width}}  questions  mean, %  95% interval"]
    for name, score in scores.items():
        interval = f"{100 * score.low:.1f} to {100 * score.high:.1f}" if math.isfinite(score.low) else "-"
        lines.append(f"{name:<{width}}  {score.questions:>9,}  {100 * score.mean:>7.1f}  {interval}")
    return "\n".join(lines)
