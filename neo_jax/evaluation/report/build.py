"""The report of a run, read from its directory: configuration, metrics.jsonl and the answers that each phase left in evaluations/."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

from data_pipelines.index.lengths import sample_seed
from data_pipelines.media import images, video
from data_pipelines.schema import PhaseSettings, Sample
from data_pipelines.sources import open_source
from neo_jax import config
from neo_jax.evaluation.report.data import FamilyResult, MetricRow, PhaseResults, PhaseSpan, RunReport, SampleCard
from neo_jax.evaluation.report.write import write_report
from neo_jax.runs.metrics import read_lines

CARDS = 2  # of each family
FRAMES = 8  # most frames of a clip that are shown


def report_run(settings: config.Config) -> tuple[pathlib.Path, RunReport] | None:
    """Writes report.html and report.json into the run directory; returns the page's path and its data, None where nothing was evaluated."""
    directory = pathlib.Path(settings.run.directory)
    evaluations = [json.loads(path.read_text()) for path in sorted((directory / "evaluations").glob("*.json"))]
    evaluations = [evaluation for evaluation in evaluations if evaluation["scores"]]
    if not evaluations:
        return None
    lines = read_lines(directory / "metrics.jsonl")
    report = RunReport(
        title="NEO-ov: what this run learned",
        phases=tuple(_spans(settings, lines)),
        metrics=tuple(
            MetricRow(line["step"], line["tokens"], line["loss"], line["source_loss"], line.get("heldout_loss") or {}) for line in lines
        ),
        results=tuple(
            PhaseResults(each["phase"], {family: FamilyResult(**scores) for family, scores in each["scores"].items()})
            for each in evaluations
        ),
        cards=tuple(_cards(settings, evaluations[-1])),
        seconds=evaluations[-1]["seconds"],
    )
    return write_report(directory, report), report


def _spans(settings: config.Config, lines: list[dict[str, Any]]) -> Iterator[PhaseSpan]:
    first, tokens_before = 1, 0
    for phase in settings.phases:
        tokens = max((line["tokens"] for line in lines if line["phase"] == phase.name), default=tokens_before)
        yield PhaseSpan(phase.name, phase.context, phase.max_pixels, first, first + phase.steps - 1, tokens - tokens_before)
        first, tokens_before = first + phase.steps, tokens


def _cards(settings: config.Config, evaluation: dict[str, Any]) -> Iterator[SampleCard]:
    """The first answered questions of each family with their pictures."""
    phase = next(phase for phase in settings.phases if phase.name == evaluation["phase"]).input()
    answers: dict[str, list[dict[str, Any]]] = {}
    for answer in evaluation["answers"]:
        group = answers.setdefault(answer["family"], [])
        if len(group) < CARDS:
            group.append(answer)
    wanted = {answer["key"]: answer for group in answers.values() for answer in group}
    for settings_of_source in settings.data.heldout.values():
        source = open_source(settings_of_source)
        for number in range(len(source)):
            if not wanted or source.key(number) not in wanted:
                continue
            answer = wanted.pop(source.key(number))
            sample = source[number]
            question = sample.turns[-2].text.replace("<image>\n", "").replace("<video>\n", "")
            pictures = tuple(_pictures(sample, phase, sample_seed(settings.run.seed, source.name, number)))
            yield SampleCard(answer["family"], pictures, question, answer["answer"], answer["truth"])


def _pictures(sample: Sample, phase: PhaseSettings, seed: int) -> Iterator[bytes]:
    for media in sample.images:
        yield images.read_bytes(media)
    if sample.video is not None:
        info = video.probe(sample.video)
        for frame in video.read_frames(sample.video, info, video.choose_frames(info, phase, seed)[:FRAMES]):
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "PNG")
            yield file.getvalue()
