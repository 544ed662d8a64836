"""Samples that stand twice in a source, and what training and held-out sources share."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_pipelines.media.images import read_bytes
from data_pipelines.progress import progress
from data_pipelines.schema import Media, Sample, SampleError
from data_pipelines.sources import Source

LOOKED_AT = 20_000  # samples of a source that are compared, spread evenly over it


class _Seen(NamedTuple):
    """Of one source: its samples by text and files, and the keys of samples by each file."""

    samples: collections.Counter[bytes]
    files: dict[object, str]
    read: int
    stride: int


def overlap_sentences(train: Sequence[Source], heldout: Sequence[Source]) -> list[str]:
    """Sentences about duplicates within each source, and about samples and files that are both trained on and held out.

    Files are compared by path, files that a container holds by their bytes. Of large sources every n-th sample is looked at, which is said.
    """
    trained, held_out = [_look(source) for source in train], [_look(source) for source in heldout]
    sentences = []
    names = [source.name for source in train] + [f"{source.name} (held out)" for source in heldout]
    for name, found in zip(names, [*trained, *held_out], strict=True):
        twice = sum(count - 1 for count in found.samples.values())
        if twice:
            sentences.append(f"{name}: {twice:,} of {found.read:,} samples are equal to another one (text and files)")
        if found.stride > 1:
            sentences.append(f"{name}: 1 in {found.stride} samples was looked at for duplicates and overlap")
    for held, theirs in zip(heldout, held_out, strict=True):
        for source, ours in zip(train, trained, strict=True):
            if equal := ours.samples.keys() & theirs.samples.keys():
                sentences.append(f"{held.name} (held out) and {source.name} (trained on) share {len(equal):,} equal samples")
            if files := ours.files.keys() & theirs.files.keys():
                first = next(iter(sorted(files, key=str)))
                sentences.append(
                    f"{held.name} (held out) and {source.name} (trained on) share {len(files):,} files, such as that of {theirs.files[first]} and "
                    f"{ours.files[first]}"
                )
    return sentences


def _look(source: Source) -> _Seen:
    stride = max(1, -(-len(source) // LOOKED_AT))
    samples: collections.Counter[bytes] = collections.Counter()
    files: dict[object, str] = {}
    for sample in _samples(source, stride):
        identities = [_identity(media) for media in sample.files]
        said = repr([(turn.role, turn.text) for turn in sample.turns])
        samples[hashlib.sha256(repr((said, identities)).encode(errors="replace")).digest()] += 1
        for identity in identities:
            files.setdefault(identity, sample.key)
    return _Seen(samples, files, samples.total(), stride)


def _samples(source: Source, stride: int) -> Iterator[Sample]:
    numbers = range(0, len(source), stride)
    for number in progress(numbers, len(numbers), f"comparing {source.name}"):
        try:
            yield source[number]
        except SampleError:
            continue


def _identity(media: Media) -> object:
    if media.path is not None:
        return str(media.path)
    try:
        return hashlib.sha256(read_bytes(media)).hexdigest()
    except SampleError:  # a store that does not answer
        return media.name
