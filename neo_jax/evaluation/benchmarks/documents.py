"""Prompts of benchmarks as the model's input."""

from __future__ import annotations

import numpy as np

from data_pipelines.media.images import resize, to_visual_tokens
from data_pipelines.media.sizes import smart_resize
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Document
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax.evaluation.benchmarks.message import Pixels, Prompt


def resized(pixels: Pixels, limits: tuple[int, int]) -> Pixels:
    """Returns a picture at the size in which the model sees it, given the smallest and largest number of pixels."""
    ((height, width),) = smart_resize([pixels.shape[:2]], *limits).tolist()
    return resize(pixels, height, width, "exact")


def prompt_document(prompt: Prompt, limits: tuple[int, int], tokenizer: Tokenizer) -> Document:
    """Returns the document of a prompt: its turns, then the opening of the answer; no token has a label.

    Raises SampleError if a picture cannot be read.
    """
    shown = [resized(picture.pixels(), limits) for picture in prompt.pictures]
    grids = np.array([each.shape[:2] for each in shown], np.int32).reshape(-1, 2) // VISUAL_TOKEN_SIDE
    tokens = chat.encode_prompt(prompt.turns(), grids.prod(axis=1).tolist(), tokenizer)
    visual = np.concatenate([np.zeros((0, VISUAL_TOKEN_BYTES), np.uint8), *map(to_visual_tokens, shown)])
    return Document(tokens, np.full_like(tokens, NO_LABEL), grids, visual)
