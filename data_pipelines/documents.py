"""Converts a sample to a document: decodes, resizes, tokenizes. `measure` computes the document's lengths without decoding pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.media import images, sizes, video
from data_pipelines.opened import EncodedMedia, OpenedDocument, Plan, named
from data_pipelines.randomness import scramble, spread, uniform
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_SIDE, Document, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text import chat
from data_pipelines.text.marks import IMAGE_MARK, marks_of
from data_pipelines.text.tokenizers import Tokenizer

Grids = npt.NDArray[np.int64]


class Lengths(NamedTuple):
    """The parts of a row's budgets that a document uses."""

    tokens: int
    visual_tokens: int
    images: int


def measure(
    turns: Sequence[Turn],
    image_sizes: Sequence[tuple[int, int]],
    clips: Sequence[video.VideoInfo],
    phase: PhaseSettings,
    tokenizer: Tokenizer,
    seed: int,
) -> Lengths:
    """Returns the exact lengths of the document that `build_document` builds from the same sample.

    Args:
      turns: the sample's turns.
      image_sizes: (height, width) of each of its images, from images.image_size.
      clips: header of each of its clips, from video.probe.
      phase: limits and frames; its budgets are not checked here (see check_fits).
      tokenizer: as for build_document.
      seed: the sample's own seed, as for build_document; the choice of frames depends on it.

    Raises:
      SampleError: "image_marks", "video_marks", "unknown_role", "empty", "bad_text", "no_frames", "media_in_text_phase".
    """
    plan = _plan(turns, image_sizes, clips, phase, seed)
    per_image = plan.grids.prod(axis=1)
    visual_tokens = int(per_image.sum())
    text, _ = chat.count(plan.turns, len(per_image), tokenizer)
    return Lengths(text + visual_tokens, visual_tokens, len(per_image))


def count_labels(
    turns: Sequence[Turn],
    image_sizes: Sequence[tuple[int, int]],
    clips: Sequence[video.VideoInfo],
    phase: PhaseSettings,
    tokenizer: Tokenizer,
    seed: int,
) -> int:
    """Returns the number of tokens of the document that carry a label. Arguments and errors as `measure`."""
    plan = _plan(turns, image_sizes, clips, phase, seed)
    return chat.count(plan.turns, len(plan.grids), tokenizer)[1]


def check_fits(lengths: Lengths, phase: PhaseSettings) -> None:
    """Raises SampleError "too_long" if a document does not fit into a row of the phase."""
    budgets = {"context": phase.context, "visual_tokens": phase.visual_tokens, "images": phase.images}
    for (name, budget), length in zip(budgets.items(), lengths, strict=True):
        if length > budget:
            raise SampleError("too_long", f"it needs {length} of {name}, phase {phase.name} has {budget}: raise it or split the sample")


def open_document(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: int, epoch: int | None = None) -> OpenedDocument:
    """Reads the headers of a sample's media and tokenizes it; its pixels are decoded later. Arguments and errors as `build_document`."""
    try:
        sample = _loaded(sample)
        plan, clips = _plan_sample(sample, phase, seed)
        tokens, labels = chat.encode(plan.turns, plan.grids.prod(axis=1).tolist(), tokenizer)
        qualities = [] if epoch is None else _qualities(phase, seed, epoch, len(sample.images))
        return _opened(sample, plan, clips, tokens, labels, phase, qualities)
    except SampleError as error:
        raise named(sample, error) from error


def build_document(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: int, epoch: int | None = None) -> Document:
    """Decodes, resizes and tokenizes a sample.

    Args:
      sample: the conversation and its encoded media.
      phase: limits on pixels, frames and lengths, and how images are resized.
      tokenizer: tokenizer with the special tokens.
      seed: the sample's own seed. The choice of video frames depends on it, and the JPEG quality of each image on it and the epoch.
      epoch: epoch of the sample's source, for training; None: images are not degraded to a JPEG quality.

    Raises:
      SampleError: the sample is unusable; the message begins with its key.
    """
    return open_document(sample, phase, tokenizer, seed, epoch).decoded()


def prompt_document(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: int) -> Document:
    """Builds the document of a prompt: the turns before the last assistant turn, then the opening of that turn; no token carries a label.

    Arguments and errors as `build_document`; also SampleError "no_question" if the last turn is not the assistant's answer to a user,
    and "image_marks" if the answer contains images.
    """
    try:
        question = _loaded(_question(sample))
        plan, clips = _plan_sample(question, phase, seed)
        tokens = chat.encode_prompt(plan.turns, plan.grids.prod(axis=1).tolist(), tokenizer)
        opened = _opened(question, plan, clips, tokens, np.full_like(tokens, NO_LABEL), phase)
    except SampleError as error:
        raise named(sample, error) from error
    return opened.decoded()


def measure_prompt(sample: Sample, phase: PhaseSettings, tokenizer: Tokenizer, seed: int) -> Lengths:
    """Returns the lengths of the document that `prompt_document` builds, without decoding pixels. Arguments and errors as there."""
    try:
        question = _question(sample)
        plan, _ = _plan_sample(question, phase, seed)
        per_image = plan.grids.prod(axis=1).tolist()
        lengths = Lengths(len(chat.encode_prompt(plan.turns, per_image, tokenizer)), sum(per_image), len(per_image))
        check_fits(lengths, phase)
        return lengths
    except SampleError as error:
        raise named(sample, error) from error


def _question(sample: Sample) -> Sample:
    """Returns a sample without its last turn, the answer."""
    if len(sample.turns) < 2 or sample.turns[-1].role != "assistant":
        raise SampleError("no_question", "the last turn must be the assistant's answer to a question")
    return dataclasses.replace(sample, turns=sample.turns[:-1])


def _loaded(sample: Sample) -> Sample:
    """Returns the sample with the bytes of its images in archives and object stores, so that header and pixels need only one read."""
    return dataclasses.replace(sample, images=tuple(images.loaded(media) if media.stored else media for media in sample.images))


def _plan(
    turns: Sequence[Turn], image_sizes: Sequence[tuple[int, int]], clips: Sequence[video.VideoInfo], phase: PhaseSettings, seed: int
) -> Plan:
    if phase.visual_tokens == 0 and (image_sizes or clips):
        raise SampleError("media_in_text_phase", f"phase {phase.name} is text only: take sources with images or videos out of its mixture")
    marks = marks_of(turns)
    frames = [video.choose_frames(info, phase, clip_seed(seed, number)) for number, info in enumerate(clips)]
    expanded = chat.expand_clips(turns, list(zip(clips, frames, strict=True)))
    if marks.count(IMAGE_MARK) != len(image_sizes):
        raise SampleError(
            "image_marks",
            f"the conversation has {marks.count(IMAGE_MARK)} {IMAGE_MARK} marks for {len(image_sizes)} images; write one for each",
        )
    pixels = np.asarray(image_sizes, np.int64).reshape(-1, 2)
    of_images = iter(sizes.image_grids(pixels, len(pixels), phase)[:, None])
    of_clips = iter([_clip_grids(info, len(indices), phase) for info, indices in zip(clips, frames, strict=True)])
    grids = [next(of_images) if mark == IMAGE_MARK else next(of_clips) for mark in marks]
    return Plan(expanded, np.concatenate([np.zeros((0, 2), np.int64), *grids]), marks, frames)


def clip_seed(seed: int, number: int) -> int:
    """Returns the seed for choosing the frames of clip `number` of a sample: for the first clip, the sample's own seed."""
    return int(spread(seed, number)[0])


def _clip_grids(info: video.VideoInfo, frames: int, phase: PhaseSettings) -> Grids:
    """Returns the grid of each shown frame of a clip: [frames, 2]."""
    size = sizes.smart_resize([info.height, info.width], phase.min_pixels, sizes.frame_limits(frames, phase))
    return np.repeat(size // VISUAL_TOKEN_SIDE, frames, axis=0)


def _plan_sample(sample: Sample, phase: PhaseSettings, seed: int) -> tuple[Plan, list[video.VideoInfo]]:
    clips = [video.probe(clip) for clip in sample.clips]
    return _plan(sample.turns, [images.image_size(media) for media in sample.images], clips, phase, seed), clips


def _opened(
    sample: Sample,
    plan: Plan,
    clips: Sequence[video.VideoInfo],
    tokens: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    phase: PhaseSettings,
    qualities: Sequence[int] = (),
) -> OpenedDocument:
    check_fits(Lengths(len(tokens), int(plan.grids.prod(axis=1).sum()), len(plan.grids)), phase)
    return OpenedDocument(tokens, labels, plan.grids.astype(np.int32), EncodedMedia(sample, plan, clips, phase, qualities))


def _qualities(phase: PhaseSettings, seed: int, epoch: int, count: int) -> list[int]:
    """Returns the JPEG quality to which each of a sample's images is degraded; empty if the phase degrades none."""
    low, high = phase.jpeg_quality
    if not high:
        return []
    draws = uniform(spread(scramble(spread(seed, epoch)), np.arange(count)))
    return (low + (draws * (high - low + 1)).astype(np.int64)).tolist()
