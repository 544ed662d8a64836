"""Writes a first configuration for one's own rows: python -m neo_jax.init my.jsonl --media-root=images --output=configs/mine.py.

It reads every row and every media header, holds out a part of the rows, uses the given tokenizer or trains one, and sets budgets from the measured
lengths. Training rows, held-out rows and the tokenizer are written to a folder beside the configuration (OUTPUT without .py). Inputs are not changed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Annotated

from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.storage import write_whole
from neo_jax.config import ConfigError, parse_command_line
from neo_jax.config.fields import Between, OneOf, OptionalPath, Path, Ratio
from neo_jax.config.flags import Command, read_flags
from neo_jax.drafting.bases import BASES
from neo_jax.drafting.draft import Request, draft
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags besides the files.

    Attributes:
      output: the configuration to write, such as configs/mine.py. Neither it nor the folder of its data may exist.
      media_root: folder that the media paths of all files are relative to.
      tokenizer: a tokenizer.json, a folder with one, or a SentencePiece .model; without it, the base demo trains a small one on the text.
      base: configuration that model and phases are taken from, one of demo, neo_ov_2b, neo_ov_9b. demo is small enough for this machine.
      heldout: share of the rows that is held out, up to 1,000 of each file.
      max_failure_rate: share of rows that may be unusable.
    """

    output: Path
    media_root: OptionalPath = ""
    tokenizer: OptionalPath = ""
    base: Annotated[str, OneOf(tuple(BASES))] = "demo"
    heldout: Annotated[float, Between(0, 0.5, open_low=True)] = 0.1
    max_failure_rate: Ratio = 0.05


COMMAND = Command(
    "neo_jax.init",
    "Reads rows (JSON or JSONL) and writes a first configuration for them: training and held-out rows, a tokenizer, budgets that fit. Prints what "
    "it found and the next commands.",
    "my.jsonl --media-root=images --output=configs/mine.py",
    {
        DONE: "written",
        DATA: "the rows cannot be used, or too many of them",
        CONFIGURATION: "a flag is wrong, or the output exists",
    },
    operands="FILE...",
)


def problems(flags: Flags, files: Sequence[str]) -> list[str]:
    """Returns the problems of the command line that involve files or several flags, a sentence each."""
    output, folder = pathlib.Path(flags.output), pathlib.Path(flags.output).with_suffix("")
    found = []
    if not files:
        found.append(f"no file is named: write {COMMAND.example}")
    found += [f"{file}: must be a .json or .jsonl file" for file in files if pathlib.Path(file).suffix not in (".json", ".jsonl")]
    if output.suffix != ".py" or not output.stem.isidentifier():
        found.append(
            f"--output: is {flags.output!r}, must be a Python file whose name has letters, digits and underscores, such as configs/mine.py"
        )
    elif not output.parent.is_dir():
        found.append(f"--output: the folder {output.parent} does not exist: make it first")
    found += [f"--output: {path} exists: delete it or choose another name" for path in (output, folder) if path.exists()]
    if BASES[flags.base].pretrained and not flags.tokenizer:
        found.append(f"--tokenizer is missing: {flags.base} starts from a published checkpoint and needs the tokenizer in its folder")
    return found


def source_names(files: Sequence[str]) -> list[str]:
    """Returns a unique source name for each file: its stem, with other characters than letters, digits and underscores replaced."""
    names: list[str] = []
    for file in files:
        stem = re.sub(r"\W", "_", pathlib.Path(file).stem)
        name = stem if stem.isidentifier() else f"file_{stem}"
        while name in names:
            name += "_2"
        names.append(name)
    return names


def init(flags: Flags, files: Sequence[str], command: str) -> list[str]:
    """Writes the configuration and its folder; returns lines that describe the data. Raises DataError if the rows cannot be used."""
    output = pathlib.Path(flags.output)
    folder, partial = output.with_suffix(""), output.with_name(f".{output.stem}.partial")
    names = source_names(files)
    sources = [
        open_source(SourceSettings(name=name, format="jsonl", path=file, media_root=flags.media_root))
        for name, file in zip(names, files, strict=True)
    ]
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        request = Request(
            files, names, sources, flags.media_root, flags.tokenizer, flags.base, flags.heldout, flags.max_failure_rate, output
        )
        text, lines = draft(request, partial, folder, command)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_whole(output, text)
    parse_command_line([f"--config={output}"])
    parse_command_line([f"--config={output}:smoke"])
    return lines


def main(arguments: Sequence[str]) -> int:
    try:
        flags, files = read_flags(Flags, arguments, COMMAND)
        files = [os.path.expanduser(file) for file in files]
        if found := problems(flags, files):
            raise ConfigError(found)
        lines = init(flags, files, f"python -m neo_jax.init {shlex.join(arguments)}")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    except DataError as error:
        print(error, file=sys.stderr)
        return DATA
    print("\n".join(lines))
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
