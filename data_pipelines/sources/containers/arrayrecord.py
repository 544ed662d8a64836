"""Reads ArrayRecord files of JSON objects, or of TFDS examples if features.json is beside the file, without TensorFlow.

A shard is identified by its size and sampled blocks, which include its index at the end. If bytes of a record are replaced in place by others
of the same length, this may go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets
from array_record.python import array_record_module

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers import RawRecord
from data_pipelines.sources.containers.recognise import HEAD_BYTES, refuse_other_formats
from data_pipelines.sources.containers.sampled import sampled_digest
from data_pipelines.sources.containers.tables import Entry, Tables
from data_pipelines.sources.features import check_features
from data_pipelines.sources.json_text import read_json
from data_pipelines.storage.interface import File, is_remote

Decode = Callable[[bytes], Any]  # from bytes of a record to fields; raises ValueError


class ArrayRecords:
    """The kind "arrayrecord".

    Args:
      decode: function that decodes records; None: as examples if features.json is beside the file, else as JSON.
    """

    name = "arrayrecord1"

    def __init__(self, decode: Decode | None = None):
        self._decode = decode

    def scan(self, file: File, tables: Tables, source: str) -> Entry:
        if is_remote(file.address):
            raise DataError(
                f"source {source!r}: {file.address}: ArrayRecord files are read from local disks alone: mount the bucket or copy the files"
            )
        refuse_other_formats(file.read(0, min(file.size, HEAD_BYTES)), file.address, source, "arrayrecord")
        count = _reader(file.address).num_records() if file.size else 0
        if file.size and not count:
            raise DataError(f"source {source!r}: {file.address} is cut short, damaged or without records: write or fetch it again")
        with tables.draft(file, self.name) as draft:
            return draft.commit(sampled_digest(file), count)

    def open(self, file: File, tables: Tables, entry: Entry) -> _Reader:
        return _Reader(file.address, self._decode or _decoder_beside(file.address))

    def check(self, shards: Sequence[tuple[str, Entry]], source: str) -> None:
        pass


class _Reader:
    def __init__(self, address: str, decode: Decode):
        self._address, self._decode, self._records = address, decode, _reader(address)

    def label(self, row: int) -> str:
        return f"[{row}]"

    def record(self, row: int, key: str) -> RawRecord:
        where = f"{key}: record {row} of {self._address}"
        try:
            (data,) = self._records.read([row])
        except Exception as error:  # the reader's errors for damaged files are not documented
            raise SampleError("broken_record", f"{where} cannot be read ({_reason(error)}): write or fetch it again") from error
        try:
            return RawRecord(self._decode(data))
        except SampleError:
            raise
        except Exception as error:  # TFDS raises errors of its own and of other libraries
            raise SampleError("broken_record", f"{where} is not what its file holds elsewhere ({_reason(error)})") from error


def _reader(path: str) -> Any:
    return array_record_module.ArrayRecordReader(path)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _decoder_beside(path: str) -> Decode:
    folder = os.path.dirname(path)
    if not os.path.exists(os.path.join(folder, "features.json")):
        return read_json
    check_features(folder)
    return example_decoder(tensorflow_datasets.features.FeatureConnector.from_config(folder))


def example_decoder(features: Any) -> Decode:
    """Returns a decoder of examples to values as in JSON: texts are str, a sequence of dicts is a list of dicts; media stay encoded bytes."""
    stored = _stored(features)
    return lambda data: _plain(features, stored.deserialize_example_np(data))


def _stored(feature: Any) -> Any:
    """Returns the feature with images and audio replaced by their stored bytes."""
    kinds = tensorflow_datasets.features
    if isinstance(feature, kinds.FeaturesDict):
        return kinds.FeaturesDict({name: _stored(inner) for name, inner in feature.items()})
    if isinstance(feature, kinds.Sequence):
        return kinds.Sequence(_stored(feature.feature), length=feature._length)
    if isinstance(feature, kinds.Image | kinds.Audio):
        return kinds.Text()
    return feature


def _plain(feature: Any, value: Any) -> Any:
    kinds = tensorflow_datasets.features
    if isinstance(feature, kinds.FeaturesDict):
        return {name: _plain(inner, value[name]) for name, inner in feature.items()}
    if isinstance(feature, kinds.Sequence):
        if isinstance(feature.feature, kinds.FeaturesDict):
            columns = {name: _plain(kinds.Sequence(inner), value[name]) for name, inner in feature.feature.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [_plain(feature.feature, each) for each in value]
    if isinstance(value, bytes) and not isinstance(feature, kinds.Image | kinds.Audio):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
