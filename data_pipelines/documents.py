"""One sample to one document: decode, resize, tokenize. `measure` says how long it will be without opening a pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.media import images, sizes, video
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, VISUAL_TOKEN_SIDE, Document, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import Tokenizer

Seed = int | Sequence[int]
Grids = npt.NDArray[np.int64]


class Lengths(NamedTuple):
    """What a document takes of a row's budgets."""

    tokens: int
    visual_tokens: int
    images: int


class _Plan(NamedTuple):
    """A sample before its pixels: expanded turns, rows and columns of visual tokens of each image [I, 2], frames of its clip."""

    turns: Sequence[Turn]
    grids: Grids
    frames: npt.NDArray[np.int64]


def measure(
    turns: Sequence[Turn],
    image_sizes: Sequence[tuple[int, int]],
    video_info: video.VideoInfo | None,
    phase: PhaseSettings,
    tokenizer: Tokenizer,
    seed: Seed,
) -> Lengths:
    """The lengths of the document that `build_document` makes of the same sample, exactly.

    Args:
      turns: the sample's turns.
      image_sizes: (height, width) of each of its images, from images.image_size.
      video_info: of its clip, from video.probe; None without one.
      phase: limits and frames; its budgets are not checked here (see check_fits).
      tokenizer: as for build_document.
      seed: the sample's own, as for build_document: it draws the frames.

    Raises:
      SampleError: "image_marks", "video_marks", "unknown_role", "empty", "bad_text", "no_frames", "media_in_text_phase".
    """
    plan = _plan(turns, image_sizes, video_info, phase, seed)
    per_image = plan.grids.prod(axis=1)
    visual_tokens = int(per_image.sum())
    # Image tokens are spliced in between pieces of text, so their number does not change the text's tokens.
    text, _ = chat.encode(plan.turns, [0] * len(per_image), tokenizer)
    return Lengths(len(text) + visual_tokens, visual_tokens, len(per_image))


def check_fits(lengths: Lengths, phase: PhaseSettings) -> None:
    """Raises SampleError "too_long" for a document that fits no row of the phase."""
    budgets = {"context": phase.context, "visual_tokens": phase.visual_tokens, "images": phase.images}
    for (name, budget), length in zip(budgets.items(), lengths, strict=True):
        if length > budget:
            raise SampleError("too_long", f"it needs {length} of {name}, phase {phase.name} has {budget}: raise it or split the sample")


def build_document(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: Seed) -> Document:
    """Decodes, resizes and tokenizes a sample.

    Args:
      sample: the conversation and its encoded media.
      phase: limits on pixels, frames and lengths, and how images are resized.
      tokenizer: with the special tokens.
      seed: the sample's own; it draws a video's frames.

    Raises:
      SampleError: whatever makes the sample unusable; the message begins with its key.
    """
    try:
        plan, info = _plan_sample(sample, phase, seed)
        tokens, labels = chat.encode(plan.turns, plan.grids.prod(axis=1).tolist(), tokenizer)
        return _document(sample, plan, info, tokens, labels, phase)
    except SampleError as error:
        raise _named(sample, error) from error


def prompt_document(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: Seed) -> Document:
    """The conversation before its last assistant turn, ending with the opening of that turn; no token carries a label.

    Arguments and errors as `build_document`; SampleError "no_question" too, when the last turn is not the assistant's answer to a user,
    and "image_marks" when the answer holds images.
    """
    try:
        if len(sample.turns) < 2 or sample.turns[-1].role != "assistant":
            raise SampleError("no_question", "the last turn must be the assistant's answer to a question")
        question = Sample(sample.key, sample.turns[:-1], sample.images, sample.video, sample.family)
        plan, info = _plan_sample(question, phase, seed)
        tokens = chat.encode_prompt(plan.turns, plan.grids.prod(axis=1).tolist(), tokenizer)
        return _document(question, plan, info, tokens, np.full_like(tokens, NO_LABEL), phase)
    except SampleError as error:
        raise _named(sample, error) from error


def _plan(
    turns: Sequence[Turn], image_sizes: Sequence[tuple[int, int]], info: video.VideoInfo | None, phase: PhaseSettings, seed: Seed
) -> _Plan:
    if phase.visual_tokens == 0 and (image_sizes or info is not None):
        raise SampleError("media_in_text_phase", f"phase {phase.name} is text only: take sources with images or videos out of its mixture")
    if info is not None:
        if image_sizes:
            raise SampleError(
                "image_marks", f"a sample has images or a video, not both; this one has a video and {len(image_sizes)} images"
            )
        frames = video.choose_frames(info, phase, seed)
        size = sizes.smart_resize([info.height, info.width], phase.min_pixels, sizes.frame_limit(len(frames), phase))
        return _Plan(chat.expand_video(turns, info, frames), np.repeat(size // VISUAL_TOKEN_SIDE, len(frames), axis=0), frames)
    pixels = np.asarray(image_sizes, np.int64).reshape(-1, 2)
    return _Plan(turns, sizes.image_grids(pixels, len(pixels), phase), np.zeros(0, np.int64))


def _plan_sample(sample: Sample, phase: PhaseSettings, seed: Seed) -> tuple[_Plan, video.VideoInfo | None]:
    info = video.probe(sample.video) if sample.video else None
    return _plan(sample.turns, [images.image_size(media) for media in sample.images], info, phase, seed), info


def _document(
    sample: Sample,
    plan: _Plan,
    info: video.VideoInfo | None,
    tokens: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    phase: PhaseSettings,
) -> Document:
    visual_tokens = int(plan.grids.prod(axis=1).sum())
    check_fits(Lengths(len(tokens), visual_tokens, len(plan.grids)), phase)
    visual = np.zeros((visual_tokens, VISUAL_TOKEN_BYTES), np.uint8)
    start = 0
    if sample.video is not None and info is not None:
        pictures: Iterator[npt.NDArray[np.uint8]] = video.read_frames(sample.video, info, plan.frames)
    else:
        pictures = (images.decode(images.read_bytes(media), media.name, media.pictures) for media in sample.images)
    for picture, (rows, columns) in zip(pictures, plan.grids.tolist(), strict=True):
        resized = images.resize(picture, rows * VISUAL_TOKEN_SIDE, columns * VISUAL_TOKEN_SIDE, phase.resize)
        visual[start : start + rows * columns] = images.to_visual_tokens(resized)
        start += rows * columns
    return Document(tokens, labels, plan.grids.astype(np.int32), visual)


def _named(sample: Sample, error: SampleError) -> SampleError:
    return SampleError(error.reason, f"{sample.key}: {error}")
