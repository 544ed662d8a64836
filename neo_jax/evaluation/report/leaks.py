"""Held-out samples that training may have seen: the same rows, or the same media files."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Mapping

from data_pipelines.media.images import read_bytes
from data_pipelines.schema import Media, SampleError, SourceSettings
from data_pipelines.sources import Source

MOST_SAMPLES = 20_000  # of a training source that are compared, evenly over it
MOST_BYTES = 1 << 30  # of media in a dataset that are read with them
PROBED = 16  # samples that tell how many bytes a sample has

Opened = Mapping[str, tuple[SourceSettings, Source]]  # by the source's name


def find_leaks(training: Opened, held_out: Opened) -> list[str]:
    """Returns a sentence for each pair of a held-out and a training source that share rows or media, and for each source compared in part.

    Rows are compared by file: two sources that read the same one share all of them. Media are compared by resolved path; where a dataset holds
    their bytes, by name and content. Equal media under other names, and texts, are not compared.
    """
    sentences: list[str] = []
    same_file: set[tuple[str, str]] = set()
    shown: dict[str, list[tuple[str, str, Media]]] = {}  # name of a held-out media file -> held-out source, key, media
    paths: dict[pathlib.Path, list[tuple[str, str, Media]]] = {}
    for name, (settings, source) in held_out.items():
        for other, (trained, _) in training.items():
            if pathlib.Path(trained.path).resolve() == pathlib.Path(settings.path).resolve():
                sentences.append(f"held-out source {name} reads the file of training source {other}: its samples are trained on")
                same_file.add((name, other))
        for key, media in _media(source):
            shown.setdefault(media.name, []).append((name, key, media))
            if media.path is not None:
                paths.setdefault(media.path.resolve(), []).append((name, key, media))
    for name, (_, source) in training.items() if shown else ():
        stride = _stride(source)
        if stride > 1:
            sentences.append(f"of training source {name} 1 in {stride} samples was compared with the held-out media")
        found: dict[str, dict[str, str]] = {}  # held-out source -> key -> name of the media file
        for _, media in _media(source, stride):
            same = paths.get(media.path.resolve(), []) if media.path is not None else []
            same = same + [each for each in shown.get(media.name, ()) if None in (media.path, each[2].path) and _equal(media, each[2])]
            for other, key, _ in same:
                found.setdefault(other, {})[key] = media.name
        for other, keys in found.items():
            if (other, name) in same_file:
                continue
            key, file = next(iter(keys.items()))
            sentences.append(
                f"{len(keys):,} of held-out source {other}'s samples show media of training source {name}, such as {key}: {file}"
            )
    return sentences


def _stride(source: Source) -> int:
    """Every how many samples one is compared, so that neither their number nor the bytes that a dataset holds of them pass the limits."""
    probe = -(-len(source) // PROBED)
    size = sum(len(media.data) for _, media in _media(source, probe) if media.data is not None) * probe
    return max(-(-len(source) // MOST_SAMPLES), -(-size // MOST_BYTES), 1)


def _media(source: Source, stride: int = 1) -> Iterator[tuple[str, Media]]:
    """The media of every `stride`th sample, with the sample's key. A sample that cannot be read has none."""
    for number in range(0, len(source), stride):
        try:
            sample = source[number]
        except (SampleError, OSError):
            continue
        for media in (*sample.images, *((sample.video,) if sample.video else ())):
            yield sample.key, media


def _equal(one: Media, other: Media) -> bool:
    try:
        return hashlib.sha256(read_bytes(one)).digest() == hashlib.sha256(read_bytes(other)).digest()
    except SampleError:
        return False
