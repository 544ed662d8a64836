"""Reads sources as training would and says which rows can be used.

    python -m data_pipelines.check my.jsonl --media-root=images --tokenizer=tokenizer.json --config=configs/mine.py --decode

prints for each file how many rows are usable, the others by reason with examples, keys that are not read, and what each phase of the
configuration would leave out. With --json, standard output holds one object a row instead: key, usable, reason, message, tokens, labels, images.
The exit status is 65 for a file that cannot be used at all or has more unusable rows than the failure limit, else 0.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np

from data_pipelines.commands import UNUSABLE
from data_pipelines.conditions import read_condition
from data_pipelines.configuration import Configuration, read_configuration
from data_pipelines.documents import Lengths, count_labels, measure
from data_pipelines.failures import FailurePolicy, counts_text
from data_pipelines.index.columns import Entry, Measured, pack
from data_pipelines.index.filters import Filters
from data_pipelines.index.lengths import sample_seed
from data_pipelines.index.measures import inspect
from data_pipelines.media import images, video
from data_pipelines.printable import printable
from data_pipelines.progress import progress
from data_pipelines.schema import DataError, PhaseSettings, Sample, SampleError, SourceSettings
from data_pipelines.sources import FORMATS, Source, open_source
from data_pipelines.sources.containers.recognise import format_of
from data_pipelines.sources.samples import FILTERED
from data_pipelines.storage.interface import is_remote
from data_pipelines.text.tokenizers import SPECIAL_TOKENS, Tokenizer, load_tokenizer

_EXAMPLES = 2  # of rows for each reason
_THREADS = 8
_WINDOW = 1024  # rows handed to the threads at a time
_UNBOUNDED = 1 << 30
# Limits on pixels and frames of NEO-ov's last phase (configs/neo_ov_2b.py, sft). Tokens are counted with these if no phase takes a row.
_REFERENCE = PhaseSettings(
    "reference", 1, _UNBOUNDED, _UNBOUNDED, _UNBOUNDED, _UNBOUNDED, 256 * 256, 4096 * 4096, 128, (1.0, 4.0), 512 * 512, {}
)


class Row(NamedTuple):
    """Result of checking one row.

    Attributes:
      key: name of the row.
      reason, message: reason why the row cannot be used; None for a usable row.
      tokens: number of tokens of its longest document over all phases; None without a tokenizer or if unusable.
      labels: number of these tokens that carry a label; None if `tokens` is None.
      images: (height, width) of each of its images, without frames of clips.
      lost: for each phase, the budgets that the row exceeds, or the reason why the phase does not take it; empty if it fits.
    """

    key: str
    reason: str | None
    message: str | None
    tokens: int | None
    labels: int | None
    images: Sequence[tuple[int, int]]
    lost: tuple[tuple[str, ...], ...]

    def to_json(self) -> str:
        fields = {"key": self.key, "usable": self.reason is None, **self._asdict()}
        del fields["lost"]
        return json.dumps(fields)


class Checker:
    """Checks the rows of one source with the functions that training uses.

    Args:
      source: the rows.
      tokenizer: tokenizer that counts tokens; None: tokens are not counted.
      phases: phases whose limits are applied.
      seed: seed of the run; the choice of video frames depends on it.
      decode: True to decode all pixels too.
    """

    def __init__(self, source: Source, tokenizer: Tokenizer | None, phases: Sequence[PhaseSettings], seed: int, decode: bool):
        self.source, self.phases = source, phases
        self._tokenizer = _Remembering(tokenizer) if tokenizer else None
        self._seed, self._decode = seed, decode
        # Without a tokenizer, conditions on "tokens" cannot be checked.
        self._filters = Filters([text for text in source.settings.keep if tokenizer or read_condition(text).name != "tokens"])

    def rows(self) -> Iterator[Row]:
        """Yields the result for every row in order. Threads read files concurrently. Progress is written to standard error."""
        total = len(self.source)
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            windows = (range(start, min(start + _WINDOW, total)) for start in range(0, total, _WINDOW))
            yield from progress((row for window in windows for row in pool.map(self.row, window)), total, f"checking {self.source.name}")

    def row(self, number: int) -> Row:
        key = self.source.key(number)
        try:
            sample = self.source[number]
            measured = inspect(sample, self._tokenizer or _LETTERS)
            self._filter(key, measured)
            if self._decode:
                _decode_pixels(sample, measured)
            return self._measured(sample, measured, sample_seed(self._seed, self.source.name, number))
        except SampleError as error:
            return Row(key, error.reason, str(error), None, None, [], ())

    def _filter(self, key: str, measured: Measured) -> None:
        """Raises SampleError "filtered" if the source's `keep` excludes a sample."""
        if len(self._filters.rejected(pack([Entry(measured, None)]), slice(0, 1))):
            raise SampleError(FILTERED, f"{key}: left out by `keep`: {'; '.join(self.source.settings.keep)}")

    def _measured(self, sample: Sample, measured: Measured, seed: int) -> Row:
        if self._tokenizer is None:
            return Row(sample.key, None, None, None, None, measured.sizes, ())
        documents: list[tuple[Lengths, PhaseSettings]] = []
        lost: list[tuple[str, ...]] = []
        for phase in self.phases:
            try:
                lengths = measure(sample.turns, measured.sizes, measured.clips, phase, self._tokenizer, seed)
            except SampleError as error:
                lost.append((error.reason,))
                continue
            documents.append((lengths, phase))
            budgets = zip(("context", "visual_tokens", "images"), lengths, strict=True)
            lost.append(tuple(name for name, length in budgets if length > getattr(phase, name)))
        if not documents:
            documents = [(measure(sample.turns, measured.sizes, measured.clips, _REFERENCE, self._tokenizer, seed), _REFERENCE)]
        longest, phase = max(documents, key=lambda document: document[0].tokens)
        labels = count_labels(sample.turns, measured.sizes, measured.clips, phase, self._tokenizer, seed)
        return Row(sample.key, None, None, longest.tokens, labels, measured.sizes, tuple(lost))


def _decode_pixels(sample: Sample, measured: Measured) -> None:
    """Decodes every image and every frame of every clip. Raises SampleError if one is damaged."""
    for image in sample.images:
        images.decode(images.read_bytes(image), image.name)
    for clip, info in zip(sample.clips, measured.clips, strict=True):
        for _ in video.read_frames(clip, info, range(info.frames)):
            pass


class _Remembering(Tokenizer):
    """A tokenizer with a cache of encoded texts, since a row is measured for several phases."""

    def __init__(self, tokenizer: Tokenizer):
        vars(self).update(vars(tokenizer))
        self._ids = functools.lru_cache(4096)(tokenizer.encode)

    def encode(self, text: str) -> list[int]:
        return list(self._ids(text))


class _Utf8:
    """A tokenizer model with bytes as tokens. Used if no tokenizer is given, so that every row gets the same checks."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


_LETTERS = Tokenizer(cast(Any, _Utf8()), {name: 256 + number for number, name in enumerate(SPECIAL_TOKENS)}, 256 + len(SPECIAL_TOKENS), "")


@dataclasses.dataclass
class Summary:
    """Result of checking a source: counts, and examples for each reason."""

    path: str
    phases: Sequence[PhaseSettings]
    rows: int = 0
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[Row]] = dataclasses.field(default_factory=dict)
    tokens: list[int] = dataclasses.field(default_factory=list)
    lost: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    lost_rows: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def filtered(self) -> int:
        return self.reasons[FILTERED]

    @property
    def unusable(self) -> int:
        return self.reasons.total() - self.filtered

    def add(self, row: Row) -> None:
        self.rows += 1
        if row.reason is not None:
            self.reasons[row.reason] += 1
            examples = self.examples.setdefault(row.reason, [])
            if len(examples) < _EXAMPLES:
                examples.append(row)
        if row.tokens is not None:
            self.tokens.append(row.tokens)
        for phase, passed in zip(self.phases, row.lost, strict=False):
            self.lost_rows[phase.name] += bool(passed)
            self.lost.setdefault(phase.name, Counter()).update(passed)

    def verdict(self, policy: FailurePolicy) -> str | None:
        """Returns None if training would accept the source, else a sentence with the reason."""
        counts = f"{self.unusable} of {self.rows} rows cannot be used ({counts_text(self.reasons)})"
        kept = self.rows - self.filtered
        if self.unusable == kept:
            return f"{self.path}: {counts}: none is left"
        if policy.exceeded(self.unusable, kept, whole=True):
            return f"{self.path}: {counts}, more than {policy.max_rate:.2%}: mend or remove them, or raise data.max_failure_rate"
        return None

    def lines(self, ignored: Counter[str]) -> Iterator[str]:
        """Yields the lines of the report."""
        yield f"{self.path}: {self.rows - self.reasons.total():,} of {self.rows:,} rows can be used"
        for reason, count in self.reasons.most_common():
            yield f"  {count:,} {reason}"
            yield from (
                f"      {row.message if row.key in (row.message or '') else f'{row.key}: {row.message}'}" for row in self.examples[reason]
            )
        if ignored:
            yield "  keys that are not read: " + ", ".join(f"{key} ({count:,})" for key, count in sorted(ignored.items()))
        if self.tokens:
            shortest, median, longest = np.percentile(self.tokens, [0, 50, 100]).astype(int).tolist()
            yield f"  tokens of a row: {shortest:,} to {longest:,}, median {median:,}"
        for phase in self.phases:
            lost = self.lost_rows[phase.name]
            yield f"  phase {phase.name}: {lost:,} of {len(self.tokens):,} usable rows lost ({_budgets_text(phase, self.lost.get(phase.name))})"


def _budgets_text(phase: PhaseSettings, lost: Counter[str] | None) -> str:
    """Returns the number of rows that exceed each budget, with its size: "3 pass context 512, 1 no_frames"."""
    parts = [
        f"{count:,} pass {name} {getattr(phase, name):,}" if hasattr(phase, name) else f"{count:,} {name}"
        for name, count in (lost or {}).items()
    ]
    return ", ".join(parts) or "all fit"


def check(
    settings: SourceSettings, tokenizer: Tokenizer | None, configuration: Configuration | None, decode: bool, as_json: bool
) -> str | None:
    """Checks one source and prints the report, or, if `as_json`, a JSON object for each row.

    Returns None if training would accept the source, else a sentence with the reason.
    Raises DataError if the source cannot be used at all.
    """
    tables = pathlib.Path(configuration.index_folder) / "tables" if configuration and configuration.index_folder else None
    source = open_source(settings, tables)
    phases, seed, policy = (configuration.phases, configuration.seed, configuration.policy) if configuration else ((), 0, FailurePolicy())
    mixed = tuple(phase for phase in phases if settings.name in phase.mixture)
    checker = Checker(source, tokenizer, mixed or phases, seed, decode)
    summary = Summary(", ".join(settings.paths), checker.phases)
    for row in checker.rows():
        summary.add(row)
        if as_json:
            print(row.to_json())
    if not as_json:
        print("\n".join(map(printable, summary.lines(source.ignored))))
    return summary.verdict(policy)


def _settings(file: str, options: argparse.Namespace, configuration: Configuration | None) -> SourceSettings:
    """Returns the settings of a file: those of the configuration's source with the same file, if any, with the command line's options added."""
    known = (*configuration.training, *configuration.heldout) if configuration else ()
    settings = next((source for source in known if _place(file) in map(_place, source.paths)), None)
    if settings is None:
        settings = SourceSettings(pathlib.Path(file).stem or file, options.format or format_of(file), file)
    return dataclasses.replace(
        settings,
        path=file,
        format=options.format or settings.format,
        media_root=options.media_root or settings.media_root,
        ignore=(*settings.ignore, *options.ignore),
    )


def _place(path: str) -> str:
    """Returns the canonical form of a path or pattern, for comparison."""
    return path if is_remote(path) else os.path.realpath(pathlib.Path(path).expanduser())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exits with UNUSABLE, the only failure status of this command."""
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 65 for data that cannot be used."""
    parser = _Parser(prog="python -m data_pipelines.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, a pattern of files or a folder")
    parser.add_argument("--media-root", default="", metavar="DIR", help="folder that media paths are relative to")
    parser.add_argument("--format", choices=sorted(FORMATS), help="of the files (default: what the first file is)")
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY", help="a key of rows or turns to pass over; may be repeated")
    parser.add_argument("--tokenizer", default="", metavar="FILE", help="counts tokens (default: the configuration's)")
    parser.add_argument("--config", default="", metavar="FILE[:ARG]", help="the configuration whose phases and failure limit hold")
    parser.add_argument("--decode", action="store_true", help="decode all pixels, not headers alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row and nothing else")
    options = parser.parse_args(arguments)
    problems = 0
    try:
        configuration = read_configuration(options.config) if options.config else None
        tokenizer = _tokenizer(options.tokenizer, configuration)
    except DataError as error:
        print(f"check: {error}", file=sys.stderr)
        return UNUSABLE
    for file in options.files:
        try:
            problem = check(_settings(file, options, configuration), tokenizer, configuration, options.decode, options.json)
        except DataError as error:
            problem = str(error)
        if problem is not None:
            problems += 1
            print(f"check: {problem}", file=sys.stderr)
    return UNUSABLE if problems else 0


def _tokenizer(path: str, configuration: Configuration | None) -> Tokenizer | None:
    if path:
        return load_tokenizer(path, add_special_tokens=True)
    if configuration is None:
        return None
    if not configuration.tokenizer:
        raise DataError("the configuration names no tokenizer, so no row can be measured: give --tokenizer=FILE")
    return load_tokenizer(configuration.tokenizer, configuration.add_special_tokens)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # exit without a traceback if the reader closes the pipe
    sys.exit(main())
