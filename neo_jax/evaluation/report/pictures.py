"""Makes cards of held-out questions, with their pictures as small PNG or JPEG files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from data_pipelines.index.lengths import sample_seed
from data_pipelines.media import images, video
from data_pipelines.schema import PhaseSettings, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.text.marks import MARKS, words
from neo_jax.evaluation.report.data import SampleCard
from neo_jax.evaluation.report.figures import cut
from neo_jax.runs.evaluations import AnswerRecord

CARDS = 2  # cards of each family
PICTURES = 8  # largest number of images or frames of a card
SIDE = 256  # longest side of a thumbnail, in pixels
PICTURE_BYTES = 24 << 10  # largest size of a thumbnail file
NOTE = 300  # largest number of characters of a note
JPEG_QUALITIES = (90, 75, 50, 25)


def first_answers(answers: Sequence[AnswerRecord]) -> list[AnswerRecord]:
    """Returns the first CARDS answers of each family, families in order of first appearance."""
    groups: dict[str, list[AnswerRecord]] = {}
    for answer in answers:
        group = groups.setdefault(answer.family, [])
        if len(group) < CARDS:
            group.append(answer)
    return [answer for group in groups.values() for answer in group]


def make_cards(
    answers: Sequence[AnswerRecord], sources: Sequence[Source], phase: PhaseSettings, seed: int
) -> tuple[list[SampleCard], list[str]]:
    """Returns cards of these answers with the pictures of their samples, and a sentence for each answer whose sample is not found.

    Args:
      answers: the answers to show, each once.
      sources: the held-out sources.
      phase, seed: the phase and the seed of the run, which determine the frames of a clip that the model saw.
    """
    wanted: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        wanted.setdefault(answer.key, []).append(place)
    cards: dict[int, SampleCard] = {}
    for source in sources:
        for number in range(len(source)):
            if len(cards) == len(answers):
                break
            if (key := source.key(number)) not in wanted:
                continue
            try:
                sample = source[number]
            except (SampleError, OSError):
                continue  # reported below
            for place in wanted[key]:
                answer = answers[place]
                # Keys of different sources may be equal: truth and family must match too.
                if place not in cards and answer.family == (sample.family or source.name) and answer.truth == sample.turns[-1].text:
                    cards[place] = _card(answer, sample, phase, sample_seed(seed, source.name, number))
    lost = [
        f"sample {answer.key} of family {answer.family} is not shown: no held-out source has it with this answer any more"
        for place, answer in enumerate(answers)
        if place not in cards
    ]
    return [cards[place] for place in sorted(cards)], lost


def _card(answer: AnswerRecord, sample: Sample, phase: PhaseSettings, seed: int) -> SampleCard:
    question = next((turn.text for turn in reversed(sample.turns[:-1]) if turn.role == "user"), "")
    for mark in MARKS:
        question = question.replace(f"{mark}\n", "").replace(mark, "")
    pictures: list[bytes] = []
    notes = []
    try:
        for array in _pictures(sample, phase, seed):
            if thumbnail := small_file(array):
                pictures.append(thumbnail)
            else:
                notes.append(f"an image is left out: no thumbnail of it is below {PICTURE_BYTES:,} bytes")
        if (more := len(sample.images) - PICTURES) > 0:
            notes.append(f"{more} more images are not shown")
        if (more := len(sample.clips) - 1) > 0:
            notes.append(f"{more} more clips are not shown")
    except Exception as error:  # a decoder may raise anything, and a broken picture must not prevent the report
        notes.append(f"not shown: {error or type(error).__name__}")
    return SampleCard(
        answer.family, tuple(pictures), cut(words(question)), cut(answer.answer), cut(answer.truth), cut("; ".join(notes), NOTE)
    )


def _pictures(sample: Sample, phase: PhaseSettings, seed: int) -> Iterator[np.ndarray]:
    """Yields RGB arrays [H, W, 3] uint8 of the first images or frames. Raises SampleError if one cannot be decoded."""
    for media in sample.images[:PICTURES]:
        yield images.decode(images.read_bytes(media), media.name, media.pictures)
    if sample.clips:
        info = video.probe(sample.clips[0])
        yield from video.read_frames(sample.clips[0], info, video.choose_frames(info, phase, seed)[:PICTURES])


def small_file(array: np.ndarray) -> bytes | None:
    """Encodes an RGB image [H, W, 3] uint8 as a PNG or JPEG of at most PICTURE_BYTES and SIDE pixels; None if no quality is small enough."""
    image = Image.fromarray(array)
    image.thumbnail((SIDE, SIDE))
    for quality in (None, *JPEG_QUALITIES):
        file = io.BytesIO()
        if quality is None:
            image.save(file, "PNG")
        else:
            image.save(file, "JPEG", quality=quality)
        if file.tell() <= PICTURE_BYTES:
            return file.getvalue()
    return None
