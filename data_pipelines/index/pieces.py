"""Tokens of the pieces of text beside clips' frames, counted once for each text and kept on disk for a tokenizer."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from data_pipelines.index import arrays
from data_pipelines.index.columns import Numbers
from data_pipelines.randomness import scramble, spread
from data_pipelines.schema import DataError
from data_pipelines.text import video
from data_pipelines.text.tokenizers import Tokenizer

_TABLE = 100 * 3600 * 12  # times below 12 hours, in hundredths of a second, are looked up in a table
_UNKNOWN = -1


class PieceCounts:
    """Counts tokens of time marks and of the pieces that lead to a clip's first frame. Safe to share between threads.

    Args:
      tokenizer: counts; its fingerprint binds the file to it.
      path: the file. A damaged one is made again; one that cannot be written is done without.
    """

    def __init__(self, tokenizer: Tokenizer, path: pathlib.Path):
        self._tokenizer, self._path = tokenizer, path
        self._lock = threading.Lock()
        stored = arrays.load(path, tokenizer.fingerprint) or {}
        self._marks: npt.NDArray[np.int32] = stored.get("marks", np.full(6000, _UNKNOWN, np.int32))
        self._keys: npt.NDArray[np.uint64] = stored.get("head_keys", np.zeros(0, np.uint64))
        self._heads: npt.NDArray[np.int32] = stored.get("heads", np.zeros(0, np.int32))
        self._is_saved = True

    def save(self) -> None:
        """Keeps what was counted for the next start. Another process may have written other pieces: the last one wins."""
        with self._lock, contextlib.suppress(DataError):
            if not self._is_saved:
                arrays.save(self._path, {"marks": self._marks, "head_keys": self._keys, "heads": self._heads}, self._tokenizer.fingerprint)
                self._is_saved = True

    def marks(self, hundredths: Numbers) -> Numbers:
        """[f] tokens of the text between two frames, of which the second is shown at a time in hundredths of a second."""
        with self._lock:
            far = np.flatnonzero(hundredths >= _TABLE)
            inside = np.where(hundredths < _TABLE, hundredths, 0) if len(far) else hundredths
            if len(inside) and (most := int(inside.max())) >= len(self._marks):
                self._marks = np.concatenate([self._marks, np.full(most + 6000 - len(self._marks), _UNKNOWN, np.int32)])
            counts: Numbers = self._marks[inside].astype(np.int64)
            if (counts == _UNKNOWN).any():
                for time in np.unique(inside[counts == _UNKNOWN]).tolist():
                    self._marks[time] = self._count_mark(time)
                self._is_saved = False
                counts = self._marks[inside].astype(np.int64)
            for place in far.tolist():
                counts[place] = self._count_mark(int(hundredths[place]))
            return counts

    def _count_mark(self, time: int) -> int:
        return len(self._tokenizer.encode(f"\n{video.time_text(time)}"))

    def heads(
        self,
        before_hash: npt.NDArray[np.uint64],
        durations: Numbers,
        frames: Numbers,
        rates: Numbers,
        first: Numbers,
        before: Callable[[int], str],
    ) -> Numbers:
        """[c] tokens of the pieces that lead to clips' first frames: the text in front, the clip's prefix and the first time.

        Args:
          before_hash: of the text in front.
          durations, frames, rates: as in text.video.prefix_text.
          first: the time of the first frame in hundredths of a second.
          before: gives the text in front of the clip at a place, [0, c).
        """
        keys = before_hash
        for values in (durations, frames, rates, first):
            keys = scramble(spread(keys, values + 1))
        with self._lock:
            known = self._find(keys)
            if (known == _UNKNOWN).any():
                new, places = np.unique(keys[known == _UNKNOWN], return_index=True)
                places = np.flatnonzero(known == _UNKNOWN)[places]
                counts = []
                for place in places.tolist():
                    prefix = video.prefix_text(int(durations[place]), int(frames[place]), int(rates[place]))
                    counts.append(len(self._tokenizer.encode(before(place) + prefix + video.time_text(int(first[place])))))
                order = np.argsort(np.concatenate([self._keys, new]))
                self._heads = np.concatenate([self._heads, np.array(counts, np.int32)])[order]
                self._keys = np.concatenate([self._keys, new])[order]
                self._is_saved = False
                known = self._find(keys)
            return known

    def _find(self, keys: npt.NDArray[np.uint64]) -> Numbers:
        if not len(self._keys):
            return np.full(len(keys), _UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._heads[places], _UNKNOWN).astype(np.int64)
