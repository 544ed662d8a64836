"""Scores a checkpoint on one's own questions or on a benchmark: python -m neo_jax.evaluate --checkpoint=PLACE --data=FILE --output=FOLDER."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from data_pipelines.progress import counter
from data_pipelines.schema import DataError
from neo_jax import config
from neo_jax.config.fields import OptionalPath, Path, Positive
from neo_jax.config.flags import Command, read_flags
from neo_jax.evaluation.published import published_line
from neo_jax.evaluation.results import AnswersFile, differences_of, read_results, table, write_results
from neo_jax.evaluation.suites import Suite, answer, open_suite
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from neo_jax.inference.opening import CheckpointFlags, mesh_for, open_answerer
from neo_jax.places import exit_code, open_place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CheckpointFlags, config.Benchmark):
    """The flags.

    Attributes:
      output: folder for answers.jsonl, results.jsonl and scores.json. An evaluation that was stopped goes on there.
      compare: folder of another evaluation of the same rows; prints the paired differences.
      tokens: largest number of tokens that are answered at a time, room for the answers counted.
      min_pixels: smallest number of pixels of a picture after resizing; 0: the preset's of a benchmark; of own rows, that of the phase, 65,536 for a
        published folder.
      max_pixels: largest number; 0: the preset's of a benchmark; of own rows, that of the phase, 4,194,304 for a published folder.
    """

    output: Path
    compare: OptionalPath = ""
    tokens: Positive = 32_768


COMMAND = Command(
    "neo_jax.evaluate",
    "Answers the questions of a file and scores the answers: one's own rows (JSON Lines as training reads them; the last turn is the right answer, "
    "or the key answers lists all that are accepted; the key family groups rows), or with --benchmark a benchmark of the field.",
    "--checkpoint=runs/mine --output=scores --data=rows.jsonl --media-root=images",
    {
        DONE: "scored",
        DATA: "a row, a picture or the tokenizer cannot be used",
        CONFIGURATION: "a flag is wrong, or the checkpoint cannot be read",
    },
    operands=None,
)


def evaluate(flags: Flags) -> list[str]:
    """Answers and scores; returns the tables. Raises DataError, WeightsError or CheckpointError."""
    place = open_place(flags.checkpoint)
    suite = open_suite(flags, place.pictures)
    settings = {**suite.settings, **_model_settings(flags), "parameters": place.identity()}
    output = pathlib.Path(flags.output)
    answers = AnswersFile(output, settings)
    if any(key not in answers.predictions for key in suite.keys):
        with jax.set_mesh(mesh_for(place.model)):
            answerer = open_answerer(place, flags, lambda line: print(line, file=sys.stderr, flush=True))
            with counter(len(suite.keys), "answered") as show:
                answer(suite, answerer, answers, flags.tokens, flags.blank, lambda done, _: show(done))
    return _report(flags, suite, answers, output, settings)


def _report(flags: Flags, suite: Suite, answers: AnswersFile, output: pathlib.Path, settings: dict[str, Any]) -> list[str]:
    outcome = suite.outcome(answers.predictions)
    scoring = {"metric": flags.metric, "tolerance": flags.tolerance, "pattern": flags.pattern} if not flags.benchmark else {}
    write_results(output, outcome.results, outcome.content(settings | scoring))
    lines = [table(outcome.families, flags.benchmark or flags.metric)]
    if flags.benchmark:
        lines.append(f"{flags.benchmark} ({flags.preset}): {outcome.overall:.1f}{published_line(flags.benchmark)}")
    if flags.compare:
        differences = differences_of(outcome.results, read_results(pathlib.Path(flags.compare)))
        if not differences:
            raise DataError(f"{flags.compare} has none of these rows: name an evaluation of the same file")
        lines.append(table(differences, f"less {flags.compare}"))
    return lines


def _model_settings(flags: Flags) -> dict[str, Any]:
    """Returns the flags of the checkpoint that change answers."""
    return {field.name: getattr(flags, field.name) for field in dataclasses.fields(CheckpointFlags) if field.name != "checkpoint"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""

    def work() -> None:
        flags, _ = read_flags(Flags, arguments, COMMAND)
        for each in evaluate(flags):
            print(each)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
