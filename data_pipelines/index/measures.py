"""Measures samples from text and file headers, and looks again at those that were measured before."""

from __future__ import annotations

import numpy as np

from data_pipelines.index.columns import Entry, Failure, Measured
from data_pipelines.media import images, video
from data_pipelines.media.sizes import check_size
from data_pipelines.schema import NO_LABEL, Media, Sample, SampleError
from data_pipelines.sources import Source
from data_pipelines.sources.samples import FILTERED
from data_pipelines.text import chat
from data_pipelines.text.marks import VIDEO_MARK, marks_of
from data_pipelines.text.tokenizers import Tokenizer

MISSING = (-1, -1)  # the state of a file that is not there
# Reasons that follow from a row, the settings and the tokenizer alone: with these the same, nothing on a disk can mend the sample.
# "bad_record" and "unknown_key" are none of them: of clips as folders of frames they may follow from what a folder holds.
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
    """Measures a sample without decoding pixels. Raises SampleError for one that cannot be used, "no_answer" where nothing has a label."""
    files = file_states(sample)
    states = iter(files)
    headers = [_header(image, image.path is None or next(states) != MISSING) for image in sample.images]
    text, before = count_text(sample, tokenizer)
    clips = [video.probe(clip) for clip in sample.clips]
    conversions = [name for header in headers for name in header.conversions] + [name for clip in clips for name in clip.conversions]
    return Measured(text, [(header.height, header.width) for header in headers], clips, before, files, conversions)


def _header(image: Media, exists: bool) -> images.Header:
    """The size that the row gives, else what the image's header says. A missing file is opened all the same, for its error message."""
    if image.size is None or not exists:
        return images.header(image)
    check_size(*image.size, image.name)
    return images.Header(*image.size, ())


def count_text(sample: Sample, tokenizer: Tokenizer) -> tuple[int, list[str]]:
    """`text` and `before` of Measured. Raises SampleError "video_marks", "no_answer", and as chat.encode."""
    if (marks := marks_of(sample.turns).count(VIDEO_MARK)) != len(sample.clips):
        raise SampleError(
            "video_marks",
            f"{sample.key}: the conversation has {marks} {VIDEO_MARK} marks for {len(sample.clips)} clips; write one for each",
        )
    turns, before = chat.around_clips(sample.turns) if sample.clips else (sample.turns, [])
    tokens, labels = chat.encode(turns, [0] * (len(sample.images) + len(before)), tokenizer)
    _check_answer(labels, sample.key)
    return len(tokens) - sum(2 + len(tokenizer.encode(each)) for each in before), before


def _check_answer(labels: np.ndarray, key: str) -> None:
    if labels.max(initial=NO_LABEL) == NO_LABEL:
        raise SampleError("no_answer", f"{key}: no assistant turn to learn from; give it one that is not is_input")


def file_states(sample: Sample) -> list[tuple[int, int]]:
    """(bytes, nanoseconds of the last change) of each media file; MISSING if there is none. Media inside the source have no state."""
    return [_file_state(media) for media in sample.files if media.path is not None]


def _file_state(media: Media) -> tuple[int, int]:
    assert media.path is not None
    try:
        status = media.path.stat()
    except OSError:  # reading the file says what is wrong
        return MISSING
    return status.st_size, status.st_mtime_ns


def may_change(entry: Entry) -> bool:
    """Whether what is known of a sample hangs on more than the source's own files."""
    return entry.failure.reason not in LASTING if entry.failure else bool(entry.measured and entry.measured.files)


def renew(source: Source, tokenizer: Tokenizer, number: int, known: Entry) -> Entry:
    """What is known of a sample now. Measured again unless its media files have the same sizes and times as before.

    Args:
      number: the sample's, in the source.
      known: what was known of it; Entry(None, None) of a new one.
    """
    if known != Entry(None, None) and not may_change(known):
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
    """Whether two entries differ in nothing but times and sizes of files."""

    def lengths(entry: Entry) -> object:
        measured = entry.measured
        clips = [(c.duration, c.rate, c.frames, c.height, c.width, c.times) for c in measured.clips] if measured else []
        known = measured and (measured.text, [(height, width) for height, width in measured.sizes], clips, list(measured.before))
        return known, entry.failure and entry.failure.reason, entry.is_filtered

    return lengths(one) == lengths(other)
