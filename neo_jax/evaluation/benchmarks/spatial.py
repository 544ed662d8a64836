"""Benchmarks of spatial questions and of several images (the official kit's wrapper NEOChatSI)."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks.answers import Said
from neo_jax.evaluation.benchmarks.declaration import Benchmark, Material, Rows, Scored, Variant, by, mean, means
from neo_jax.evaluation.benchmarks.films import linear
from neo_jax.evaluation.benchmarks.images import (
    LETTER,
    ONE_WORD,
    SPATIAL_PIXELS,
    asking,
    lettered,
    score_choices,
    score_flips,
)
from neo_jax.evaluation.benchmarks.letters import letter_of
from neo_jax.evaluation.benchmarks.message import AFTER_IMAGE, Part, at_marks, behind_texts, pictures_in_brackets, pictures_numbered
from neo_jax.evaluation.benchmarks.numbers import moves_accuracy, number_of, relative_accuracy
from neo_jax.evaluation.benchmarks.rows import Row

RELATIVE = "MRA:.5:.95:.05"  # the official kit's name of relative_accuracy
MOVES = "vci_metric"
VSI_NUMBERS = {"object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"}
VSI_DIRECTIONS = {f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")}
SPAR_MOVES = "view_change_infer"
SPAR_LEVELS = {"position_matching": "Middle", "camera_motion_infer": "Middle", SPAR_MOVES: "Middle"}  # predictions are Low, others High
SITE_CATEGORIES = (
    *("counting & existence", "object localization & positioning", "3d information understanding"),
    *("multi-view & cross-image reasoning", "spatial relationship reasoning", "movement prediction & navigation"),
)
UNKNOWN_OPTIONS = 4
LETTER_NOW = "Give me the answer letter directly. The best answer is:"
OMNI_PROMPT = """
You are a spatial-reasoning assistant.

Task
-----
You will receive
1. **Image** - a single RGB frame depicting a scene.
2. **Question** - a natural-language query about spatial relationships between objects in the image.
3. **Options** - \u22652 answer candidates, each tagged by a capital letter (A, B, C, D\u2026).

Guidelines
----------
Please follow these steps to analyze the image and answer the question:
1. First, carefully observe the image and identify all relevant objects and their spatial relationships.
2. Next, break down the question into key components that need to be addressed.
3. Think through the spatial reasoning step-by-step to arrive at your answer. It may be necessary to transfer perspective to better understand \
the scene.{comment}
4. Finally, select the most appropriate option (A, B, C, or D) based on your analysis.

Always ground your answer in the visual evidence; do not hallucinate unseen objects.
If uncertain, pick the most plausible option\u2014never refuse or reply \u201cinsufficient information.\u201d


End your answer with a separate line formatted exactly as:

Answer: X
where X \u2208 {{A, B, C, D}}.


"""


def _site(question: str, options: Sequence[str]) -> str:
    lines = "".join(f"{letter}: {text}\n" for letter, text in zip(string.ascii_uppercase, options, strict=False))
    return f"Question: {question}\nOptions:\n{lines}{LETTER_NOW}"


def _site_image(row: Row, material: Material) -> Sequence[Part]:
    return list(at_marks(_site(row.text("question"), row.list("options")), material.images(row), strict=not material.quirks))


def _frames(row: Row, material: Material, name: str) -> list[Part]:
    shots = enumerate(material.film(row, row.text(name)).shots, 1)
    return [part for number, shot in shots for part in (f"Frame-{number}: ", shot, AFTER_IMAGE)]


def _site_video(row: Row, material: Material) -> Sequence[Part]:
    task = (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter of the correct "
        "option.\n"
    )
    return [*_frames(row, material, "video_path"), task + _site(row.text("question"), row.list("candidates"))]


def _vsi(row: Row, material: Material) -> Sequence[Part]:
    if row.text("question_type") in VSI_NUMBERS:
        ending = "\nAnswer briefly and directly in one float number."
    else:
        ending = "".join(f"\n{option}" for option in row.list("candidates")) + LETTER
    return [*_frames(row, material, "video"), f"These are frames of a video.\n{row.text('question')}{ending}"]


def _mmsi(row: Row, material: Material) -> Sequence[Part]:
    hint = f"Hint: {row.text('hint')}\n" if row.has("hint") else ""
    options = "".join(f"{letter}: {text}, " for letter, text in row.options().items())
    text = f"{hint}{row.text('question')}\n{'Options: ' if options else ''}{options}{LETTER} Enclose the option's letter within ``."
    return [*material.images(row), text]


def _viewspatial(row: Row, material: Material) -> Sequence[Part]:
    text = f"Question: {row.text('question')}\nChoices: {row.text('candidates')}\nReply only to the corresponding option.\nAnswer:"
    return [*material.images(row), text]


def _muir(row: Row, material: Material) -> Sequence[Part]:
    options = "".join(f"({letter}) {text}\n" for letter, text in row.options().items())
    hint = "Hint: Please provide the correct option letter, such as A, B, C, D, directly.\nAnswer:"
    text, pictures = f"Question: {row.text('question')}\nChoices: \n{options}\n{hint}", material.images(row)
    return list(behind_texts(text, pictures) if material.quirks else at_marks(text, pictures, strict=True))


def _omni(row: Row, material: Material) -> Sequence[Part]:
    task = OMNI_PROMPT.format(comment="   # noqa: E501" if material.quirks else "")
    return [*material.images(row), f"{task}{row.text('question')}{lettered(row.options())}"]


def _options(row: Row) -> dict[str, str]:
    """Returns the options of the columns A, B, C, ...; else of a list `options`; else of lines `A. text` in `candidates`."""
    if options := row.options():
        return options
    if row.has("options"):
        return dict(zip(string.ascii_uppercase, row.list("options"), strict=False))
    lines = [line.strip() for line in row.text("candidates").split("\n")] if row.has("candidates") else []
    return {line[0].upper(): line[2:].strip() for line in lines if len(line) > 2 and line[0].isalpha() and line[1] == "."}


def _choice(row: Row, material: Material) -> Sequence[Part]:
    return [asking(row, _options(row)), *material.images(row)]


def _spar(row: Row, material: Material) -> Sequence[Part]:
    return [row.text("question") + ONE_WORD, *material.images(row)]


def _letter_fields(row: Row, said: Said, quirks: bool) -> dict[str, Any]:
    letter, key = letter_of(said), letter_of(row.text("answer"))
    # To the official kit an unreadable answer equals an unreadable key.
    return {"hit": int(letter == key and (letter is not None or quirks)), "pred_extracted": letter or False}


def _number_fields(row: Row, said: Said, quirks: bool) -> dict[str, Any]:
    number = number_of(said)
    return {"pred_extracted": number, RELATIVE: relative_accuracy(number, row.number("answer"))}


def _letters(rows: Rows, said: Sequence[Said], quirks: bool) -> tuple[list[dict[str, Any]], list[float]]:
    fields = [_letter_fields(row, each, quirks) for row, each in zip(rows, said, strict=True)]
    return fields, [float(each["hit"]) for each in fields]


def _score_letters(column: str, rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    fields, hits = _letters(rows, said, quirks)
    overall = 100 * mean(hits)
    parts = means(by(rows, hits, column), 100, "_accuracy") if column else {}
    return Scored(fields, list(hits), {"overall": overall, **parts}, overall)


def _count(row: Row) -> int:
    """Returns the number of options; 4 where they cannot be read, as in the official kit."""
    column = "candidates" if "candidates" in row.values else "options"
    try:
        return len(row.list(column)) or UNKNOWN_OPTIONS
    except DataError:
        return UNKNOWN_OPTIONS


def _above_chance(rows: Rows, hits: Sequence[float]) -> float:
    chance = sum(1 / _count(row) for row in rows)
    return 100 * (sum(hits) - chance) / (len(rows) - chance) if len(rows) > chance else 0.0


def _score_site(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    fields, hits = _letters(rows, said, quirks)
    found = by(rows, list(range(len(rows))), "category")
    numbers = {name: found[name] for name in SITE_CATEGORIES if name in found}
    table = {"overall_accuracy": 100 * mean(hits), "overall_caa": _above_chance(rows, hits)}
    for name, places in numbers.items():
        within, right = [rows[int(place)] for place in places], [hits[int(place)] for place in places]
        table |= {f"{name}_accuracy": 100 * mean(right), f"{name}_caa": _above_chance(within, right)}
    return Scored(fields, list(hits), table, table["overall_caa"])


def _mixed(rows: Rows, fields: Sequence[dict[str, Any]], task: str) -> tuple[list[float], dict[str, tuple[str, float]]]:
    """Returns the value of each row; and of each task, the name of its metric and its mean."""
    metrics = [next(name for name in (RELATIVE, MOVES, "hit") if name in each) for each in fields]
    values = [float(each[metric]) for each, metric in zip(fields, metrics, strict=True)]
    names = {row.text(task): "accuracy" if metric == "hit" else metric for row, metric in zip(rows, metrics, strict=True)}
    return values, {name: (names[name], mean(each)) for name, each in by(rows, values, task).items()}


def _score_vsi(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    fields = [
        (_number_fields if row.text("question_type") in VSI_NUMBERS else _letter_fields)(row, each, quirks)
        for row, each in zip(rows, said, strict=True)
    ]
    values, tasks = _mixed(rows, fields, "question_type")
    if tasks.keys() >= VSI_DIRECTIONS:
        direction = mean([tasks[name][1] for name in sorted(VSI_DIRECTIONS)])
        tasks = {name: each for name, each in tasks.items() if name not in VSI_DIRECTIONS} | {
            "object_rel_direction": ("accuracy", direction)
        }
    overall = 100 * mean([value for _, value in tasks.values()])
    table = {"overall": overall} | {f"{name}_{metric}": 100 * value for name, (metric, value) in tasks.items()}
    return Scored(fields, list(values), table, overall)


def _spar_fields(row: Row, said: Said, quirks: bool) -> dict[str, Any]:
    task = row.text("task")
    if task == SPAR_MOVES:
        return {"pred_extracted": None, MOVES: moves_accuracy(said, row.text("answer"))}
    return (_number_fields if "_prediction_" in task else _letter_fields)(row, said, quirks)


def _score_spar(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    fields = [_spar_fields(row, each, quirks) for row, each in zip(rows, said, strict=True)]
    values, tasks = _mixed(rows, fields, "task")
    levels: dict[str, list[float]] = {"Low": [], "Middle": [], "High": []}
    for name, (_, value) in tasks.items():
        levels[SPAR_LEVELS.get(name, "Low" if "_prediction_" in name else "High")].append(value)
    overall = mean([value for _, value in tasks.values()])
    table = (
        {"overall": overall}
        | {name: mean(values) if values else 0.0 for name, values in levels.items()}
        | {f"{name}_{metric}": value for name, (metric, value) in tasks.items()}
    )
    return Scored(fields, list(values), table, 100 * overall)


def _spatial(
    name: str, title: str, variant: Variant | str, prompt: Any, score: Any, family: str = "category", layout: Any = pictures_numbered
) -> Benchmark:
    variants = (Variant(variant) if isinstance(variant, str) else variant,)
    return Benchmark(name, title, True, prompt, layout, score, variants, SPATIAL_PIXELS, family=family)


def _by_column(column: str) -> Callable[..., Scored]:
    return functools.partial(_score_letters, column)


SPATIAL = (
    _spatial("vsi_bench", "VSI-Bench", Variant("VSI-Bench_32frame", linear(32)), _vsi, _score_vsi, "question_type", list),
    _spatial(
        "site_video",
        "SITE (video)",
        Variant("SiteBenchVideo_32frame", linear(32)),
        _site_video,
        _score_site,
        layout=list,
    ),
    _spatial("site_image", "SITE (image)", "SiteBenchImage", _site_image, _score_site),
    _spatial("mmsi_bench", "MMSI-Bench", "MMSIBench_wo_circular", _mmsi, _by_column("category")),
    _spatial("viewspatial", "ViewSpatial-Bench", "ViewSpatialBench", _viewspatial, _by_column("question_type"), "question_type"),
    _spatial("muirbench", "MUIRBench", "MUIRBench_EASI", _muir, _by_column("task"), "task", pictures_in_brackets),
    _spatial("omnispatial", "OmniSpatial", "OmniSpatialBench_manual_cot", _omni, _by_column(""), "task_type"),
    _spatial("mindcube", "MindCube (tiny)", "MindCubeBench_tiny_raw_qa", _choice, _by_column("category")),
    _spatial("embspatial", "EmbSpatial-Bench", "EmbSpatialBench", _choice, _by_column("data_source"), "data_source"),
    _spatial("blink", "BLINK", "BLINK", _choice, score_choices),
    _spatial("3dsrbench", "3DSRBench", "3DSRBench", _choice, score_flips),
    _spatial("spar_bench", "SPAR-Bench", "SparBench", _spar, _score_spar, "task"),
)
