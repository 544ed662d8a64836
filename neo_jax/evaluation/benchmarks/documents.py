"""Prompts of benchmarks as the model's input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_pipelines.media.images import resize, to_visual_tokens
from data_pipelines.media.sizes import smart_resize
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Document
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax.evaluation.benchmarks.message import Pixels, Prompt

Grids = npt.NDArray[np.int64]


def grids(prompt: Prompt, limits: tuple[int, int]) -> Grids:
    """Returns [I, 2] rows and columns of visual tokens of each picture, given the smallest and largest number of pixels.

    Raises SampleError if a picture's header cannot be read.
    """
    sizes = [picture.shown_size() for picture in prompt.pictures]
    return smart_resize(np.array(sizes).reshape(-1, 2), *limits) // VISUAL_TOKEN_SIDE


def shown(prompt: Prompt, limits: tuple[int, int]) -> Iterator[Pixels]:
    """Yields the pictures of a prompt at the sizes in which the model sees them, one at a time. Raises SampleError if one cannot be read."""
    for picture, (rows, columns) in zip(prompt.pictures, grids(prompt, limits).tolist(), strict=True):
        yield resize(picture.pixels(), rows * VISUAL_TOKEN_SIDE, columns * VISUAL_TOKEN_SIDE, "exact")


def prompt_document(prompt: Prompt, limits: tuple[int, int], tokenizer: Tokenizer) -> Document:
    """Returns the document of a prompt: its turns, then the opening of the answer; no token has a label.

    Raises SampleError if a picture cannot be read.
    """
    places = grids(prompt, limits)
    per_image = places.prod(axis=1)
    tokens = chat.encode_prompt(prompt.turns(), per_image.tolist(), tokenizer)
    visual = np.zeros((int(per_image.sum()), VISUAL_TOKEN_BYTES), np.uint8)
    ends = np.cumsum(per_image)
    for pixels, start, end in zip(shown(prompt, limits), ends - per_image, ends, strict=True):
        visual[start:end] = to_visual_tokens(pixels)
    return Document(tokens, np.full_like(tokens, NO_LABEL), places.astype(np.int32), visual)
