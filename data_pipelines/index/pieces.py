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
        # Keys, ascending, and counts: replaced together, so that they are read without the lock.
        self._heads: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]] = (
            stored.get("head_keys", np.zeros(0, np.uint64)),
            stored.get("heads", np.zeros(0, np.int32)),
        )
        self._is_saved = True

    def save(self) -> None:
        """Keeps what was counted for the next start. Another process may have written other pieces: the last one wins."""
        with self._lock, contextlib.suppress(DataError):
            if not self._is_saved:
                keys, heads = self._heads
                arrays.save(self._path, {"marks": self._marks, "head_keys": keys, "heads": heads}, self._tokenizer.fingerprint)
                self._is_saved = True

    def marks(self, hundredths: Numbers) -> Numbers:
        """[f] tokens of the text between two frames, of which the second is shown at a time in hundredths of a second."""
        far = np.flatnonzero(hundredths >= _TABLE)
        inside = np.where(hundredths < _TABLE, hundredths, 0) if len(far) else hundredths
        table = self._marks  # never changed where it is known: read without the lock
        most = int(inside.max(initial=0))
        if most >= len(table) or table[inside].min(initial=0) == _UNKNOWN:
            table = self._with_marks(np.unique(inside), most)
        counts: Numbers = table[inside].astype(np.int64)
        for place in far.tolist():
            counts[place] = self._count_mark(int(hundredths[place]))
        return counts

    def _with_marks(self, times: Numbers, most: int) -> npt.NDArray[np.int32]:
        """The table with the counts of some times, the largest of which is `most`."""
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
        """Counts the pieces of these keys that are not known. `count`: the tokens of the piece at a place."""
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
