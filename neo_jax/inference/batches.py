"""Divides prompts of many lengths into batches of few shapes: few programs to compile, little padding, a bounded number of tokens at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from data_pipelines.documents import Lengths

SHAPES = 3  # of batches over any set of prompts; each is compiled as two programs
STEP = 64  # lengths are multiples of this


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a batch.

    Attributes:
      rows: prompts at a time.
      length, visual_tokens: room of each prompt.
    """

    rows: int
    length: int
    visual_tokens: int


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """Prompts that are answered together: `numbers` index the given prompts, at most `shape.rows` of them."""

    shape: Shape
    numbers: tuple[int, ...]


def prompt_batches(prompts: Sequence[Lengths], answer_tokens: int, tokens: int, shards: int = 1) -> list[PromptBatch]:
    """Returns batches that cover all prompts, shorter ones first, of at most SHAPES shapes.

    The lengths at which shapes change are those with the fewest tokens in all batches, padding counted.

    Args:
      prompts: the lengths of each.
      answer_tokens: room for each answer.
      tokens: largest number of tokens of a batch, answers and padding counted; a prompt that is longer alone has a batch of its own.
      shards: the number of rows is a multiple of this.
    """
    order = sorted(range(len(prompts)), key=lambda number: prompts[number].tokens)
    lengths = [_rounded(prompts[number].tokens) for number in order]
    batches: list[PromptBatch] = []
    for start, end in _groups(lengths, answer_tokens, tokens, shards):
        group = order[start:end]
        rows = _rows(len(group), lengths[end - 1] + answer_tokens, tokens, shards)
        visual = max(prompts[number].visual_tokens for number in group)
        shape = Shape(rows, lengths[end - 1], _rounded(visual) if visual else 0)
        batches += [PromptBatch(shape, tuple(group[first : first + rows])) for first in range(0, len(group), rows)]
    return batches


def _rounded(length: int) -> int:
    return max(1, -(-length // STEP)) * STEP


def _rows(prompts: int, length: int, tokens: int, shards: int) -> int:
    """Returns the rows of a batch for so many prompts: what the tokens allow, in whole shards, divided evenly over the batches."""
    most = max(1, tokens // (length * shards)) * shards
    batches = -(-prompts // most)
    return -(-prompts // (batches * shards)) * shards


def _groups(lengths: Sequence[int], answer_tokens: int, tokens: int, shards: int) -> list[tuple[int, int]]:
    """Divides sorted lengths into at most SHAPES ranges [start, end) with the fewest tokens in all their batches."""

    def cost(start: int, end: int) -> int:
        prompts, length = end - start, lengths[end - 1] + answer_tokens
        rows = _rows(prompts, length, tokens, shards)
        return -(-prompts // rows) * rows * length

    ends = [place + 1 for place in range(len(lengths)) if place + 1 == len(lengths) or lengths[place + 1] != lengths[place]]
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}  # by end: the tokens up to there, and the ranges
    for _ in range(SHAPES):
        for end in reversed(ends):
            for start in [start for start in best if start < end]:
                total = best[start][0] + cost(start, end)
                if end not in best or total < best[end][0]:
                    best[end] = total, [*best[start][1], (start, end)]
    return best[len(lengths)][1] if lengths else []
