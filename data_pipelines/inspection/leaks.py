"""Held-out samples that training may have seen: the same rows, or the same media files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator, Mapping

from data_pipelines.media.images import open_media, read_bytes
from data_pipelines.schema import Media, SampleError
from data_pipelines.sources import Source
from data_pipelines.storage.interface import StorageError
from data_pipelines.storage.patterns import expand

MOST_SAMPLES = 20_000  # of a source that are compared, evenly over it
MOST_BYTES = 1 << 30  # of media in a dataset that are read with them
PROBED = 16  # samples that tell how many bytes a sample has

Opened = Mapping[str, Source]  # by name


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A media file that a held-out sample shows; `content` is the digest of bytes that a dataset holds, "" for a file."""

    source: str
    key: str
    media: Media
    content: str


def find_leaks(training: Opened, held_out: Opened) -> list[str]:
    """Returns a sentence for each pair of a held-out and a training source that share rows or media, and for each source compared in part.

    Rows are compared by file: two sources that read the same one share all of them. Media are compared by resolved path; where a dataset holds
    their bytes, by name and content. Equal media under other names, and texts, are not compared.
    """
    same_file = {
        (name, other) for name, source in held_out.items() for other, trained in training.items() if _files(source) & _files(trained)
    }
    sentences = [
        f"held-out source {name} reads the file of training source {other}: its samples are trained on" for name, other in sorted(same_file)
    ]
    by_name: dict[str, list[_Shown]] = {}
    by_path: dict[pathlib.Path, list[_Shown]] = {}
    for name, source in held_out.items():
        for key, media in _media(source, _stride(f"held-out source {name}", source, sentences)):
            shown = _Shown(name, key, dataclasses.replace(media, data=None, stored=None), _digest(media) if media.path is None else "")
            by_name.setdefault(media.name, []).append(shown)
            if media.path is not None:
                by_path.setdefault(media.path.resolve(), []).append(shown)
    file_names = {path.name for path in by_path}
    for name, source in training.items() if by_name else ():
        leaked: dict[str, dict[str, str]] = {}  # held-out source -> key -> name of the media file
        for _, media in _media(source, _stride(f"training source {name}", source, sentences)):
            same = by_path.get(media.path.resolve(), []) if media.path is not None and media.path.name in file_names else []
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
    """The files that a source reads, links followed; its patterns where they name none any more."""
    try:
        return set(map(os.path.realpath, expand(source.paths)))
    except StorageError:
        return set(source.paths)


def _stride(name: str, source: Source, sentences: list[str]) -> int:
    """Every how many samples one is compared, so that neither their number nor the bytes that a dataset holds of them pass the limits."""
    probe = -(-len(source) // PROBED)
    size = sum(_size(media) for _, media in _media(source, probe) if media.path is None) * probe
    stride = max(-(-len(source) // MOST_SAMPLES), -(-size // MOST_BYTES), 1)
    if stride > 1:
        sentences.append(f"of {name} only 1 in {stride} samples was looked at for media that are held out and trained on")
    return stride


def _media(source: Source, stride: int) -> Iterator[tuple[str, Media]]:
    """The media of every `stride`th sample, with the sample's key. A sample that cannot be read has none."""
    for number in range(0, len(source), stride):
        try:
            sample = source[number]
        except (SampleError, OSError):
            continue
        for media in sample.files:
            yield sample.key, media


def _size(media: Media) -> int:
    """Bytes of an encoded file; 0 where it cannot be read."""
    try:
        with open_media(media) as file:
            return file.seek(0, io.SEEK_END)
    except SampleError:
        return 0


def _equal_bytes(trained: Media, shown: _Shown) -> bool:
    """Whether a dataset holds at least one of the two, and their bytes are equal. Two files are compared by path."""
    if trained.path is not None and shown.media.path is not None:
        return False
    try:
        return _digest(trained) == (shown.content or _digest(shown.media))
    except SampleError:
        return False


def _digest(media: Media) -> str:
    return hashlib.sha256(read_bytes(media)).hexdigest()
