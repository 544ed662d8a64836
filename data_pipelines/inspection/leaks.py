"""Finds held-out samples that are also trained on: the same rows, or the same media files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Mapping

from data_pipelines.media.images import open_media, read_bytes
from data_pipelines.schema import Media, SampleError
from data_pipelines.sources import Source
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand

MOST_SAMPLES = 20_000  # largest number of samples of a source that are compared, evenly spaced
MOST_BYTES = 1 << 30  # largest number of bytes of media inside a dataset that are read for the comparison
PROBED = 16  # samples from which the mean number of bytes of a sample is estimated

Opened = Mapping[str, Source]  # by name


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A media file of a held-out sample; `content` is the digest of bytes inside a dataset, "" for a file on disk."""

    source: str
    key: str
    media: Media
    content: str


def find_leaks(training: Opened, held_out: Opened) -> list[str]:
    """Returns a sentence for each pair of a held-out and a training source that share rows or media, and for each source compared in part.

    Rows are compared by file: two sources that read the same file are taken to share all rows. Media are compared by resolved path, or by name
    and content if a dataset contains their bytes. Equal media under different names, and texts, are not compared.
    """
    same_file = {
        (name, other) for name, source in held_out.items() for other, trained in training.items() if _files(source) & _files(trained)
    }
    sentences = [
        f"held-out source {name} reads the file of training source {other}: its samples are trained on" for name, other in sorted(same_file)
    ]
    by_name: dict[str, list[_Shown]] = {}
    by_path: dict[str, list[_Shown]] = {}
    for name, source in held_out.items():
        for key, media in _media(source, _stride(f"held-out source {name}", source, sentences)):
            shown = _Shown(name, key, dataclasses.replace(media, data=None, stored=None), _digest(media) if media.path is None else "")
            by_name.setdefault(media.name, []).append(shown)
            if media.path is not None:
                by_path.setdefault(os.path.realpath(media.path), []).append(shown)
    file_names = set(map(os.path.basename, by_path))
    for name, source in training.items() if by_name else ():
        leaked: dict[str, dict[str, str]] = {}  # held-out source -> key -> name of the media file
        for _, media in _media(source, _stride(f"training source {name}", source, sentences)):
            same = by_path.get(os.path.realpath(media.path), []) if media.path and os.path.basename(media.path) in file_names else []
            for shown in (*same, *(shown for shown in by_name.get(media.name, ()) if _equal_bytes(media, shown))):
                leaked.setdefault(shown.source, {})[shown.key] = media.name
        for other, keys in leaked.items():
            if (other, name) not in same_file:
                key, file = next(iter(keys.items()))
                sentences.append(
                    f"{len(keys):,} of held-out source {other}'s samples show media of training source {name}, such as {key}: {file}"
                )
    return sentences


def _files(source: Source) -> set[str]:
    """Returns the files that a source reads, with links resolved; its patterns if they cannot be expanded."""
    try:
        return set(map(os.path.realpath, expand(source.paths)))
    except StorageError:
        return set(source.paths)


def _stride(name: str, source: Source, sentences: list[str]) -> int:
    """Returns the step between compared samples that keeps their number and their bytes inside a dataset within the limits.

    A step above 1 is reported in `sentences`.
    """
    probe = -(-len(source) // PROBED)
    size = sum(_size(media) for _, media in _media(source, probe) if media.path is None) * probe
    stride = max(-(-len(source) // MOST_SAMPLES), -(-size // MOST_BYTES), 1)
    if stride > 1:
        sentences.append(f"of {name} only 1 in {stride} samples was looked at for media that are held out and trained on")
    return stride


def _media(source: Source, stride: int) -> Iterator[tuple[str, Media]]:
    """Yields (sample's key, media) for the media of every `stride`th sample. Samples that cannot be read are skipped."""
    for number in range(0, len(source), stride):
        try:
            sample = source[number]
        except (SampleError, OSError):
            continue
        for media in sample.files:
            yield sample.key, media


def _size(media: Media) -> int:
    """Returns the number of bytes of an encoded file; 0 if it cannot be read."""
    try:
        with open_media(media) as file:
            return file.seek(0, io.SEEK_END)
    except SampleError:
        return 0


def _equal_bytes(trained: Media, shown: _Shown) -> bool:
    """Returns whether two media have equal bytes. False for two files on disk, which are compared by path elsewhere."""
    if trained.path is not None and shown.media.path is not None:
        return False
    try:
        return _digest(trained) == (shown.content or _digest(shown.media))
    except SampleError:
        return False


def _digest(media: Media) -> str:
    return hashlib.sha256(read_bytes(media)).hexdigest()
