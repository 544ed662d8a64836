"""Token counts of the pieces of text beside clips' frames, counted once for each text and saved on disk for each tokenizer."""

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

_TABLE = 100 * 3600 * 12  # limit of the table of time marks: 12 hours in hundredths of a second; later times are counted each time
_UNKNOWN = -1


class PieceCounts:
    """Counts tokens of time marks and of the pieces of text that end at a clip's first frame. Safe to share between threads.

    Args:
      tokenizer: tokenizer that counts; the file is used only if it has the tokenizer's fingerprint.
      path: file of the counts. A damaged file is replaced. If it cannot be written, the counts are not saved.
    """

    def __init__(self, tokenizer: Tokenizer, path: pathlib.Path):
        self._tokenizer, self._path = tokenizer, path
        self._lock = threading.Lock()
        stored = arrays.load(path, tokenizer.fingerprint) or {}
        self._marks: npt.NDArray[np.int32] = stored.get("marks", np.full(6000, _UNKNOWN, np.int32))
        # Ascending keys, and counts. Both are replaced in one assignment, so that they can be read without the lock.
        self._heads: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]] = (
            stored.get("head_keys", np.zeros(0, np.uint64)),
            stored.get("heads", np.zeros(0, np.int32)),
        )
        self._is_saved = True

    def save(self) -> None:
        """Saves the counts for the next start. If another process has saved other counts, this file replaces its file."""
        with self._lock, contextlib.suppress(DataError):
            if not self._is_saved:
                keys, heads = self._heads
                arrays.save(self._path, {"marks": self._marks, "head_keys": keys, "heads": heads}, self._tokenizer.fingerprint)
                self._is_saved = True

    def marks(self, hundredths: Numbers) -> Numbers:
        """Returns [f] the tokens of the text between two frames, given the time of the second frame in hundredths of a second."""
        far = np.flatnonzero(hundredths >= _TABLE)
        inside = np.where(hundredths < _TABLE, hundredths, 0) if len(far) else hundredths
        table = self._marks  # known counts never change, so the table can be read without the lock
        most = int(inside.max(initial=0))
        if most >= len(table) or table[inside].min(initial=0) == _UNKNOWN:
            table = self._with_marks(np.unique(inside), most)
        counts: Numbers = table[inside].astype(np.int64)
        for place in far.tolist():
            counts[place] = self._count_mark(int(hundredths[place]))
        return counts

    def _with_marks(self, times: Numbers, most: int) -> npt.NDArray[np.int32]:
        """Returns the table after adding the counts of `times`, the largest of which is `most`."""
        with self._lock:
            table = np.full(max(len(self._marks), most + 1), _UNKNOWN, np.int32)
            table[: len(self._marks)] = self._marks
            for time in times[table[times] == _UNKNOWN].tolist():
                table[time] = self._count_mark(time)
            self._marks, self._is_saved = table, False
            return table

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
        """Returns [c] the tokens of the pieces that end at clips' first frames: the text in front, the clip's prefix and the first time.

        Args:
          before_hash: hashes of the texts in front of the clips.
          durations, frames, rates: arguments of text.video.prefix_text.
          first: times of the first frames in hundredths of a second.
          before: function that returns the text in front of the clip at an index in [0, c).
        """
        keys = before_hash
        for values in (durations, frames, rates, first):
            keys = scramble(spread(keys, values + 1))

        def count(place: int) -> int:
            prefix = video.prefix_text(int(durations[place]), int(frames[place]), int(rates[place]))
            return len(self._tokenizer.encode(before(place) + prefix + video.time_text(int(first[place]))))

        known = self._find(keys)
        if (known == _UNKNOWN).any():
            with self._lock:
                self._add_heads(keys, count)
            known = self._find(keys)
        return known

    def _add_heads(self, keys: npt.NDArray[np.uint64], count: Callable[[int], int]) -> None:
        """Counts the pieces whose keys are not known. `count` returns the tokens of the piece at an index of `keys`."""
        unknown = np.flatnonzero(self._find(keys) == _UNKNOWN)
        new, places = np.unique(keys[unknown], return_index=True)
        counts = [count(place) for place in unknown[places].tolist()]
        all_keys = np.concatenate([self._heads[0], new])
        order = np.argsort(all_keys)
        self._heads = all_keys[order], np.concatenate([self._heads[1], np.array(counts, np.int32)])[order]
        self._is_saved = False

    def _find(self, keys: npt.NDArray[np.uint64]) -> Numbers:
        known, counts = self._heads
        if not len(known):
            return np.full(len(keys), _UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[places] == keys, counts[places], _UNKNOWN).astype(np.int64)
