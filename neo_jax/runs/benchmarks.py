"""Scores of benchmarks that a run has asked: benchmarks/NAME/STEP/ in its directory, each as neo_jax.evaluate writes it."""

from __future__ import annotations

import dataclasses
import json
import pathlib

FOLDER = "benchmarks"
SCORES = "scores.json"


@dataclasses.dataclass(frozen=True)
class BenchmarkScore:
    """The score of a benchmark after a step.

    Attributes:
      name: in the configuration.
      step: number of the step in the whole run.
      phase: name of its phase.
      questions: number of answers.
      overall: the score that is published, in per cent; of own rows the mean.
      benchmark, preset: which benchmark was asked, and how; "" for own rows.
    """

    name: str
    step: int
    phase: str
    questions: int
    overall: float
    benchmark: str
    preset: str


def folder_of(run: pathlib.Path, name: str, step: int) -> pathlib.Path:
    """Returns the folder of a benchmark's answers after a step."""
    return run / FOLDER / name / f"{step:08d}"


def read_benchmarks(run: pathlib.Path) -> tuple[list[BenchmarkScore], list[str]]:
    """Returns the scores of a run directory by name and step, and a sentence for each file that cannot be read."""
    scores, problems = [], []
    for path in sorted((run / FOLDER).glob(f"*/*/{SCORES}")):
        try:
            values = json.loads(path.read_bytes())
            asked, questions = values["settings"], values["scores"].get("all", {}).get("questions", 0)
            benchmark = str(asked["benchmark"])
            preset = str(asked["preset"]) if benchmark else ""
            score = float(values["overall"])
            scores.append(BenchmarkScore(path.parts[-3], int(asked["step"]), str(asked["phase"]), int(questions), score, benchmark, preset))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(
                f"{path} is no file of scores ({type(error).__name__}: {error}): remove its folder, and the benchmark is asked again"
            )
    return scores, problems
