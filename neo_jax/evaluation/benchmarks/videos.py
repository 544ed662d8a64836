"""Benchmarks of videos (the official kit's wrapper NEOChat)."""

from __future__ import annotations

import dataclasses
import functools
import json
import string
from collections.abc import Sequence
from typing import Any

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks import mmmu
from neo_jax.evaluation.benchmarks.answers import Said
from neo_jax.evaluation.benchmarks.choices import by_bracket, by_first_word, first_capital
from neo_jax.evaluation.benchmarks.declaration import Benchmark, Material, Rows, Scored, Variant, by, mean, means
from neo_jax.evaluation.benchmarks.films import Choice, each_second, inner, open_folder, segments, with_subtitles
from neo_jax.evaluation.benchmarks.images import LETTER, lettered
from neo_jax.evaluation.benchmarks.message import AFTER_IMAGE, Part
from neo_jax.evaluation.benchmarks.pictures import inside
from neo_jax.evaluation.benchmarks.rows import Row

PIXELS = (4096, 360 * 640)
WATCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of objects, and the action "
    "and pose of persons. Based on your observations, select the best option that accurately addresses the question.\n"
)
DETAILS = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option that accurately "
    "addresses the question."
)
VIDEO_MME = (
    "\nThese are the frames of a video. Select the best answer to the following multiple-choice question based on the video. Respond with "
    "only the letter (A, B, C, or D) of the correct option.\nQuestion: "
)
CHOICE = "multiple-choice"
APPLY = "You should watch and learn the video content. Then apply what you learned to "
ANSWER_CHOICE = (
    "answer the following multi-choice question. The image for this question is at the end of the video. Please provide only the single "
    "option letter (e.g., A, B, C, D, etc.)\n"
)
ANSWER_OPEN = "answer the following open-ended question. The image for this question is at the end of the video.\n"
IGNORE_QUIZ = "\nPlease ignore the Quiz question in last frame of the video."
TASKS = ("Adaptation", "Comprehension", "Perception")
NO_LETTER = "@"  # of a key that is none of the candidates: the official kit goes on, and nothing is right
API_ERROR = "API Error"  # what the official kit reads an answer as that ends with "Answer:"; it leaves the row out of the table
DURATIONS = ("short", "medium", "long")


def _video_mme(row: Row, material: Material) -> Sequence[Part]:
    film = material.film(row, row.text("video_path"))
    options = "\n".join(row.list("candidates"))
    return [film.opening(), *film.with_times(), f"{VIDEO_MME}{row.text('question')}\n{options} {LETTER}"]


def _lvbench(row: Row, material: Material) -> Sequence[Part]:
    film = material.film(row, row.text("video"))
    return [film.opening(), *film.with_times(), f"{row.text('question')}\nAnswer the question with the option letter."]


def _in_brackets(row: Row) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, row.list("candidates"), strict=False))


def _best_option(row: Row) -> str:
    options = "".join(f"({letter}) {text}\n" for letter, text in _in_brackets(row).items())
    return f"Question: {row.text('question')}\nOptions:\n{options}Only give the best option."


def _key(row: Row, quirks: bool) -> str:
    """Returns the letter of the right one of the candidates: the last one, if several read the same."""
    answer = row.text("answer")
    letters = [letter for letter, text in _in_brackets(row).items() if text == answer]
    if not letters and not quirks:
        raise DataError(f"{row.place}: the answer {answer!r} is none of its candidates")
    return letters[-1] if letters else NO_LETTER


def _mvbench(row: Row, material: Material) -> Sequence[Part]:
    place = f"{row.text('prefix')}{row.text('video')}"
    bounds = (row.number("start"), row.number("end")) if row.text("bound").lower() == "true" else None
    count = material.variant.shots
    if row.text("data_type") == "frame":
        film = open_folder(inside(material.root, place, row.place), row.place, count, bounds, material.quirks)
    else:
        low, high = bounds or (None, None)
        choose: Choice = lambda length: segments(length, count, 0, length.frames - 1, low, high)  # noqa: E731
        film = dataclasses.replace(material, variant=Variant(material.variant.data, choose)).film(row, place)
    return [WATCH, *(part for shot in film.shots for part in (shot, AFTER_IMAGE)), _best_option(row)]


def _mlvu(row: Row, material: Material) -> Sequence[Part]:
    film = material.film(row, f"{row.text('prefix')}/{row.text('video')}")
    return [DETAILS, film.opening(), *film.with_times(), _best_option(row)]


def _longvideobench(row: Row, material: Material) -> Sequence[Part]:
    film = material.film(row, row.text("video_path"))
    # The official kit puts subtitles in although its setting says not to.
    frames = with_subtitles(film, _subtitles(row, material)) if material.quirks else film.with_times()
    return [film.opening(), *frames, f"{row.text('question')}{lettered(_in_brackets(row))}{LETTER}"]


def _subtitles(row: Row, material: Material) -> list[tuple[float, float, str]]:
    path = inside(material.root, f"subtitles/{row.text('subtitle_path')}", row.place)
    start, duration = row.number("starting_timestamp_for_subtitles"), row.number("duration")
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
        return [(low - start, high - start, text) for low, high, text in (_line(line, duration) for line in lines)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{row.place}: {path} holds no subtitles ({type(error).__name__}: {error})") from error


def _line(line: dict[str, Any], duration: float) -> tuple[float, float, str]:
    if "timestamp" in line:
        low, high = line["timestamp"]
        return float(low), float(duration if high is None else high), str(line["text"])
    return _seconds(line["start"]), _seconds(line["end"]), str(line["line"])


def _seconds(text: str) -> float:
    hours, minutes, seconds = text.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _mmmu_options(row: Row) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, row.list("options"), strict=False)) if row.text("question_type") == CHOICE else {}


def _mmmu_lines(options: dict[str, str]) -> str:
    """Returns the options, each on its line; those that all have their letters already stay as they are."""
    if all(text.startswith(f"{letter}.") for letter, text in options.items()):
        return "".join(f"\n{text}" for text in options.values())
    return lettered(options)


def _video_mmmu(row: Row, material: Material) -> Sequence[Part]:
    film = material.film(row, row.text("video"), first_doubled=True)
    start: list[Part] = [film.opening(), *film.with_times()]
    options, question = _mmmu_options(row), row.text("question")
    if row.text("category") != "Adaptation":
        if not options:
            raise DataError(f"{row.place}: is an open question of {row.text('category')}: the official kit asks none, only of Adaptation")
        task = f"{question}{ANSWER_CHOICE}" if material.quirks else f"{question}\n"
        return [*start, f"{task}{_mmmu_lines(options)}{IGNORE_QUIZ}"]
    picture = material.pictures.file(row, row.text("image"))
    question = f"{APPLY}{ANSWER_CHOICE if options else ANSWER_OPEN}{question}{_mmmu_lines(options)}"
    if not material.variant.in_text:
        return [*start, picture, AFTER_IMAGE, question]
    before, _, after = question.partition("<image 1>")
    return [*start, before, picture, AFTER_IMAGE, after if after.strip() else ""]


def _three_decimals(groups: dict[str, list[float]]) -> dict[str, str]:
    return {name: f"{mean(values):.3f}" for name, values in groups.items()}


def _nested(rows: Rows, hits: Sequence[float], column: str, order: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """Returns accuracies with three decimals: of all rows, and of those of each value of a column, whole and by further columns."""
    numbers = {name: [int(each) for each in places] for name, places in by(rows, list(range(len(rows))), column).items()}
    splits = {name: numbers[name] for name in (*order, *numbers) if name in numbers} | {"overall": list(range(len(rows)))}
    table = {}
    for name, places in splits.items():
        within, right = [rows[place] for place in places], [hits[place] for place in places]
        table[name] = {"overall": f"{mean(right):.3f}"} | {each: _three_decimals(by(within, right, each)) for each in columns}
    return table


def _score_first_capital(
    letters: str, column: str, order: Sequence[str], columns: Sequence[str], rows: Rows, said: Sequence[Said], quirks: bool
) -> Scored:
    hits = [int(first_capital(each, letters) == _letter(row)) for row, each in zip(rows, said, strict=True)]
    table = _nested(rows, hits, column, order, columns)
    return Scored([{"score": hit} for hit in hits], [float(hit) for hit in hits], table, 100 * mean(hits))


def _letter(row: Row) -> str:
    return string.ascii_uppercase[int(row.number("correct_choice"))] if row.has("correct_choice") else row.text("answer")


def _score_lvbench(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    hits = [int(first_capital(each, "ABCD") == row.text("answer")) for row, each in zip(rows, said, strict=True)]
    return Scored([{"score": hit} for hit in hits], [float(hit) for hit in hits], {"printed correct rate": mean(hits)}, 100 * mean(hits))


def _score_mvbench(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    scores: list[int | None] = []
    for row, each in zip(rows, said, strict=True):
        if quirks and each is None:
            scores.append(None)
        elif not quirks and not str(each or "").replace(".", "").replace("(", "").strip():
            scores.append(0)
        else:
            scores.append(by_first_word(each, _key(row, quirks), _in_brackets(row)))
    # What is empty, and what failed, counts as right in the official kit's totals.
    hits = [float(score != 0) if quirks else float(score == 1) for score in scores]
    groups = by(rows, hits, "task_type") | {"overall": hits}
    table = {name: [int(sum(each)), len(each), f"{100 * mean(each):.2f}%"] for name, each in groups.items()}
    return Scored([{"score": score} for score in scores], list(hits), table, 100 * mean(hits))


def _score_mlvu(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    scores = [by_bracket(each, _key(row, quirks), _in_brackets(row)) for row, each in zip(rows, said, strict=True)]
    counted = [float(score) if quirks else float(score == 1) for score in scores]  # the official kit subtracts what failed
    groups = by(rows, counted, "task_type") | {"M-Avg": counted}
    table = [
        {"task": name, "success": sum(each), "overall": float(len(each)), "acc": round(100 * mean(each), 1)}
        for name, each in groups.items()
    ]
    return Scored([{"score": score} for score in scores], [float(score == 1) for score in scores], table, 100 * mean(counted))


def _score_video_mmmu(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    fields: list[dict[str, Any]] = []
    for row, each in zip(rows, said, strict=True):
        options = _mmmu_options(row)
        if quirks and mmmu.is_empty(each):
            fields.append({"score": 0, "parsed_pred": API_ERROR})
        elif options:
            letter = mmmu.chosen(each, options)
            fields.append({"score": int(letter == row.text("answer")), "parsed_pred": letter})
        else:
            right = not quirks and mmmu.open_is_right(each, row.text("answer"))  # the official kit never finds one right
            fields.append({"score": int(right), "parsed_pred": str(mmmu.open_answers(each))})
    counted = [number for number, each in enumerate(fields) if each["parsed_pred"] != API_ERROR]
    hits = [float(each["score"]) for each in fields]
    right_of = [hits[number] for number in counted]
    found = by([rows[number] for number in counted], right_of, "category")
    groups = {name: values for name, values in found.items() if name in TASKS} | {"Overall": right_of}
    table = [
        {"index": "total", **{name: float(len(values)) for name, values in groups.items()}},
        {"index": "hit", **{name: sum(values) for name, values in groups.items()}},
        {"index": "acc", **means({name: values for name, values in groups.items() if values}, 100)},
    ]
    return Scored(fields, list(hits), table, 100 * mean(hits))


def _video(name: str, title: str, variants: Sequence[Variant], prompt: Any, score: Any, family: str) -> Benchmark:
    return Benchmark(name, title, False, prompt, list, score, tuple(variants), PIXELS, family=family)


VIDEOS = (
    _video(
        "video_mme",
        "Video-MME",
        [Variant("Video-MME_1fps_max256", each_second(256))],
        _video_mme,
        functools.partial(_score_first_capital, "ABCD", "duration", DURATIONS, ("domain", "sub_category", "task_type")),
        "duration",
    ),
    _video(
        "mvbench",
        "MVBench",
        [Variant("MVBench_64frame", shots=64), Variant("MVBench_32frame", shots=32)],
        _mvbench,
        _score_mvbench,
        "task_type",
    ),
    _video("lvbench", "LVBench", [Variant("lvbench_1fps_max256", each_second(256))], _lvbench, _score_lvbench, ""),
    _video(
        "mlvu",
        "MLVU (M-Avg)",
        [Variant("MLVU_128frame", inner(128)), Variant("MLVU_256frame", inner(256))],
        _mlvu,
        _score_mlvu,
        "task_type",
    ),
    _video(
        "longvideobench",
        "LongVideoBench",
        [Variant("LongVideoBench_256frame", inner(256))],
        _longvideobench,
        functools.partial(_score_first_capital, "ABCDE", "duration_group", (), ("question_category",)),
        "duration_group",
    ),
    _video(
        "video_mmmu",
        "Video-MMMU",
        [Variant("VideoMMMU_128frame", inner(128), in_text=True), Variant("VideoMMMU_256frame", inner(256))],
        _video_mmmu,
        _score_video_mmmu,
        "category",
    ),
)
