"""Lengths of every sample of a source, found from text and file headers and kept on disk."""

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

NAMED = 10_000  # samples that cannot be used, of a source, that the log names


def sample_seed(seed: int, source: str, sample: int) -> int:
    """The seed of all that is drawn for one sample (a video's frames): the same in every epoch, so that lengths hold."""
    return int(sample_seeds(seed, source, np.array([sample]))[0])


class LengthIndex:
    """What a planner needs to know of a source. Made by `open`.

    Beside what is mapped from disk, 8 bytes are held for each sample that cannot be used.

    Attributes:
      name: the source's name.
      max_epochs: how often its samples are read at most over the run; 0: no limit.
      usable: the numbers of the samples that can be used. Those that the source's `keep` leaves out are among them: their lengths say so.
      filtered: how many of them a condition on a row's column leaves out.
      unusable: how many samples cannot be used, by reason.
      conversions: how many pictures of usable samples need each of faithful.CONVERSIONS. The source's setting `pictures` says whether
        they are applied ("faithful") or the picture is altered or left as stored ("reference").
      path: the index on disk; deleting it has every sample measured again at the next start.
      log: the file that names the first NAMED unusable samples.
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
        """Of what the order of the data follows from: which samples are usable and how long they are, wherever the source lies and however
        it is divided into shards."""
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
        """Reads a source's index from `folder`, after measuring what it lacks.

        Each shard is known by its content, the settings that it is read with, the tokenizer and the method: a copy of it, another mount or
        another order of shards is not measured again, a new shard alone is. It is measured in chunks of work.CHUNK samples, each of which is
        kept as soon as it is done: a kill costs each process the chunk at hand. One process of those that share the folder measures a shard;
        the others measure other shards, or wait.

        Of shards that were measured before, media files are looked at again: all, where there are up to build.LOOKED_AT, else as many
        random ones (a stat and a row each: some seconds for a core), and all if the lengths of one have changed. Samples whose files have
        another size or time than before are measured again. Samples that could not be used for reasons that may be mended (a missing file)
        are looked at again in the same way. What changes and is not noticed here is noticed when it is decoded.

        The first NAMED samples that cannot be used are named in NAME.unusable.jsonl.

        Args:
          source: what is indexed.
          tokenizer: its text is counted with.
          folder: of the files; made when missing.
          threads: that read files' headers.
          stop: asked at least between chunks; True ends the work.
          recipe: what other processes open the source and the tokenizer with: with it, all cores measure. None: this process alone.

        Raises:
          DataError: no sample of the source can be used, or the index cannot be read or written.
          Interrupted: `stop` said so.
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
        """The lengths of samples in a phase, computed where they are looked at."""
        return PhaseLengths(self._built.columns, phase, seed, self.name, self._pieces, self._filters)

    def limited(self, keep: Sequence[str], max_epochs: float) -> LengthIndex:
        """The same index under other conditions on measures and another limit of epochs."""
        other = copy.copy(self)
        other.max_epochs, other._filters = max_epochs, Filters(keep)
        return other

    def save_pieces(self) -> None:
        """Keeps the texts' tokens that were counted for lengths, so that the next start need not count them again."""
        self._pieces.save()


def _write_log(log: pathlib.Path, text: str) -> None:
    try:
        if not log.exists() or log.read_text(encoding="utf-8") != text:
            write_whole(log, text)
    except OSError as error:
        raise DataError(f"cannot write {log} ({error}): make room for it, or name another index_folder") from error
