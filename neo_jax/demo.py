"""Runs the whole pipeline on a small model: draws a corpus, trains a tokenizer, walks the curriculum, answers held-out questions, writes the report.

    python -m neo_jax.demo [--config=configs/demo.py[:smoke]] [--config.section.key=value ...]     (without --config=: configs/demo.py)

Steps that an earlier call has finished are skipped, so the same command continues an interrupted call. Exit codes are those of neo_jax.train.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import pathlib
import sys
import time
from collections.abc import Sequence

from data_pipelines import schema
from data_pipelines.convert import VERSION, convert
from data_pipelines.failures import FailurePolicy
from data_pipelines.scenes import ScenesSettings, texts, write_scenes
from data_pipelines.text.tokenizers import train_sentencepiece
from neo_jax.config import Config
from neo_jax.config.flags import split
from neo_jax.processes import exchange
from neo_jax.train import COMMAND, main, train

TFDS_SOURCE = "image"  # the training source that is read from array_record files; the others are read as JSONL
PIECES = 620  # of the tokenizer: with the 15 special tokens they fit the model's vocabulary of 640
ROLES = 3000  # repetitions of the roles' names in the tokenizer's training text: they are in every turn, but in no text
SHARD_BYTES = 64 << 20  # size of a shard of the converted source
DEMO = dataclasses.replace(
    COMMAND,
    name="neo_jax.demo",
    purpose="Runs the whole pipeline on a small model: draws a corpus, trains a tokenizer, walks the curriculum, answers held-out questions, writes "
    "the report. Steps that an earlier call has finished are skipped. Without --config: --config=configs/demo.py.",
    example="--config=configs/demo.py:smoke",
)


def prepare(corpus: pathlib.Path, scenes: ScenesSettings) -> None:
    """Writes the corpus, the tokenizer and the converted source, each unless it exists. Several runs may call this at once: one writes."""
    corpus.parent.mkdir(parents=True, exist_ok=True)
    with (corpus.parent / f".{corpus.name}.prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _prepare(corpus, scenes)


def _prepare(corpus: pathlib.Path, scenes: ScenesSettings) -> None:
    write_scenes(corpus, scenes)
    tokenizer = corpus / "tokenizer.model"
    if not tokenizer.exists():
        roles = (f"{role}\n" for _ in range(ROLES) for role in schema.ROLES)
        train_sentencepiece(itertools.chain(texts(corpus), roles), tokenizer, PIECES)
    if not (corpus / "tfds" / TFDS_SOURCE / VERSION).exists():
        source = schema.SourceSettings(TFDS_SOURCE, "jsonl", str(corpus / "train" / f"{TFDS_SOURCE}.jsonl"), str(corpus))
        convert(source, corpus / "tfds", SHARD_BYTES, FailurePolicy())


def demo(settings: Config) -> None:
    """Prepares the data that the configuration names, then trains it."""
    started = time.monotonic()
    corpus = pathlib.Path(settings.tokenizer.path).parent
    if exchange.is_first():
        prepare(corpus, ScenesSettings())
        print(f"The corpus is in {corpus} ({time.monotonic() - started:.0f} s).", file=sys.stderr, flush=True)
    exchange.barrier()
    train(settings)


def with_configuration(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with the demo's configuration unless it names one."""
    named = any(name == "config" for name, _, _ in split(arguments, set()))
    return [*([] if named else ["--config=configs/demo.py"]), *arguments]


if __name__ == "__main__":
    sys.exit(main(with_configuration(sys.argv[1:]), demo, DEMO))
