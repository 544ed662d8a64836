"""Compares benchmarks with what the official evaluation kit was recorded to do: python -m neo_jax.evaluation.golden FOLDER...

A folder has the benchmark's name and holds input.tsv, prompts.json (prompts, sizes and frames), scores.json (scores of given answers) and
media/.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.media.images import normalisation_table
from data_pipelines.schema import VISUAL_TOKEN_SIDE, DataError
from neo_jax.config.fields import ConfigError
from neo_jax.config.flags import Command, read_flags
from neo_jax.evaluation.benchmarks.answers import read_back
from neo_jax.evaluation.benchmarks.declaration import Benchmark
from neo_jax.evaluation.benchmarks.documents import grids, shown
from neo_jax.evaluation.benchmarks.films import Film, Shot
from neo_jax.evaluation.benchmarks.message import Part, Picture, Prompt
from neo_jax.evaluation.benchmarks.registry import Asking, benchmark_named, official
from neo_jax.evaluation.benchmarks.rows import Row, read_rows
from neo_jax.exit_codes import CONFIGURATION, DONE

DIFFERS = 1
MEAN_TOLERANCE = 0.02  # of the mean and deviation of an image's normalised patches: a JPEG lies between
TOLERANCE = 1e-9  # of scores
PATCH_SIDE = 16
SHOWN = 12  # differences that are printed
NAMES = ("split", "setting", "task", "index")  # keys that name a line of an aggregate
INTERMEDIATE = {"extracted", "pred_extracted", "parsed_pred"}
UNCOMPARED = {"index", "prediction", "read_back", "eval_gt", "eval_pred", "eval_match"}  # eval_*: what the kit printed beside a score


class Tally:
    """Counts of what was compared and skipped, and the differences."""

    def __init__(self) -> None:
        self.compared: collections.Counter[str] = collections.Counter()
        self.skipped: collections.Counter[str] = collections.Counter()
        self.differences: list[str] = []

    def equal(self, kind: str, place: str, ours: object, theirs: object, tolerance: float = TOLERANCE) -> None:
        """Counts one comparison; notes the first place where the two differ."""
        self.compared[kind] += 1
        if found := difference(ours, theirs, tolerance):
            self.differences.append(f"{kind} of {place}: {found}")

    def line(self, name: str) -> str:
        """Returns the summary of a folder."""
        counts = ", ".join(f"{count} {kind}" for kind, count in self.compared.items()) or "nothing"
        skipped = "".join(f"; skipped {count}: {why}" for why, count in self.skipped.items())
        verdict = f"{len(self.differences)} differ" if self.differences else "equal"
        return f"{name}: {verdict}; compared {counts}{skipped}"


def difference(ours: object, theirs: object, tolerance: float) -> str:
    """Returns where two values of JSON differ, as text; "" if they are equal, numbers within a relative or absolute tolerance."""
    ours, theirs = _named(ours), _named(theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*theirs, *ours]):
            if key not in ours or key not in theirs:
                return f"{key!r} is only in {'the record' if key in theirs else 'ours'}"
            if found := difference(ours[key], theirs[key], tolerance):
                return f"{key}: {found}"
        return ""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next((f"[{place}]: {found}" for place, pair in pairs if (found := difference(*pair, tolerance))), "")
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return "" if math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance) else f"{ours!r}, recorded {theirs!r}"
    if type(ours) is type(theirs) and ours == theirs:
        return ""
    return f"{_short(ours)}, recorded {_short(theirs)}"


def _named(value: object) -> object:
    """Returns a table whose lines have names as a mapping, since the kit's order of lines is that of a set."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list) and value and all(isinstance(line, dict) for line in value):
        for name in NAMES:
            if all(name in line for line in value):
                return {str(line[name]): line for line in value}
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:80]} ... {text[-80:]}"


def compare(folder: pathlib.Path) -> Tally:
    """Compares a folder. Raises DataError if its name is no benchmark's, or a file is missing or cannot be read."""
    benchmark = benchmark_named(folder.name)
    rows = [row for row in read_rows(folder / "input.tsv", quirks=True) if not benchmark.leave_out(row)]
    by_key = {row.key: row for row in rows}
    tally = Tally()
    for run in _json(folder / "prompts.json")["runs"]:
        _compare_run(benchmark, rows, by_key, folder, run, tally)
    for number, each in enumerate(_json(folder / "scores.json")["passes"]):
        _compare_pass(benchmark, rows, by_key, f"pass {number}", each, tally)
    return tally


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _compare_run(
    benchmark: Benchmark, rows: Sequence[Row], by_key: Mapping[str, Row], folder: pathlib.Path, run: Mapping[str, Any], tally: Tally
) -> None:
    asking = official(benchmark)
    material = benchmark.material(rows, folder / "media", True, run["data"])
    tally.equal("rows", run["data"], sorted(by_key), sorted(str(each["index"]) for each in run["rows"]))
    for recorded in run["rows"]:
        if (row := by_key.get(str(recorded["index"]))) is None:
            continue
        place = f"{run['data']} row {row.key}"
        whole = {**run, **recorded}
        try:
            prompt = benchmark.ask(row, material, asking.system)
        except DataError as error:
            tally.compared["prompts"] += 1
            tally.differences.append(f"prompts of {place}: {error}")
            continue
        tally.equal("prompts", place, prompt.written(), whole["text"])
        tally.equal("settings", place, _settings(asking), {name: whole[name] for name in _settings(asking)})
        if "message" in recorded:
            tally.equal("messages", place, _message(prompt), recorded["message"])
        _compare_images(prompt, asking, place, recorded, tally)
        if "frames" in recorded:
            _compare_frames(prompt.pictures, place, recorded["frames"], tally)


def _settings(asking: Asking) -> dict[str, Any]:
    drawn = asking.sampling
    generation: dict[str, Any]
    if drawn.temperature:
        how = {"do_sample": True, "top_p": drawn.top_p, "temperature": drawn.temperature, "top_k": drawn.top_k}
        generation = {**how, "max_new_tokens": asking.max_tokens, "repetition_penalty": drawn.repetition_penalty}
    else:
        generation = {"do_sample": False, "max_new_tokens": asking.max_tokens, "top_p": None}
    low, high = asking.pixels
    return {"system": asking.system, "min_pixels": low, "max_pixels": high, "generation": generation}


def _message(prompt: Prompt) -> list[dict[str, Any]]:
    numbers = {id(picture): number for number, picture in enumerate(prompt.pictures)}

    def written(part: Part) -> dict[str, Any]:
        return {"type": "text", "value": part} if isinstance(part, str) else {"type": "image", "image": numbers[id(part)]}

    return [written(part) for part in prompt.message]


def _compare_images(prompt: Prompt, asking: Asking, place: str, recorded: Mapping[str, Any], tally: Tally) -> None:
    images, pictures = recorded["images"], prompt.pictures
    sizes = grids(prompt, asking.pixels)
    tally.equal("numbers of images", place, len(pictures), recorded.get("images_count", len(images)))
    tally.equal("tokens", place, int(sizes.prod(axis=1).sum()), recorded["tokens"])
    pixels = list(shown(prompt, asking.pixels))
    numbers = range(len(pictures)) if len(images) == len(pictures) else (0, len(pictures) - 1)
    for number, image in zip(numbers, images, strict=True):
        picture, where = pictures[number], f"{place} image {number}"
        tally.equal("files", where, [list(picture.size()), picture.format], [image["size"], image["stored_as"]])
        patches = (sizes[number] * (VISUAL_TOKEN_SIDE // PATCH_SIDE)).tolist()
        tally.equal("resize targets", where, [patches, int(sizes[number].prod())], [image["grid_hw"], image["tokens"]])
        normalised = normalisation_table()[pixels[number], [0, 1, 2]]
        ours = [float(normalised.mean(dtype="float64")), float(normalised.std(dtype="float64"))]
        tally.compared["means and deviations"] += 1
        for name, mine, theirs in zip(("mean", "deviation"), ours, (image["mean"], image["std"]), strict=True):
            if abs(mine - theirs) > MEAN_TOLERANCE:
                tally.differences.append(f"{name} of {where}: {mine:.3f}, recorded {theirs:.3f}")


def _compare_frames(pictures: Sequence[Picture], place: str, frames: Mapping[str, Any], tally: Tally) -> None:
    film: Film = next(picture.film for picture in pictures if isinstance(picture, Shot))
    ours = {"indices": list(film.indices), "fps": film.length.rate, "n_frames": film.length.frames}
    tally.equal("frame lists", place, ours, dict(frames), 1e-6)


def _compare_pass(
    benchmark: Benchmark, rows: Sequence[Row], by_key: Mapping[str, Row], place: str, recorded: Mapping[str, Any], tally: Tally
) -> None:
    predictions = {str(each["index"]): each for each in recorded["rows"]}
    answers = dict(zip(predictions, read_back([each["prediction"] for each in predictions.values()], True), strict=True))
    for key, each in predictions.items():
        theirs = each["read_back"] if "read_back" in each else each["prediction"]
        tally.equal("answers read back", f"{place} row {key}", answers[key], theirs)
    if "error" in recorded:
        tally.skipped[f"the kit's evaluate() stops ({recorded['error']})"] += 1
        return
    said = [answers[row.key] for row in rows]
    scored = benchmark.score(rows, said, True)
    for row, fields in zip(rows, scored.rows, strict=True):
        for name, theirs in predictions[row.key].items():
            if name not in UNCOMPARED:
                kind = "intermediate values" if name in INTERMEDIATE else "row scores"
                ours = fields.get(name, "nothing")
                if name == "parsed_pred":
                    ours, theirs = _unordered(ours), _unordered(theirs)  # the kit writes a list in the order of a set
                tally.equal(kind, f"{place} row {row.key} ({name})", ours, theirs)
    tally.equal("aggregates", place, scored.aggregate, recorded["aggregate"])


def _unordered(value: str) -> object:
    """Returns the elements of a list that is written as a text, in one order; other texts themselves."""
    return sorted(map(str, ast.literal_eval(value))) if value.startswith("[") else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """There are no flags."""


COMMAND = Command(
    "neo_jax.evaluation.golden",
    "Compares benchmarks with records of the official evaluation kit: every prompt, setting, resize target, frame list and score.",
    "FOLDER...",
    {DONE: "all equal", DIFFERS: "something differs, or a folder cannot be read", CONFIGURATION: "a flag is wrong"},
    operands="FOLDER",
)


def main(arguments: Sequence[str], tell: Callable[[str], None] = print) -> int:
    """Runs the command; returns its exit code."""
    try:
        _, folders = read_flags(Flags, arguments, COMMAND)
        if not folders:
            raise ConfigError(["name the folders to compare"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    results = [_lines(pathlib.Path(folder), tell) for folder in folders]
    return DONE if all(results) else DIFFERS


def _lines(folder: pathlib.Path, tell: Callable[[str], None]) -> bool:
    """Compares a folder and prints its lines; returns whether something was compared and nothing differs."""
    name = folder.resolve().name
    try:
        tally = compare(folder.resolve())
    except (DataError, KeyError, TypeError, ValueError) as error:
        tell(f"{name}: {error if isinstance(error, DataError) else f'a record is broken ({type(error).__name__}: {error})'}")
        return False
    tell(tally.line(name))
    for each in tally.differences[:SHOWN]:
        tell(f"  {each}")
    if (more := len(tally.differences) - SHOWN) > 0:
        tell(f"  and {more} more")
    return bool(tally.compared) and not tally.differences


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
