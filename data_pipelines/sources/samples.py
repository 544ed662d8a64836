"""Converts a row and its files to a sample; shared by all containers of rows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from data_pipelines.conditions import of_columns
from data_pipelines.schema import Clip, Media, Sample, SampleError, SourceSettings
from data_pipelines.sources.dialects.files import MediaFile, RowClip, is_still
from data_pipelines.sources.dialects.row import read_row, with_rate
from data_pipelines.sources.keys import Keys
from data_pipelines.sources.paths import MediaRoot
from data_pipelines.storage.files import Whole
from data_pipelines.storage.interface import Stored, is_remote

_SIDES = ("height", "width")
FILTERED = "filtered"  # reason for a row that a condition of the source's `keep` leaves out; not an error of the row


class SampleReader:
    """Reads the rows of one source. Safe to share between threads.

    Raises:
      DataError: media_root is not a folder.
    """

    def __init__(self, settings: SourceSettings):
        self._settings = settings
        self._root = MediaRoot(settings)
        self._conditions = of_columns(settings.keep)
        read = [condition.column for condition in self._conditions] + (list(_SIDES) if settings.given_sizes else [])
        self._keys = Keys(settings.name, settings.ignore, read)

    @property
    def ignored(self) -> Counter[str]:
        """Keys of rows that are not read, with the number of times each was ignored so far."""
        return self._keys.ignored

    def read(self, record: object, key: str, held: Mapping[str, Stored] | None = None) -> Sample:
        """Converts a row to a sample.

        Args:
          record: the row as parsed from JSON or read from another container.
          key: name of the row.
          held: files inside the container, by the names that rows use for them.

        Raises StorageError if a store does not answer. Raises SampleError as dialects.row.read_row, "filtered", and "path_escapes_root" or
        "unreadable_file" for files.
        """
        if isinstance(record, Mapping):
            for condition in self._conditions:
                if not condition.holds_for(record):
                    raise SampleError(
                        FILTERED, f"{key}: left out by `keep`: {condition} does not hold for {record.get(condition.column)!r:.80}"
                    )
        turns, images, clips, family = read_row(record, key, self._keys, self._settings)
        files = held or {}
        sizes = _given_sizes(record, len(images), key) if self._settings.given_sizes and images else [None] * len(images)
        media = tuple(self._media(file, key, files, size) for file, size in zip(images, sizes, strict=True))
        return Sample(key, turns, media, tuple(self._clip(clip, key, files) for clip in clips), family)

    def _media(self, file: MediaFile, key: str, held: Mapping[str, Stored], size: tuple[int, int] | None = None) -> Media:
        pictures = self._settings.pictures
        if file.data is not None:
            return Media(file.name, data=file.data, pictures=pictures, size=size)
        found = held.get(file.name) or self._root.find(file.name, key)
        if isinstance(found, Whole) and not is_remote(found.address):
            found = found.address
        if isinstance(found, str):
            return Media(file.name, path=found, pictures=pictures, size=size)
        return Media(file.name, stored=found, pictures=pictures, size=size)

    def _clip(self, clip: RowClip, key: str, held: Mapping[str, Stored]) -> Clip:
        media = tuple(self._media(file, key, held) for file in clip.files)
        if len(media) == 1 and media[0].path is not None and os.path.isdir(media[0].path):
            media = self._frames(media[0], media[0].path, key)
        elif not is_still(clip.files[0].name):
            if clip.rate or clip.times:
                raise SampleError(
                    "unknown_key",
                    f'{key}: "fps" or "timestamps" beside the file {clip.files[0].name!r}, which has its own times: how many of its frames '
                    f"are shown is set by the phase (frames_per_second); list the key in `ignore` of source {self._settings.name!r}",
                )
            return Clip(media)
        timed = with_rate(clip._replace(files=tuple(MediaFile(each.name) for each in media)), self._settings.frame_rate, key)
        return Clip(media, timed.times)

    def _frames(self, folder: Media, path: str, key: str) -> tuple[Media, ...]:
        """Returns the pictures in a folder of frames, ordered by the numbers in their names."""
        names = sorted((name for name in os.listdir(path) if is_still(name)), key=_numbered)
        if not names:
            raise SampleError("broken_video", f"{key}: the folder {folder.name!r} holds no pictures: it is no clip")
        return tuple(self._media(MediaFile(f"{folder.name.rstrip('/')}/{name}"), key, {}) for name in names)


def _given_sizes(record: object, count: int, key: str) -> Sequence[tuple[int, int] | None]:
    """Returns the (height, width) that the row gives for each of `count` pictures. Raises SampleError "bad_record"."""
    assert isinstance(record, Mapping), "read_row takes nothing else"
    height, width = record.get("height"), record.get("width")
    if count == 1 and type(height) is int and type(width) is int and height > 0 and width > 0:
        return ((height, width),)  # most rows
    sides = []
    for name in _SIDES:
        value = record.get(name)
        values = value if isinstance(value, list) else [value]
        if len(values) != count or not all(type(each) is int and each > 0 for each in values):
            raise SampleError(
                "bad_record",
                f"{key}: {name!r} is {value!r}, must be the pixels of its {count} {'picture' if count == 1 else 'pictures'} (the source has "
                "given_sizes): mend the row, or take given_sizes from the source",
            )
        sides.append(values)
    return list(zip(*sides, strict=True))


def _numbered(name: str) -> tuple[tuple[int, str], ...]:
    """Returns a sort key that orders frame_2 before frame_10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))
