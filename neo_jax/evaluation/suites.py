"""Sets of questions that are answered and scored together: one's own rows, and benchmarks."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.documents import Lengths
from data_pipelines.schema import Document
from data_pipelines.text import chat
from neo_jax import config
from neo_jax.config.benchmark import OWN_TOKENS
from neo_jax.evaluation.benchmarks.answers import read_back
from neo_jax.evaluation.benchmarks.declaration import Benchmark, Material
from neo_jax.evaluation.benchmarks.documents import grids, prompt_document
from neo_jax.evaluation.benchmarks.message import Prompt
from neo_jax.evaluation.benchmarks.registry import PRESETS, Asking, benchmark_named
from neo_jax.evaluation.benchmarks.rows import Row, read_rows
from neo_jax.evaluation.metrics import METRICS, Options
from neo_jax.evaluation.own_rows import Row as OwnRow
from neo_jax.evaluation.own_rows import read_rows as read_own_rows
from neo_jax.evaluation.results import AnswersFile, Result, Score, scores_of
from neo_jax.inference.answering import Answerer, Prompts, blanked
from neo_jax.inference.sampling import GREEDY, Sampling


class Outcome(NamedTuple):
    """The scores of a suite.

    Attributes:
      results: of each question.
      families: means with intervals.
      overall: the score that is published, in per cent; the mean of own rows.
      official: the table as the official kit returns it; None for own rows.
    """

    results: list[Result]
    families: dict[str, Score]
    overall: float
    official: Any

    def content(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what scores.json holds, given what was asked."""
        scores = {name: dataclasses.asdict(score) for name, score in self.families.items()}
        return {"settings": dict(settings), "overall": self.overall, "scores": scores, "official": self.official}


@dataclasses.dataclass(frozen=True)
class Suite:
    """Questions, and how they are asked and scored.

    Attributes:
      keys: names of the questions, each its own.
      families: of each question.
      max_tokens: most tokens of an answer.
      sampling: how its tokens are chosen; each question adds its number to the seed.
      settings: what the answers depend on, beside the model.
      measure: returns the lengths of a question's prompt. Raises DataError or SampleError.
      document: builds it. Errors as measure.
      score: returns for each answer its score (None: within another row's) and details; then the overall score and the official table.
    """

    keys: Sequence[str]
    families: Sequence[str]
    max_tokens: int
    sampling: Sampling
    settings: Mapping[str, Any]
    measure: Callable[[Answerer, int], Lengths]
    document: Callable[[Answerer, int], Document]
    score: Callable[[Sequence[str]], tuple[list[float | None], list[dict[str, Any]], float, Any]]

    def outcome(self, predictions: Mapping[str, str]) -> Outcome:
        """Scores answers, given by key."""
        said = [predictions[key] for key in self.keys]
        values, details, overall, official = self.score(said)
        fields = zip(self.keys, self.families, said, values, details, strict=True)
        results = [Result(*each) for each in fields]
        return Outcome(results, scores_of(results), overall, official)


def open_suite(asked: config.Benchmark, pictures: str) -> Suite:
    """Reads the questions of a file.

    Args:
      asked: file, benchmark, preset.
      pictures: policy by which pictures of own rows are read; a benchmark's are read as the official kit does.

    Raises:
      DataError: a row cannot be asked.
    """
    own = ("data", "media_root")  # places do not change answers
    scoring = ("metric", "tolerance", "pattern")  # and scores can be computed anew
    fields = [field.name for field in dataclasses.fields(config.Benchmark) if field.name not in (*own, *scoring)]
    settings = {name: getattr(asked, name) for name in fields}
    suite = _benchmark(asked, settings) if asked.benchmark else _own(asked, settings, pictures)
    suite.score([""] * len(suite.keys))  # what scoring needs of the rows is missing before the first answer, not after the last
    return suite


def answer(
    suite: Suite,
    answerer: Answerer,
    answers: AnswersFile | Mapping[str, str],
    tokens: int,
    blank: bool,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Answers the questions of a suite that have no answer yet, on the current mesh; returns all answers by key.

    Every process is given all questions, prepares those whose rows its devices hold, and returns all answers.

    Args:
      answers: those that there are. A file is added to after each batch.
      tokens: largest number of tokens of a batch, room for the answers counted.
      blank: whether grey pictures are shown.
      progress: called with the number of answers and of questions.

    Raises:
      DataError: a question cannot be asked; nothing was answered.
    """
    known = dict(answers.predictions if isinstance(answers, AnswersFile) else answers)
    left = [number for number, key in enumerate(suite.keys) if key not in known]
    lengths = []
    for number in left:
        lengths.append(suite.measure(answerer, number))
        answerer.check_length(suite.keys[number], lengths[-1].tokens, suite.max_tokens)
        progress(len(known), len(suite.keys))

    def document(place: int) -> Document:
        built = suite.document(answerer, left[place])
        return blanked(built) if blank else built

    samplings = [dataclasses.replace(suite.sampling, seed=suite.sampling.seed + number) for number in left]
    for places, texts in answerer.answers(Prompts(lengths, document, samplings), suite.max_tokens, tokens):
        new = {suite.keys[left[place]]: text for place, text in zip(places, texts, strict=True)}
        if isinstance(answers, AnswersFile):
            answers.add(new)
        known |= new
        progress(len(known), len(suite.keys))
    return known


def _own(asked: config.Benchmark, settings: Mapping[str, Any], pictures: str) -> Suite:
    rows = read_own_rows(pathlib.Path(asked.data), asked.media_root, pictures, asked.most)
    max_tokens = asked.max_tokens or OWN_TOKENS
    metric, options = METRICS[asked.metric], Options(asked.tolerance, asked.pattern)

    def score(said: Sequence[str]) -> tuple[list[float | None], list[dict[str, Any]], float, Any]:
        values: list[float | None] = [metric(text, row.answers, options) for text, row in zip(said, rows, strict=True)]
        overall = 100 * sum(filter(None, values)) / len(values)
        return values, [{"answers": list(row.answers)} for row in rows], overall, None

    return Suite(
        [row.conversation.key for row in rows],
        [row.conversation.family for row in rows],
        max_tokens,
        GREEDY,
        {**settings, "rows": _digest(rows), "max_tokens": max_tokens, "pictures": pictures},
        lambda answerer, number: answerer.measure(rows[number].conversation, max_tokens),
        lambda answerer, number: answerer.document(rows[number].conversation, max_tokens),
        score,
    )


def _digest(rows: Sequence[OwnRow]) -> str:
    """Returns what identifies questions, without the folders that their media lie in."""
    lines = [repr((row.conversation.key, row.conversation.turns, [file.name for file in row.conversation.files])) for row in rows]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _benchmark(asked: config.Benchmark, settings: Mapping[str, Any]) -> Suite:
    benchmark, file = benchmark_named(asked.benchmark), pathlib.Path(asked.data)
    asking = PRESETS[asked.preset](benchmark)
    low, high = asking.pixels
    asking = asking._replace(
        pixels=(asked.min_pixels or min(low, asked.max_pixels or low), asked.max_pixels or max(high, asked.min_pixels)),
        max_tokens=asked.max_tokens or asking.max_tokens,
        sampling=dataclasses.replace(asking.sampling, seed=asked.seed),
    )
    whole = [row for row in read_rows(file, asking.quirks) if not benchmark.leave_out(row)]
    material = benchmark.material(whole, pathlib.Path(asked.media_root or file.parent), asking.quirks, asked.variant)
    rows = _first(benchmark, whole, asked.most)
    questions = _Questions(benchmark, rows, material, asking)

    def score(said: Sequence[str]) -> tuple[list[float | None], list[dict[str, Any]], float, Any]:
        scored = benchmark.score(rows, read_back(said, asking.quirks), asking.quirks)
        return scored.values, scored.rows, scored.overall, scored.aggregate

    return Suite(
        [row.key for row in rows],
        [_family(benchmark, row) for row in rows],
        asking.max_tokens,
        asking.sampling,
        {**settings, "rows": hashlib.sha256(file.read_bytes()).hexdigest(), "max_tokens": asking.max_tokens, "pixels": asking.pixels},
        questions.measure,
        questions.document,
        score,
    )


def _family(benchmark: Benchmark, row: Row) -> str:
    return row.text(benchmark.family) if benchmark.family and row.has(benchmark.family) else ""


def _first(benchmark: Benchmark, rows: Sequence[Row], most: int) -> list[Row]:
    """Returns the first rows of each family."""
    counts: dict[str, int] = {}
    kept = []
    for row in rows:
        family = _family(benchmark, row)
        counts[family] = counts.get(family, 0) + 1
        if not most or counts[family] <= most:
            kept.append(row)
    return kept


@dataclasses.dataclass(frozen=True)
class _Questions:
    benchmark: Benchmark
    rows: Sequence[Row]
    material: Material
    asking: Asking

    def _prompt(self, number: int) -> Prompt:
        return self.benchmark.ask(self.rows[number], self.material, self.asking.system)

    def measure(self, answerer: Answerer, number: int) -> Lengths:
        prompt = self._prompt(number)
        per_image = grids(prompt, self.asking.pixels).prod(axis=1).tolist()
        tokens = len(chat.encode_prompt(prompt.turns(), per_image, answerer.tokenizer))
        return Lengths(tokens, sum(per_image), len(per_image))

    def document(self, answerer: Answerer, number: int) -> Document:
        return prompt_document(self._prompt(number), self.asking.pixels, answerer.tokenizer)
