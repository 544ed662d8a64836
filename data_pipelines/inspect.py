"""Writes one HTML page for each phase of a configuration about what it feeds to training.

    python -m data_pipelines.inspect --config configs/mine.py --output pages

A page shows packed rows as strips (documents, images, labels, padding) with their mask; the images and texts that the model reads, with labels
marked; histograms of lengths, sizes, frames and fill; shares and epochs of the sources; what is left out and why; and what training and held-out
sources share. Missing length indexes are built.
"""

from __future__ import annotations

import pathlib
import sys

from data_pipelines.commands import answer, command_parser
from data_pipelines.configuration import read_configuration
from data_pipelines.index.opening import NamedTokenizer, open_indexed
from data_pipelines.inspection.gather import gather
from data_pipelines.inspection.overlap import overlap_sentences
from data_pipelines.inspection.page import page
from data_pipelines.schema import DataError
from data_pipelines.sources import open_source
from data_pipelines.storage import write_whole


def inspect(config: str, output: pathlib.Path, rows: int) -> list[pathlib.Path]:
    """Writes OUTPUT/PHASE.html for each phase and returns the paths of the pages.

    Args:
      config: FILE[:ARG] of the configuration.
      output: folder of the pages, created if missing.
      rows: number of rows of each phase that are decoded and shown.

    Raises:
      DataError: the configuration or its data cannot be used.
    """
    configuration = read_configuration(config)
    configuration.require_index()
    named = NamedTokenizer.load(configuration.tokenizer, configuration.add_special_tokens)
    tokenizer, folder = named.tokenizer, pathlib.Path(configuration.index_folder).expanduser()
    opened = list(open_indexed(configuration.training, named, folder))
    sources, indexes = [source for source, _ in opened], [index for _, index in opened]
    sentences = overlap_sentences(sources, [open_source(source, folder / "heldout" / "tables") for source in configuration.heldout])
    numbers = {source.name: number for number, source in enumerate(sources)}
    names = [phase.name for phase in configuration.phases]
    pages = []
    for facts in gather(configuration.phases, sources, indexes, tokenizer, configuration.seed, rows):
        path = output / f"{facts.phase.name}.html"
        _write(path, page(facts, names, sentences, tokenizer, numbers))
        pages.append(path)
    return pages


def _write(path: pathlib.Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"cannot write to {path.parent} ({error}): name another folder") from error


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 65 for data or a configuration that cannot be used."""
    parser = command_parser("inspect", __doc__, "0 written, 2 a flag is wrong, 65 the configuration or its data cannot be used")
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the configuration")
    parser.add_argument(
        "--output", required=True, metavar="DIR", type=lambda text: pathlib.Path(text).expanduser(), help="folder of the pages"
    )
    parser.add_argument("--rows", type=int, default=4, help="rows of each phase that are shown (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rows < 0:
        parser.error("--rows must be 0 or more")
    return answer("inspect", lambda: print("\n".join(map(str, inspect(options.config, options.output, options.rows)))))


if __name__ == "__main__":
    sys.exit(main())
