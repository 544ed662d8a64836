"""Reads TFDS datasets in array_record files, and defines the features of converted datasets, without TensorFlow."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets

from data_pipelines.conditions import of_columns
from data_pipelines.schema import DOCUMENT, ROLES, Clip, DataError, Media, Sample, SampleError, SourceSettings, Turn
from data_pipelines.sources.containers import Shard
from data_pipelines.sources.containers.arrayrecord import ArrayRecords, example_decoder
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables
from data_pipelines.sources.dialects.row import KEYS
from data_pipelines.sources.features import check_features
from data_pipelines.sources.json_text import read_json
from data_pipelines.sources.keys import Keys, can_change_training
from data_pipelines.sources.paths import local_path, one_path
from data_pipelines.sources.source import RecordSource

SPLIT = "train"
_ADVICE = "write one with `python -m data_pipelines.convert`"


def features() -> tensorflow_datasets.features.FeaturesDict:
    """Returns the features of a record of a converted dataset.

    `turns` is the JSON text of a list of [role, text, is_input], one for each turn. `media` has the encoded files, one for each name: first the
    images' files, then the clips'. `clips` is the JSON text of a list of [number of files, times], one for each clip.
    """
    text = tensorflow_datasets.features.Text
    sequence = tensorflow_datasets.features.Sequence
    return tensorflow_datasets.features.FeaturesDict(
        {
            "key": text(),
            "family": text(),
            "turns": text(),
            "clips": text(),
            "media_names": sequence(text()),
            "media": sequence(text()),
        }
    )


def open_tfds(settings: SourceSettings, tables: Tables) -> TfdsSource | RecordSource:
    """Opens the split "train" of a dataset that `python -m data_pipelines.convert` wrote, or of any other, whose examples are read as rows.

    The source's path is the dataset's version folder, or DATA_DIR/NAME or DATA_DIR/NAME:VERSION, where NAME may be NAME/CONFIG.

    Raises:
      DataError: there is no such dataset, or it lacks the split, is not stored as array_record or is empty.
    """
    folder = local_path(one_path(settings), f"source {settings.name!r}: path")
    try:
        builder = _builder(folder)
        paths = [str(path) for path in builder.info.splits[SPLIT].filepaths]
        held = builder.info.features
    except Exception as error:  # for folders it cannot use, the library raises errors of its own and of other libraries
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"source {settings.name!r}: {folder} is not a TFDS array_record dataset ({reason}); {_ADVICE}") from error
    converted = set(features()) <= set(held)
    kind = ArrayRecords(held.deserialize_example_np if converted else example_decoder(held))
    container = Shards(kind, paths, tables, settings.name)
    return TfdsSource(settings, container, str(builder.data_path), set(held)) if converted else RecordSource(settings, container)


def _builder(folder: pathlib.Path) -> Any:
    if (folder / "features.json").exists():
        check_features(folder)
        return tensorflow_datasets.builder_from_directory(folder)
    name, _, version = str(folder).partition(":")
    for found in pathlib.Path(name).rglob("features.json"):  # of each version
        check_features(found.parent)
    for data_dir in pathlib.Path(name).parents[:2]:  # DATA_DIR of DATA_DIR/NAME, or of DATA_DIR/NAME/CONFIG
        dataset = f"{pathlib.Path(name).relative_to(data_dir)}{f':{version}' if version else ''}"
        with contextlib.suppress(tensorflow_datasets.core.DatasetNotFoundError):
            return tensorflow_datasets.core.read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    raise DataError("no such dataset")


class TfdsSource:
    """A dataset written by `python -m data_pipelines.convert`, whose records are samples, not rows.

    Args:
      settings: settings of the source.
      container: records of the dataset.
      folder: path of the dataset for messages.
      held: names of the dataset's features.
    """

    def __init__(self, settings: SourceSettings, container: Shards, folder: str, held: set[str]):
        self.name = settings.name
        self.settings, self._container, self._folder = settings, container, folder
        self._keys = Keys(self.name, settings.ignore)
        if conditions := of_columns(settings.keep):
            raise DataError(
                f"source {self.name!r}: `keep` has the condition {str(conditions[0])!r}, but {self._folder} holds samples without their rows' "
                "columns: filter the rows that it was converted from"
            )
        self._check_others(held - set(features()) - set(settings.ignore))

    def _check_others(self, others: set[str]) -> None:
        """Counts features that are not read. Raises DataError for a feature that can change what is trained."""
        for name in sorted(others):
            if name in KEYS or can_change_training(name, None, False):
                raise DataError(
                    f"source {self.name!r}: {self._folder} has the feature {name!r}, which can change what is trained and is not read: "
                    "leave it out of the dataset, or list it in the source's `ignore` to train without it"
                )
        if others:
            self._keys.pass_over(sorted(others), str(self._folder))

    @property
    def paths(self) -> tuple[str, ...]:
        """The dataset's folder."""
        return self.settings.paths

    @property
    def ignored(self) -> Counter[str]:
        """Features of the dataset that are not read, each counted once."""
        return self._keys.ignored

    def __len__(self) -> int:
        return len(self._container)

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample. Raises SampleError for a record that cannot be used."""
        record = self._record(index)
        key = _text(record["key"])
        where = f"{key} (record {index} of {self._folder})"
        try:
            turns = tuple(Turn(str(role), str(text), bool(is_input)) for role, text, is_input in read_json(_text(record["turns"])))
            clips = [(int(files), tuple(map(float, times))) for files, times in read_json(_text(record["clips"]))]
        except (ValueError, TypeError) as error:
            raise SampleError("broken_json", f"{where}: broken turns or clips ({error})") from error
        unknown = {turn.role for turn in turns} - {*ROLES, DOCUMENT}
        if not turns or unknown:
            raise SampleError("bad_record", f"{where}: {'unknown roles ' + ', '.join(unknown) if unknown else 'no turns'}")
        names, data = record["media_names"], record["media"]
        pictures = len(data) - sum(files for files, _ in clips)
        if len(names) != len(data) or pictures < 0 or any(files < 1 for files, _ in clips):
            raise SampleError(
                "bad_record", f"{where}: {len(names)} names for {len(data)} media, of which clips have {len(data) - pictures}"
            )
        media = tuple(Media(_text(name), data=bytes(item), pictures=self.settings.pictures) for name, item in zip(names, data, strict=True))
        rest = iter(media[pictures:])
        made = tuple(Clip(tuple(itertools.islice(rest, files)), times) for files, times in clips)
        return Sample(key, turns, media[:pictures], made, _text(record["family"]))

    def key(self, index: int) -> str:
        """Returns the key that the sample had when it was converted; "SHARD[row]" if its record cannot be read."""
        try:
            return _text(self._record(index)["key"])
        except SampleError:
            return self._container.key(index)

    def _record(self, index: int) -> dict[str, Any]:
        return self._container.record(index).fields

    def shards(self) -> Sequence[Shard]:
        """Returns the dataset's files in order: the samples of shard k follow those of shard k - 1."""
        return self._container.shards()


def encode(sample: Sample, media: list[bytes]) -> dict[str, Any]:
    """Returns the record of a sample, given the encoded bytes of its files."""
    return {
        "key": sample.key,
        "family": sample.family,
        "turns": json.dumps([(turn.role, turn.text, turn.is_input) for turn in sample.turns], ensure_ascii=False),
        "clips": json.dumps([(len(clip.files), clip.times) for clip in sample.clips]),
        "media_names": [file.name for file in sample.files],
        "media": media,
    }


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise SampleError("bad_record", f"text that is not UTF-8: {value[:80]!r} ({error})") from error
