"""What the runs of a sweep have reached, read from their run directories; and means over seeds with intervals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtrit

from neo_jax.runs.metrics import StepRecord, finite, read_records
from neo_jax.sweeps.choices import SEED, Settings
from neo_jax.sweeps.file import setting_of
from neo_jax.sweeps.folder import FINISHED, Listed, State, SweepFolder
from neo_jax.sweeps.rules import value_at

CONFIDENCE = 0.95
INTERIM = 20  # questions a family after a phase, below which its exact match says little


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
      run: its index, name and settings.
      state: where it is.
      step, steps: its last logged step, and how many it has in all.
      tokens: that it has trained on.
      seconds: for how long it has run, all of its starts together.
      quantities: "heldout" and "heldout/SOURCE", in nats a label; "loss", the training loss, mean of the last log lines; "exact_match", mean over
        the families, and "exact_match/FAMILY"; "exact_match_after/PHASE", if at least INTERIM questions a family were asked;
        "benchmark/NAME". What was not measured is not there.
      tokens_per_second: median over its log lines.
      curves: for "loss" and "heldout": (tokens, value) of each log line.
      problems: sentences on its files.
    """

    run: Listed
    state: State
    step: int
    steps: int
    tokens: int
    seconds: float
    quantities: Mapping[str, float]
    tokens_per_second: float | None
    curves: Mapping[str, Sequence[tuple[float, float]]]
    problems: tuple[str, ...]

    @property
    def setting(self) -> str:
        return setting_of(self.run.settings)


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean of a quantity over the seeds of one setting, with half the width of its 95% interval (Student's t; infinite for one seed)."""

    mean: float
    half: float
    count: int


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but the seed, and their settings without it."""

    settings: Settings
    runs: tuple[Outcome, ...]

    @property
    def finished(self) -> list[Outcome]:
        """The runs that have finished: only these are compared, for what others have reached was measured at other steps."""
        return [run for run in self.runs if run.state.status == FINISHED]

    def mean(self, quantity: str) -> Mean | None:
        """Over the finished runs that have the quantity; None if there is none."""
        return mean([run.quantities[quantity] for run in self.finished if quantity in run.quantities])

    def differences(self, other: Group, quantity: str) -> list[float]:
        """Returns the differences of a quantity, this group less another, for each seed that both have finished."""
        theirs = {run.run.settings.get(SEED): run.quantities.get(quantity) for run in other.finished}
        pairs = [(run.quantities.get(quantity), theirs.get(run.run.settings.get(SEED))) for run in self.finished]
        return [mine - yours for mine, yours in pairs if mine is not None and yours is not None]

    def less(self, other: Group, quantity: str) -> Mean | None:
        """Returns the mean of `differences`; None if there are none."""
        return mean(self.differences(other, quantity))


def outcomes(folder: SweepFolder, runs: Sequence[Listed] | None = None) -> list[Outcome]:
    """Returns what runs of a sweep have reached. runs: all in its list unless given."""
    states = folder.states()
    seconds = folder.seconds(states)
    chosen = folder.listed() if runs is None else runs
    return [_outcome(folder, run, states[run.name], seconds.get(run.name, 0.0)) for run in chosen]


def groups(runs: Sequence[Outcome]) -> list[Group]:
    """Returns runs grouped by their settings without the seed, in the order of first appearance."""
    found: dict[str, list[Outcome]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return [Group({key: value for key, value in each[0].run.settings.items() if key != SEED}, tuple(each)) for each in found.values()]


def mean(values: Sequence[float]) -> Mean | None:
    if not values:
        return None
    count, middle = len(values), statistics.fmean(values)
    if count == 1:
        return Mean(middle, math.inf, 1)
    return Mean(middle, float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(count), count)


def quantities(runs: Sequence[Outcome]) -> list[str]:
    """Returns the quantities that any of some runs has: the main ones first, those by source, family and benchmark after them."""
    found = dict.fromkeys(name for run in runs for name in run.quantities)
    return sorted(found, key=lambda name: ("/" in name and not name.startswith("benchmark"), list(found).index(name)))


def varied(runs: Sequence[Outcome]) -> list[str]:
    """Returns the keys that have different values in some runs, the seed last."""
    keys = dict.fromkeys(key for run in runs for key in run.run.settings)
    different = [key for key in keys if len({json.dumps(run.run.settings.get(key)) for run in runs}) > 1]
    return sorted(different, key=lambda key: key == SEED)


def as_csv(runs: Sequence[Outcome]) -> str:
    """Returns a line for each run, with its settings and all of its quantities."""
    keys, names = list(dict.fromkeys(key for run in runs for key in run.run.settings)), quantities(runs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "run", *keys, "state", "reason", "step", "steps", "tokens", "seconds", "tokens_per_second", *names])
    for run in runs:
        settings = [run.run.settings.get(key, "") for key in keys]
        figures = [run.step, run.steps, run.tokens, round(run.seconds, 1), run.tokens_per_second]
        writer.writerow(
            [run.run.index, run.run.name, *settings, run.state.status, run.state.reason, *figures, *map(run.quantities.get, names)]
        )
    return text.getvalue()


def _outcome(folder: SweepFolder, run: Listed, state: State, seconds: float) -> Outcome:
    directory = folder.run_directory(run.name)
    records, problems = read_records(directory / "metrics.jsonl")
    configuration = json.loads(folder.configuration(run.name).read_text())
    steps = sum(configuration["phases"][name]["steps"] for name in configuration["curriculum"])
    last = records[-1] if records else None
    speeds = sorted(finite([record.tokens_per_second for record in records]))
    measured = [(record.tokens, value) for record in records if record.heldout_loss and (value := _mean_of(record)) is not None]
    curves = {"loss": [(record.tokens, record.loss) for record in records], "heldout": measured}
    scores, more = _scores(directory / "report.json", configuration["evaluation"]["interim_questions"] >= INTERIM)
    return Outcome(
        run,
        state,
        last.step if last else 0,
        steps,
        last.tokens if last else 0,
        seconds,
        {**_losses(records), **scores},
        speeds[len(speeds) // 2] if speeds else None,
        {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in curves.items()},
        tuple([*problems, *more]),
    )


def _mean_of(record: StepRecord) -> float | None:
    return value_at([record], "heldout", record.step)


def _losses(records: Sequence[StepRecord]) -> dict[str, float]:
    if not records:
        return {}
    end = records[-1].step
    sources = next((record.heldout_loss for record in reversed(records) if record.heldout_loss), None) or {}
    names = ["heldout", "loss", *(f"heldout/{source}" for source in sources)]
    return {name: value for name in names if (value := value_at(records, name, end)) is not None}


def _scores(path: pathlib.Path, stages: bool) -> tuple[dict[str, float], list[str]]:
    """Returns exact match, after each phase too if `stages`, and benchmark scores of a run's report, and a sentence if it cannot be read."""
    if not path.exists():
        return {}, []
    try:
        report = json.loads(path.read_text())
        matches = report["exact_match"]
        scores = {"exact_match" if name == "overall" else f"exact_match/{name}": float(value) for name, value in matches.items()}
        if stages:
            scores |= {f"exact_match_after/{each['name']}": float(each["exact_match"]["overall"]) for each in report["phases"]}
        benchmarks = {f"benchmark/{each['name']}": float(each["overall"]) for each in report["benchmarks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [f"{path} cannot be read ({type(error).__name__}: {error})"]
    return {**scores, **benchmarks}, []
