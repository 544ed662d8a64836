"""Computes positions, attention intervals, targets and weights of packed rows, for training and inference.

Shape legend: L tokens, V visual tokens, I images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.batch import Batch, Intervals, ModelInputs, batch_spec, document_intervals, map_arrays, row_intervals
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document, PhaseSettings

Int32 = npt.NDArray[np.int32]
LOSS_WEIGHTINGS = ("square", "token", "sample")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions, intervals and visual tokens of one document, counted from its start.

    Attributes:
      positions: [L, 3] int32: t, h, w. t increases by one with every text token and every image; h, w are 0 for text.
      intervals: [L] each: the keys that each token attends to.
      visual_slot: [L] int32: index of the token's visual token, or -1.
      visual_position: [V, 2] int32: row and column of each visual token in its image.
    """

    positions: Int32
    intervals: Intervals
    visual_slot: Int32
    visual_position: Int32


def layout(tokens: Int32, grids: Int32, image_token: int) -> Layout:
    """Computes the layout of one document.

    `grids`, not runs of the image token, determine which visual tokens form an image, since images may be adjacent.

    Args:
      tokens: [L] token ids.
      grids: [I, 2] rows and columns of visual tokens of each image, in order.
      image_token: the id of `<IMG_CONTEXT>`.

    Raises:
      ValueError: the number of image tokens differs from the grids, or the tokens of one image are not contiguous.
    """
    length = len(tokens)
    grids = np.asarray(grids, np.int32).reshape(-1, 2)
    sizes = grids.prod(axis=1)
    places = np.flatnonzero(tokens == image_token)
    if (grids < 1).any():
        raise ValueError(f"every image has at least one row and column of visual tokens, not {grids.min()}")
    if len(places) != sizes.sum():
        raise ValueError(f"{len(places)} image tokens stand in the document, but its {len(grids)} images have {sizes.sum()} visual tokens")
    first = np.cumsum(sizes) - sizes
    within = np.arange(len(places)) - np.repeat(first, sizes)
    if (places - within != np.repeat(places[first], sizes)).any():
        raise ValueError("the tokens of one image do not stand together")
    columns = np.repeat(grids[:, 1], sizes)
    visual_position = np.stack([within // columns, within % columns], axis=1).astype(np.int32)

    advances = np.ones(length, np.int32)
    advances[places] = within == 0
    positions = np.zeros((length, 3), np.int32)
    positions[:, 0] = np.cumsum(advances) - 1
    positions[places, 1:] = visual_position

    visual_slot = np.full(length, -1, np.int32)
    visual_slot[places] = np.arange(len(places))
    return Layout(positions, document_intervals(length, places[first], sizes), visual_slot, visual_position)


def label_weights(labels: Int32, weighting: str) -> npt.NDArray[np.float32]:
    """Returns the weight of each label of one document, [L] float32; 0 for NO_LABEL.

    With N labels, each has the weight 1 / sqrt(N) ("square"), 1 ("token") or 1 / N ("sample"), as in the reference.
    """
    if weighting not in LOSS_WEIGHTINGS:
        raise ValueError(f"loss weighting {weighting!r} is unknown: use one of {', '.join(LOSS_WEIGHTINGS)}")
    is_label = labels != NO_LABEL
    count = max(int(is_label.sum()), 1)
    weight = {"square": count**-0.5, "token": 1.0, "sample": 1.0 / count}[weighting]
    return np.where(is_label, weight, 0.0).astype(np.float32)


def pack(documents: Sequence[Document], source_ids: Sequence[int], phase: PhaseSettings, image_token: int) -> Batch:
    """Packs documents into one row: a Batch without the leading dimension of rows.

    Args:
      documents: documents in the order of the row.
      source_ids: index of the source of each document.
      phase: the budgets and the loss weighting.
      image_token: the id of `<IMG_CONTEXT>`.

    Raises:
      ValueError: the documents do not fit the budgets, or the fields of one are inconsistent.
    """
    _check_budgets(documents, source_ids, phase)
    row: Batch = map_arrays(lambda spec: np.zeros(spec.shape[1:], spec.dtype), batch_spec(1, phase.context, phase.visual_tokens))
    inputs: ModelInputs = row.inputs
    inputs.visual_slot[:] = -1
    row.source[:] = -1
    intervals: list[Intervals] = []
    start = visual_start = 0
    for number, (document, source) in enumerate(zip(documents, source_ids, strict=True)):
        length, visual = len(document.tokens), len(document.visual)
        try:
            placed = layout(document.tokens, document.grids, image_token)
            if document.visual.shape != (len(placed.visual_position), VISUAL_TOKEN_BYTES):
                raise ValueError(f"its pixels are {document.visual.shape}, its images have {len(placed.visual_position)} visual tokens")
            if len(document.labels) != length or length == 0:
                raise ValueError(f"it has {length} tokens and {len(document.labels)} labels")
        except ValueError as error:
            raise ValueError(f"document {number} of a row: {error}") from error
        labels = np.where(document.tokens == image_token, NO_LABEL, document.labels)
        labels[0] = NO_LABEL  # no token of its own document precedes it, so nothing could predict it
        weights = label_weights(labels, phase.loss_weighting)
        here = slice(start, start + length)
        before = slice(start, start + length - 1)
        inputs.tokens[here] = document.tokens
        row.targets[before] = np.where(labels == NO_LABEL, 0, labels)[1:]
        row.loss_weights[before] = weights[1:]
        inputs.positions[here] = placed.positions
        intervals.append(placed.intervals)
        inputs.visual_slot[here] = np.where(placed.visual_slot < 0, -1, placed.visual_slot + visual_start)
        inputs.visual[visual_start : visual_start + visual] = document.visual
        inputs.visual_position[visual_start : visual_start + visual] = placed.visual_position
        row.source[here] = source
        start, visual_start = start + length, visual_start + visual
    return row._replace(inputs=inputs._replace(intervals=row_intervals(intervals, phase.context)))


def _check_budgets(documents: Sequence[Document], source_ids: Sequence[int], phase: PhaseSettings) -> None:
    if len(source_ids) != len(documents):
        raise ValueError(f"{len(documents)} documents came with {len(source_ids)} sources")
    budgets = {
        "tokens": (sum(len(document.tokens) for document in documents), phase.context),
        "visual tokens": (sum(len(document.visual) for document in documents), phase.visual_tokens),
        "images": (sum(len(document.grids) for document in documents), phase.images),
        "documents": (len(documents), phase.segments),
    }
    for what, (used, budget) in budgets.items():
        if used > budget:
            raise ValueError(f"a row of phase {phase.name} holds {budget} {what}, but {used} were planned for it")
