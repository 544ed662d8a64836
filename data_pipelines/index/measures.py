"""Measures samples from text and file headers, and checks samples that were measured before for changes."""

from __future__ import annotations

import os

from data_pipelines.index.columns import Entry, Failure, Measured
from data_pipelines.media import images, video
from data_pipelines.media.sizes import check_size
from data_pipelines.schema import Media, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.sources.samples import FILTERED
from data_pipelines.text import chat
from data_pipelines.text.marks import VIDEO_MARK
from data_pipelines.text.tokenizers import Tokenizer

NEW = Entry(None, None)  # of a sample that was not measured yet
MISSING = (-1, -1)  # the state of a file that does not exist
# Reasons that depend only on a row, the settings and the tokenizer: while these stay the same, no change of a file makes the sample usable.
# "bad_record" and "unknown_key" are not among them: for clips given as folders of frames they may depend on the content of a folder.
LASTING = frozenset(
    (
        "broken_json",
        "bad_text",
        "no_answer",
        "empty_answer",
        "empty",
        "unknown_role",
        "unknown_mark",
        "image_marks",
        "video_marks",
        "web_address",
    )
)


def inspect(sample: Sample, tokenizer: Tokenizer) -> Measured:
    """Measures a sample without decoding pixels. Raises SampleError if it cannot be used, with "no_answer" if no token has a label."""
    files = file_states(sample)
    states = iter(files)
    headers = [_header(image, image.path is None or next(states) != MISSING) for image in sample.images]
    text, before = count_text(sample, tokenizer)
    clips = [video.probe(clip) for clip in sample.clips]
    conversions = [name for header in headers for name in header.conversions]
    if clips:
        conversions += [name for clip in clips for name in clip.conversions]
    return Measured(text, [header[:2] for header in headers], clips, before, files, conversions)


def _header(image: Media, exists: bool) -> images.Header:
    """Returns the size that the row gives, else the image's header. A missing file is opened in any case, for its error message."""
    if image.size is None or not exists:
        return images.header(image)
    check_size(*image.size, image.name)
    return images.Header(*image.size, ())


def count_text(sample: Sample, tokenizer: Tokenizer) -> tuple[int, list[str]]:
    """Returns `text` and `before` of Measured. Raises SampleError "video_marks", "no_answer", and those of chat.count."""
    if (marks := sum([turn.text.count(VIDEO_MARK) for turn in sample.turns])) != len(sample.clips):
        raise SampleError(
            "video_marks",
            f"{sample.key}: the conversation has {marks} {VIDEO_MARK} marks for {len(sample.clips)} clips; write one for each",
        )
    turns, before = chat.around_clips(sample.turns) if sample.clips else (sample.turns, [])
    tokens, labels = chat.count(turns, len(sample.images) + len(before), tokenizer)
    if not labels:
        raise SampleError("no_answer", f"{sample.key}: no assistant turn to learn from; give it one that is not is_input")
    return tokens - sum(2 + len(tokenizer.encode(each)) for each in before), before


def file_states(sample: Sample) -> list[tuple[int, int]]:
    """Returns (size in bytes, modification time in nanoseconds) of each media file, or MISSING if it does not exist.

    Media inside the source's own files have no state.
    """
    return [_file_state(media) for media in sample.files if media.path is not None]


def _file_state(media: Media) -> tuple[int, int]:
    assert media.path is not None
    try:
        status = os.stat(media.path)
    except OSError:  # reading the file reports the error
        return MISSING
    return status.st_size, status.st_mtime_ns


def may_change(entry: Entry) -> bool:
    """Returns True if a sample's entry depends on files outside the source's own files."""
    return entry.failure.reason not in LASTING if entry.failure else bool(entry.measured and entry.measured.files)


def renew(source: Source, tokenizer: Tokenizer, number: int, known: Entry) -> Entry:
    """Returns the current entry of a sample, measured again unless its media files have the same sizes and times as before.

    Args:
      number: number of the sample in the source.
      known: previous entry; NEW for a new sample.
    """
    if known != NEW and not may_change(known):
        return known
    try:
        sample = source[number]
        if known.measured and file_states(sample) == list(known.measured.files):
            return Entry(known.measured, None)
        return Entry(inspect(sample, tokenizer), None)
    except SampleError as error:
        if error.reason == FILTERED:
            return Entry(None, None, is_filtered=True)
        return Entry(known.measured, Failure(error.reason, str(error)))


def same_lengths(one: Entry, other: Entry) -> bool:
    """Returns True if two entries give the same lengths: they may differ in files' states, conversions and the failure's message."""

    def lengths(entry: Entry) -> object:
        measured = entry.measured
        clips = [(c.duration, c.rate, c.frames, c.height, c.width, c.times) for c in measured.clips] if measured else []
        known = measured and (measured.text, [(height, width) for height, width in measured.sizes], clips, list(measured.before))
        return known, entry.failure and entry.failure.reason, entry.is_filtered

    return lengths(one) == lengths(other)
