"""What a configuration feeds to training, as one HTML page for each phase.

    python -m data_pipelines.inspect --config configs/mine.py --output pages

Packed rows as strips (documents, images, labels, padding) with their mask, what the model sees of them (pictures and text, what is learned marked),
histograms of lengths, sizes, frames and fill, the sources' shares and epochs, what is left out and why, and what training and held-out
sources share. Length indexes that are missing are built.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from data_pipelines.configuration import read_configuration
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.work import Recipe
from data_pipelines.inspection.gather import gather
from data_pipelines.inspection.overlap import overlap_sentences
from data_pipelines.inspection.page import page
from data_pipelines.schema import DataError
from data_pipelines.sources import open_source
from data_pipelines.storage import write_whole
from data_pipelines.text.tokenizers import load_tokenizer

UNUSABLE = 65


def inspect(config: str, output: pathlib.Path, rows: int) -> list[pathlib.Path]:
    """Writes OUTPUT/PHASE.html for each phase; returns the pages.

    Args:
      config: FILE[:ARG] of the configuration.
      output: folder, made when missing.
      rows: of each phase that are decoded and shown.

    Raises:
      DataError: the configuration or its data cannot be used.
    """
    configuration = read_configuration(config)
    if not configuration.tokenizer:
        raise DataError("the configuration names no tokenizer: set tokenizer.path")
    tokenizer = load_tokenizer(configuration.tokenizer, configuration.add_special_tokens)
    folder = pathlib.Path(configuration.index_folder)
    sources = [open_source(source, folder / "tables") for source in configuration.training]
    add_special_tokens = configuration.add_special_tokens
    recipes = [Recipe(source, str(folder / "tables"), configuration.tokenizer, add_special_tokens) for source in configuration.training]
    opened = zip(sources, recipes, strict=True)
    indexes = [LengthIndex.open(source, tokenizer, folder, recipe=recipe) for source, recipe in opened]
    sentences = overlap_sentences(sources, [open_source(source, folder / "heldout" / "tables") for source in configuration.heldout])
    numbers = {source.name: number for number, source in enumerate(sources)}
    names = [phase.name for phase in configuration.phases]
    output.mkdir(parents=True, exist_ok=True)
    pages = []
    for facts in gather(configuration.phases, sources, indexes, tokenizer, configuration.seed, rows):
        path = output / f"{facts.phase.name}.html"
        write_whole(path, page(facts, names, sentences, tokenizer, numbers))
        pages.append(path)
    return pages


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 65 for data or a configuration that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.inspect",
        description=__doc__,
        epilog="exit codes: 0 written, 2 a flag is wrong, 65 the configuration or its data cannot be used",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the configuration")
    parser.add_argument(
        "--output", required=True, metavar="DIR", type=lambda text: pathlib.Path(text).expanduser(), help="folder of the pages"
    )
    parser.add_argument("--rows", type=int, default=4, help="rows of each phase that are shown (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rows < 0:
        parser.error("--rows must be 0 or more")
    try:
        pages = inspect(options.config, options.output, options.rows)
    except DataError as error:
        print(f"inspect: {error}", file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        print(f"inspect: cannot write to {options.output} ({error}): name another folder", file=sys.stderr)
        return UNUSABLE
    print("\n".join(map(str, pages)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
