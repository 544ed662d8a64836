"""The length index of a source: measures every sample from its text and file headers, and keeps the results on disk."""

from __future__ import annotations

import collections
import copy
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.failures import failure_line
from data_pipelines.index.build import Builder, Built
from data_pipelines.index.columns import ORDER
from data_pipelines.index.filters import Filters
from data_pipelines.index.layout import PhaseLengths, sample_seeds
from data_pipelines.index.pieces import PieceCounts
from data_pipelines.index.usable import Usable
from data_pipelines.index.work import Recipe, Stop
from data_pipelines.schema import DataError, PhaseSettings, SourceSettings
from data_pipelines.sources import Source
from data_pipelines.sources.samples import FILTERED
from data_pipelines.storage import write_whole
from data_pipelines.text.tokenizers import Tokenizer

NAMED = 10_000  # maximum number of a source's unusable samples that the log names


def sample_seed(seed: int, source: str, sample: int) -> int:
    """Returns the seed of a sample's random choices (a video's frames). It is the same in every epoch, so that lengths do not change."""
    return int(sample_seeds(seed, source, np.array([sample]))[0])


class LengthIndex:
    """The lengths of a source's samples and counts of its unusable ones, as planning needs them. Created by `open`.

    Columns are memory-mapped; in addition each unusable sample takes 8 bytes of memory.

    Attributes:
      name: the source's name.
      max_epochs: maximum number of times that its samples are read over the run; 0: no limit.
      usable: numbers of the usable samples. They include those that the source's `keep` leaves out, whose lengths are FILTERED.
      filtered: number of samples among them that a condition on a row's column leaves out.
      unusable: number of unusable samples by reason.
      conversions: number of pictures of usable samples that need each of faithful.CONVERSIONS. The source's setting `pictures` determines
        whether they are applied ("faithful") or the picture is altered or left as stored ("reference").
      path: the index on disk; if it is deleted, every sample is measured again at the next start.
      log: file that names the first NAMED unusable samples.
    """

    def __init__(self, source: SourceSettings, built: Built, tokenizer: Tokenizer, folder: pathlib.Path, log: pathlib.Path):
        self.name = source.name
        self.max_epochs = source.max_epochs
        self._filters = Filters(source.keep)
        self.path = built.path
        self.log = log
        self.unusable, self.conversions = built.facts.failures, built.facts.conversions
        self.filtered = len(built.columns["filtered_sample"])
        self.usable = Usable(len(built.columns["text"]), np.array(built.columns["failure_sample"]))
        self._built = built
        self._pieces = PieceCounts(tokenizer, folder / "pieces" / f"{tokenizer.fingerprint[:32]}.npz")

    def __len__(self) -> int:
        return len(self._built.columns["text"])

    def digest(self) -> str:
        """Returns a digest of what determines the order of the data: which samples are usable, and their lengths.

        It depends neither on the source's path nor on its division into shards.
        """
        return hashlib.sha256(repr(self._built.description.checksums(ORDER)).encode()).hexdigest()

    @classmethod
    def open(
        cls,
        source: Source,
        tokenizer: Tokenizer,
        folder: str | pathlib.Path,
        threads: int = 8,
        stop: Stop | None = None,
        recipe: Recipe | None = None,
    ) -> LengthIndex:
        """Reads a source's index from `folder`, after measuring the samples that it lacks.

        A shard is identified by its content, the settings that it is read with, the tokenizer and the version of the measuring method. Only
        new shards are measured: a copy, another mount or another order of shards is not measured again. A shard is measured in chunks of
        work.CHUNK samples, each of which is saved as soon as it is done: a kill costs each process at most the current chunk. Of the
        processes that share the folder, one measures a shard; the others measure other shards, or wait.

        Media files of shards that were measured before are checked again: all of them if there are at most build.LOOKED_AT, else that many
        random ones (a stat and a row each: some seconds on one core), and then all if the lengths of one have changed. Samples whose files
        have another size or modification time are measured again. Samples that could not be used for a reason that may be repaired (a
        missing file) are checked in the same way. A change that is missed here is noticed when the sample is decoded.

        NAME.unusable.jsonl names the first NAMED samples that cannot be used.

        Args:
          source: source to index.
          tokenizer: tokenizer that counts the tokens of its text.
          folder: folder of the index; created if missing.
          threads: number of threads that read files' headers.
          stop: function called at least between chunks; the work ends if it returns True.
          recipe: settings with which other processes open the source and the tokenizer; with it, processes on all cores measure, or as many
            as it specifies. None: this process alone measures.

        Raises:
          DataError: no sample of the source can be used, or the index cannot be read or written.
          Interrupted: `stop` returned True.
        """
        folder = pathlib.Path(folder)
        log = folder / f"{source.name}.unusable.jsonl"
        built = Builder(source, tokenizer, folder, recipe, threads, stop or (lambda: False)).build(NAMED)
        lines = (failure_line(source.name, source.key(sample), *failure) for sample, failure in built.failures.items())
        _write_log(log, "".join(lines))
        index = cls(source.settings, built, tokenizer, folder, log)
        if len(index.usable) == index.filtered:
            reasons = index.unusable + collections.Counter({FILTERED: index.filtered})
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            raise DataError(
                f"no sample of source {source.name!r} can be used ({counts}); they are named in {log}. "
                f"To measure all samples again delete {index.path}"
            )
        return index

    def lengths(self, phase: PhaseSettings, seed: int) -> PhaseLengths:
        """Returns the lengths of samples in a phase, which are computed when they are indexed."""
        return PhaseLengths(self._built.columns, phase, seed, self.name, self._pieces, self._filters)

    def limited(self, keep: Sequence[str], max_epochs: float) -> LengthIndex:
        """Returns the same index with other conditions on measures and another limit on epochs."""
        other = copy.copy(self)
        other.max_epochs, other._filters = max_epochs, Filters(keep)
        return other

    def save_pieces(self) -> None:
        """Saves the token counts of texts beside clips' frames, so that the next start need not count them again."""
        self._pieces.save()


def _write_log(log: pathlib.Path, text: str) -> None:
    try:
        if not log.exists() or log.read_text(encoding="utf-8") != text:
            write_whole(log, text)
    except OSError as error:
        raise DataError(f"cannot write {log} ({error}): make room for it, or name another index_folder") from error
