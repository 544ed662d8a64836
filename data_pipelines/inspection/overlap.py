"""Finds duplicate samples in a source, and samples that training and held-out sources share."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_pipelines.inspection.leaks import find_leaks
from data_pipelines.media.images import read_bytes
from data_pipelines.progress import progress
from data_pipelines.schema import Media, Sample, SampleError
from data_pipelines.sources import Source

LOOKED_AT = 20_000  # largest number of samples of a source that are compared, evenly spaced


class _Seen(NamedTuple):
    """Counts of one source: number of occurrences of each sample by its digest, and step between examined samples."""

    samples: collections.Counter[bytes]
    stride: int


def overlap_sentences(train: Sequence[Source], heldout: Sequence[Source]) -> list[str]:
    """Returns sentences about duplicates within each source, and about samples and files that are both trained on and held out (leaks.find_leaks).

    Samples are equal if their text and files are equal; files are compared by path, or by their bytes if a container holds them. Of large
    sources only every n-th sample is examined; a sentence reports this.
    """
    trained, held_out = [_look(source) for source in train], [_look(source) for source in heldout]
    sentences = []
    names = [source.name for source in train] + [f"{source.name} (held out)" for source in heldout]
    for name, found in zip(names, [*trained, *held_out], strict=True):
        twice = sum(count - 1 for count in found.samples.values())
        if twice:
            sentences.append(f"{name}: {twice:,} of {found.samples.total():,} samples are equal to another one (text and files)")
        if found.stride > 1:
            sentences.append(f"{name}: 1 in {found.stride} samples was looked at for duplicates and overlap")
    for held, theirs in zip(heldout, held_out, strict=True):
        for source, ours in zip(train, trained, strict=True):
            if equal := ours.samples.keys() & theirs.samples.keys():
                sentences.append(f"{held.name} (held out) and {source.name} (trained on) share {len(equal):,} equal samples")
    return sentences + find_leaks({source.name: source for source in train}, {source.name: source for source in heldout})


def _look(source: Source) -> _Seen:
    stride = max(1, -(-len(source) // LOOKED_AT))
    samples: collections.Counter[bytes] = collections.Counter()
    for sample in _samples(source, stride):
        said = [(turn.role, turn.text) for turn in sample.turns], list(map(_identity, sample.files))
        samples[hashlib.sha256(repr(said).encode(errors="replace")).digest()] += 1
    return _Seen(samples, stride)


def _samples(source: Source, stride: int) -> Iterator[Sample]:
    numbers = range(0, len(source), stride)
    for number in progress(numbers, len(numbers), f"comparing {source.name}"):
        try:
            yield source[number]
        except SampleError:
            continue


def _identity(media: Media) -> object:
    if media.path is not None:
        return media.path
    try:
        return hashlib.sha256(read_bytes(media)).hexdigest()
    except SampleError:  # a store that does not answer
        return media.name
