"""Drafts phases from the lengths of documents: budgets from percentiles, steps from epochs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import TOKEN_PIXELS, DataError, PhaseSettings
from data_pipelines.survey import NEVER_FITS

Lengths = npt.NDArray[np.int64]  # [n, 3] tokens, visual tokens, images of each document
CONTEXT_MULTIPLE = 64  # a context is a multiple of this
BUDGET_FACTOR = 1.25  # a budget allows this times the average number per row
ASSUMED_FILL = 0.95  # of rows, for the number of steps
MIN_STEPS_OF_EPOCH = 8  # if the limits set the rows of a step
MIN_DOCUMENTS = 4  # of average length that a row holds


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the machine that a base is meant for.

    Attributes:
      context: largest number of tokens of a row.
      pixels: largest number of pixels of a picture.
      steps: largest number of steps of a phase.
      tokens_per_step: tokens of a step, from which its rows are computed; 0: the rows of the base's phase are used.
    """

    context: int
    pixels: int
    steps: int
    tokens_per_step: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One phase to draft.

    Attributes:
      name: name of the phase.
      template: the phase of the base that it is based on.
      sources: indexes of the sources it may mix.
      pixels: largest number of pixels of a picture.
      percentile: percentage of the documents that its context must hold.
      epochs: number of passes over the documents.
      reason: purpose of the phase, for a comment.
    """

    name: str
    template: Mapping[str, Any]
    sources: Sequence[int]
    pixels: int
    percentile: float
    epochs: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Drafted:
    """A drafted phase.

    Attributes:
      values: values by key.
      comments: origin of values, by key.
      too_long: share of its documents that exceed a budget.
      left_out: indexes of sources none of whose documents fit.
    """

    name: str
    reason: str
    values: dict[str, Any]
    comments: dict[str, str]
    too_long: float
    left_out: tuple[int, ...]


def draft_phase(
    stage: Stage, names: Sequence[str], source: npt.NDArray[np.int64], lengths: Callable[[PhaseSettings], Lengths], limits: Limits
) -> Drafted:
    """Computes budgets, mixture and steps of a phase.

    Args:
      stage: the phase to draft.
      names: names of all sources.
      source: [n] index of the source of each training document.
      lengths: returns the lengths of the training documents in a phase.
      limits: limits of the machine.

    Raises:
      DataError: the phase does not take any of the documents.
    """
    pixels = stage.pixels
    measured = _measured(stage, lengths, pixels)
    wanted = np.isin(source, stage.sources) & (measured[:, 0] < NEVER_FITS)
    while pixels > stage.template["min_pixels"] and _percentile(measured[wanted, 0], stage.percentile) > limits.context:
        pixels = max(pixels // 2 // TOKEN_PIXELS * TOKEN_PIXELS, stage.template["min_pixels"])
        measured = _measured(stage, lengths, pixels)
    if not wanted.any():
        raise DataError(f"phase {stage.name}: it does not take any of the rows: use another --base")
    values, comments = _budgets(stage, measured[wanted], pixels, limits)
    fits = wanted & (measured <= [values["context"], values["visual_tokens"], values["images"]]).all(axis=1)
    used = [place for place in stage.sources if fits[source == place].any()]
    kept = fits & np.isin(source, used)
    full_rows = math.ceil(measured[kept, 0].sum() / (ASSUMED_FILL * values["context"]))
    rows = stage.template["rows_per_step"]
    if limits.tokens_per_step:
        rows = max(1, min(limits.tokens_per_step // values["context"], full_rows // MIN_STEPS_OF_EPOCH))
    steps = min(max(10, math.ceil(stage.epochs * full_rows / rows)), limits.steps)
    values["mixture"] = {names[place]: float((source == place).sum()) for place in used}
    comments["mixture"] = "each file's share: its number of rows"
    values |= {"steps": steps, "rows_per_step": rows}
    comments["steps"] = f"{_number(steps * rows / full_rows)} times through {int(kept.sum()):,} documents in about {full_rows:,} full rows"
    comments["rows_per_step"] = f"{rows * values['context']:,} tokens"
    left_out = tuple(place for place in stage.sources if place not in used)
    return Drafted(stage.name, stage.reason, values, comments, float(1 - fits[wanted].mean()), left_out)


def _measured(stage: Stage, lengths: Callable[[PhaseSettings], Lengths], pixels: int) -> Lengths:
    template, least = stage.template, max(stage.template["min_pixels"], TOKEN_PIXELS)
    return lengths(
        PhaseSettings(
            name=stage.name,
            rows=1,
            context=1,
            visual_tokens=1,
            images=1,
            segments=1,
            min_pixels=least,
            max_pixels=max(pixels, least),
            frames=template["frames"],
            frames_per_second=template["frames_per_second"],
            frame_pixels=max(least, min(template["frame_pixels"], pixels)),
            mixture={},
        )
    )


def _budgets(stage: Stage, lengths: Lengths, pixels: int, limits: Limits) -> tuple[dict[str, Any], dict[str, str]]:
    tokens = lengths[:, 0]
    long, longest, mean = _percentile(tokens, stage.percentile), int(tokens.max()), float(tokens.mean())
    context = min(_round_up(max(long, math.ceil(MIN_DOCUMENTS * mean)), CONTEXT_MULTIPLE), limits.context)
    kept = lengths[tokens <= context]
    kept = kept if len(kept) else lengths
    short = _percentile(kept[:, 0], 10)
    segments = max(1, min(context, math.ceil(BUDGET_FACTOR * context / short)))
    held = (
        f"the longest has {longest:,}"
        if stage.percentile == 100
        else f"{stage.percentile:g}% have at most {long:,}, the longest {longest:,}"
    )
    comments = {
        "context": f"tokens of a row. Of documents: the average has {mean:,.0f}, {held}",
        "segments": f"documents of a row; a tenth of them has at most {short:,} tokens",
    }
    values = {"context": context, "visual_tokens": 0, "images": 0, "segments": segments}
    visual, images = int(kept[:, 1].sum()), int(kept[:, 2].sum())
    if not visual:
        return values, comments
    per_row = context / int(kept[:, 0].sum())
    visual_tokens = min(context, _round_up(max(int(kept[:, 1].max()), math.ceil(BUDGET_FACTOR * visual * per_row)), 16))
    pixels = min(pixels, visual_tokens * TOKEN_PIXELS, (context - 2) * TOKEN_PIXELS)
    frames = stage.template["frames"]
    images_of_row = min(visual_tokens, max(int(kept[:, 2].max()), math.ceil(BUDGET_FACTOR * images * per_row), frames))
    values |= {
        "visual_tokens": visual_tokens,
        "images": images_of_row,
        "min_pixels": stage.template["min_pixels"],
        "max_pixels": pixels,
    }
    if frames:
        values["frames"] = min(frames, images_of_row, visual_tokens * TOKEN_PIXELS // stage.template["min_pixels"])
        values["frames_per_second"] = stage.template["frames_per_second"]
        values["frame_pixels"] = max(stage.template["min_pixels"], min(stage.template["frame_pixels"], pixels))
    comments["visual_tokens"] = (
        f"of a row; pictures are {visual / kept[:, 0].sum():.0%} of all tokens, up to {kept[:, 1].max():,} in a document"
    )
    comments["images"] = f"of a row, frames too; up to {kept[:, 2].max():,} in a document"
    comments["max_pixels"] = f"{pixels // TOKEN_PIXELS:,} tokens of 32 x 32 pixels; larger pictures are made smaller"
    return values, comments


def _percentile(values: npt.NDArray[np.int64], percentile: float) -> int:
    return int(np.percentile(values, percentile, method="higher"))


def _round_up(number: int, of: int) -> int:
    return -(-number // of) * of


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
