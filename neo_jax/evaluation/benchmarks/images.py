"""Benchmarks of single images (the official kit's wrapper NEOChat), and two spatial ones with the same questions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks.answers import Said, as_text
from neo_jax.evaluation.benchmarks.choices import choose, open_as_choice
from neo_jax.evaluation.benchmarks.declaration import Benchmark, Material, Rows, Scored, Variant, by, mean, means
from neo_jax.evaluation.benchmarks.message import Part, pictures_last
from neo_jax.evaluation.benchmarks.rows import Row, is_list
from neo_jax.evaluation.benchmarks.yes_no import f1_scores, yes_or_no
from neo_jax.evaluation.metrics import Options, anls, relaxed, vqa

LETTER = "\nAnswer with the option's letter from the given choices directly."
DIRECTLY = "\nAnswer the question directly."
CHINESE = re.compile("[\u4e00-\u9fff]")
CHINESE_LETTER, CHINESE_DIRECTLY = (  # answer with the option's letter directly; answer the question directly
    "\n\u8bf7\u76f4\u63a5\u56de\u7b54\u9009\u9879\u5b57\u6bcd\u3002",
    "\n\u8bf7\u76f4\u63a5\u56de\u7b54\u95ee\u9898\u3002",
)
ONE_WORD = "\nAnswer the question using a single word or phrase."
ROTATION = 1_000_000  # MMBench: the rotations of question i have the indices i + k * ROTATION
ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
MMMU_CHOICE = (
    "Answer the preceding multiple choice question. The last line of your response should follow this format: 'Answer: \\boxed LETTER' "
    "(without quotes), where LETTER is one of the options. If you are uncertain or the problem is too complex, make a reasoned guess based "
    "on the information provided. Avoid repeating steps indefinitely\u2014provide your best guess even if unsure. Think step by step "
    "logically, considering all relevant information before answering.\n\n"
)
MMMU_OPEN = (
    "Your output should be divided into two parts: First, reason about the correct answer. Then write the answer in the following format "
    'where X is only the answer and nothing else: "ANSWER: X"\n'
)
RECOGNITION = {  # OCRBench's tasks that count as text recognition
    f"{kind} Text Recognition" for kind in ("Regular", "Irregular", "Artistic", "Non-Semantic")
} | {"Handwriting Recognition", "Digit String Recognition"}
FORMULAS = "Handwritten Mathematical Expression Recognition"
OCR_TASKS = ("Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction", FORMULAS)


def question_of(row: Row) -> str:
    """Returns a question without marks of pictures and surrounding blanks."""
    return row.text("question").replace("<image>", "").strip()


def lettered(options: dict[str, str]) -> str:
    """Returns the options, each on its line."""
    return "".join(f"\n{letter}. {text}" for letter, text in options.items())


def asking(row: Row, options: dict[str, str]) -> str:
    """Returns hint, question, options, and how to answer; the latter in Chinese if any of it is."""
    hint = f"{row.text('hint')}\n" if row.has("hint") else ""
    text = f"{hint}{question_of(row)}{lettered(options)}"
    if CHINESE.search(text):
        return text + (CHINESE_LETTER if options else CHINESE_DIRECTLY)
    return text + (LETTER if options else DIRECTLY)


def choice_prompt(row: Row, material: Material) -> Sequence[Part]:
    """A question with the options of its columns A, B, C, ..."""
    return [asking(row, row.options()), *material.images(row)]


def _mmmu_prompt(row: Row, material: Material) -> Sequence[Part]:
    tasks = {"multiple-choice": MMMU_CHOICE, "open": MMMU_OPEN}
    if (kind := row.text("question_type")) not in tasks:
        raise DataError(f"{row.place}: question_type is {kind!r}, must be one of {', '.join(tasks)}")
    text = f"{tasks[kind]}{row.text('question')}{lettered(row.options())}"
    first, *others = material.images(row)
    return [text, dataclasses.replace(first, doubled=material.quirks), *others]


def _question_and(ending: str) -> Callable[[Row, Material], Sequence[Part]]:
    return lambda row, material: [row.text("question") + ending, *material.images(row)]


def _by_split(rows: Rows, hits: Sequence[float]) -> list[dict[str, Any]]:
    """Returns the accuracy of each split: of all, by l2-category and by category."""
    splits = by(rows, list(range(len(rows))), "split") or {"none": list(range(len(rows)))}
    columns = [column for column in ("l2-category", "category") if any(row.has(column) for row in rows)]
    names = {column: sorted(by(rows, hits, column)) for column in columns}
    table = []
    for split, numbers in sorted(splits.items()):
        within, right = [rows[int(number)] for number in numbers], [hits[int(number)] for number in numbers]
        line: dict[str, Any] = {"split": split, "Overall": mean(right)}
        for column in columns:
            found = means(by(within, right, column))
            line |= {ABBREVIATIONS.get(name, name): found.get(name) for name in names[column]}
        table.append(line)
    return table


def score_choices(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    """One option is right."""
    hits = [int(choose(each, row.options()) == row.text("answer")) for row, each in zip(rows, said, strict=True)]
    return Scored([{"hit": hit} for hit in hits], [float(hit) for hit in hits], _by_split(rows, hits), 100 * mean(hits))


def _score_mmmu(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    hits = []
    for row, each in zip(rows, said, strict=True):
        options, key = open_as_choice(row.options(), row.text("answer"))
        hits.append(int(choose(each, options) == key))
    table = _by_split(rows, hits)
    published = next(
        (line for line in table if line["split"] == "validation"), table[0]
    )  # the score that is published is that of this split
    return Scored([{"hit": hit} for hit in hits], [float(hit) for hit in hits], table, 100 * published["Overall"])


def _score_rotations(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    right = [choose(each, row.options()) == row.text("answer") for row, each in zip(rows, said, strict=True)]
    indices = [int(row.number("index")) for row in rows]
    groups: dict[int, list[int]] = {}
    for number in sorted(range(len(rows)), key=lambda number: indices[number]):
        groups.setdefault(indices[number] % ROTATION, []).append(number)
    fields: list[dict[str, Any]] = [{} for _ in rows]
    for numbers in groups.values():
        fields[numbers[0]]["hit"] = int(all(right[number] for number in numbers))
    first = [number for number in range(len(rows)) if fields[number]]
    hits = [fields[number]["hit"] for number in first]
    values = [float(each["hit"]) if each else None for each in fields]
    return Scored(fields, values, _by_split([rows[number] for number in first], hits), 100 * mean(hits))


def score_flips(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    """3DSRBench: also over the mirrored question, the other order of the options, and both, which must all be right."""
    scored = score_choices(rows, said, quirks)
    settings: dict[str, Callable[[str], str]] = {
        "vanilla": lambda qid: qid,
        "flip_eval": lambda qid: qid.replace("-flip", ""),
        "circ_eval": lambda qid: re.sub(r"-\d+$", "", qid),
        "flip_circ_eval": lambda qid: re.sub(r"(-flip)?(-\d+)?$", "", qid),
    }
    table: list[dict[str, Any]] = []
    for setting, group_of in settings.items():
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(group_of(row.text("qid")), []).append(number)
        hits = [float(all(scored.rows[number]["hit"] for number in numbers)) for numbers in groups.values()]
        first = [rows[numbers[0]] for numbers in groups.values()]
        categories = sorted(means(by(first, hits, "category")).items())
        table.append({"Overall": mean(hits), **dict(categories), "setting": setting})
    return scored._replace(aggregate=table)


def _score_hallusion(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    extracted = [yes_or_no(each) for each in said]
    right = [answer == row.text("answer") for answer, row in zip(extracted, rows, strict=True)]

    def accuracies(split: str, numbers: Sequence[int]) -> dict[str, Any]:
        figures: dict[tuple[str, ...], list[bool]] = {}
        questions: dict[tuple[str, ...], list[bool]] = {}
        for number in numbers:
            *_, group, figure, question = rows[number].key.split("_")
            kind = rows[number].text("l2-category")
            figures.setdefault((kind, group, figure), []).append(right[number])
            questions.setdefault((kind, group, question), []).append(right[number])
        return {
            "split": split,
            "aAcc": 100 * mean([right[number] for number in numbers]),
            "fAcc": 100 * mean([all(each) for each in figures.values()]),
            "qAcc": 100 * mean([all(each) for each in questions.values()]),
        }

    everything = list(range(len(rows)))
    splits = {"Overall": everything}
    for column in ("category", "l2-category"):
        splits |= {name: [int(each) for each in numbers] for name, numbers in sorted(by(rows, everything, column).items())}
    table = [accuracies(split, numbers) for split, numbers in splits.items()]
    fields = [{"score": hit, "extracted": answer} for hit, answer in zip(right, extracted, strict=True)]
    overall = mean([table[0][name] for name in ("aAcc", "fAcc", "qAcc")])
    return Scored(fields, [float(hit) for hit in right], table, overall)


def _score_pope(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    extracted = [yes_or_no(each) for each in said]
    keys = [row.text("answer") for row in rows]
    categories = [row.text("category").split(",") for row in rows]
    # A row counts once for each of its categories, overall too.
    lines = [(category, number) for number, names in enumerate(categories) for category in names]
    splits = {"Overall": [number for _, number in lines]}
    splits |= {name: [number for category, number in lines if category == name] for name in sorted({category for category, _ in lines})}
    table: list[dict[str, Any]] = [
        {"split": split, **f1_scores([extracted[number] for number in numbers], [keys[number] for number in numbers])}
        for split, numbers in splits.items()
    ]
    right = [answer == key for answer, key in zip(extracted, keys, strict=True)]
    fields = [{"score": hit, "extracted": answer} for hit, answer in zip(right, extracted, strict=True)]
    return Scored(fields, [float(hit) for hit in right], table, float(table[0]["Overall"]))


def accepted(row: Row) -> list[str]:
    """Returns the accepted answers of a row: one, or a list. To the official kit an answer such as None is an empty cell, "nan"."""
    if "answer" in row.values and not row.has("answer"):
        return ["nan"]
    text = row.text("answer")
    try:
        return row.list("answer") if is_list(text) else [text]
    except DataError:  # a text in square brackets
        return [text]


def _score_texts(metric: Callable[[str, Sequence[str], Options], float], by_column: str = "") -> Callable[..., Scored]:
    def score(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
        values = [metric(as_text(each), accepted(row), Options()) for row, each in zip(rows, said, strict=True)]
        parts = means(by(rows, values, by_column), 100) if by_column else {}
        overall = 100 * mean(values)
        return Scored([{"score": value} for value in values], list(values), [parts | {"Overall": overall}], overall)

    return score


def _score_ocr(rows: Rows, said: Sequence[Said], quirks: bool) -> Scored:
    counts = dict.fromkeys(OCR_TASKS, 0)
    hits = []
    for row, each in zip(rows, said, strict=True):
        task, text = row.text("category"), as_text(each)
        if task == FORMULAS:
            hit = any(_squeezed(answer) in _squeezed(text) for answer in accepted(row))
        else:
            hit = any(_low(answer) in _low(text) for answer in accepted(row))
        hits.append(int(hit))
        name = "Text Recognition" if task in RECOGNITION else task
        if name not in counts:
            raise DataError(f"{row.place}: the category {task!r} is none of OCRBench's")
        counts[name] += hit
    total = sum(hits)
    table = counts | {"Final Score": total, "Final Score Norm": total / 10}
    return Scored([{"score": hit} for hit in hits], [float(hit) for hit in hits], table, 100 * mean(hits))


def _low(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _squeezed(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


PIXELS = (1280 * 32 * 32, 16384 * 32 * 32)
SPATIAL_PIXELS = (720 * 960, 720 * 960)


def _image(name: str, title: str, data: str, prompt: Any, score: Any, pixels: tuple[int, int] = PIXELS, **others: Any) -> Benchmark:
    return Benchmark(name, title, False, prompt, pictures_last, score, (Variant(data),), pixels, **others)


IMAGES = (
    _image("mmmu", "MMMU (val)", "MMMU_DEV_VAL", _mmmu_prompt, _score_mmmu, (1_003_520, 4_014_080)),
    _image("mmbench", "MMBench-EN", "MMBench_DEV_EN", choice_prompt, _score_rotations),
    _image("mmstar", "MMStar", "MMStar", choice_prompt, score_choices),
    _image("realworldqa", "RealWorldQA", "RealWorldQA", choice_prompt, score_choices, family=""),
    _image("seedbench_img", "SEED-Bench-IMG", "SEEDBench_IMG", choice_prompt, score_choices),
    _image("ai2d", "AI2D", "AI2D_TEST", choice_prompt, score_choices),
    _image(
        "hallusionbench",
        "HallusionBench",
        "HallusionBench",
        _question_and(" Please answer yes or no. Answer the question using a single word or phrase."),
        _score_hallusion,
        leave_out=lambda row: "image" in row.values and not row.has("image"),
    ),
    _image("pope", "POPE", "POPE", _question_and(""), _score_pope),
    _image("docvqa", "DocVQA (val)", "DocVQA_VAL", _question_and(ONE_WORD), _score_texts(anls), family=""),
    _image("chartqa", "ChartQA", "ChartQA_TEST", _question_and(ONE_WORD), _score_texts(relaxed, "split"), family="split"),
    _image("textvqa", "TextVQA (val)", "TextVQA_VAL", _question_and(ONE_WORD), _score_texts(vqa), (2048 * 32 * 32, PIXELS[1]), family=""),
    _image("ocrbench", "OCRBench", "OCRBench", _question_and(ONE_WORD), _score_ocr, (512 * 512, PIXELS[1])),
)
