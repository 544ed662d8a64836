"""Has workers measure the parts that the length indexes of a configuration lack, and puts them where building on one machine finds them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam

from data_pipelines.beam import files
from data_pipelines.beam.pieces import Division
from data_pipelines.beam.run import Work
from data_pipelines.beam.workers import Measure
from data_pipelines.configuration import Configuration
from data_pipelines.index.build import Builder
from data_pipelines.index.opening import NamedTokenizer
from data_pipelines.index.work import Recipe
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import open_source


class _Missing(NamedTuple):
    """A part that an index lacks.

    Attributes:
      path: local path at which building the index looks for the part.
      address: address to which a worker writes the part.
      element: element of the pipeline that has a worker measure it.
    """

    path: pathlib.Path
    address: str
    element: str


def measure(configuration: Configuration, folder: str, flags: list[str]) -> None:
    """Has workers measure the parts that the indexes lack, and copies them into the index folder.

    Args:
      configuration: configuration with a tokenizer and an index folder.
      folder: address of the work folder. Parts that it contains already are not measured again.
      flags: flags of Apache Beam.

    Raises:
      DataError: the configuration or its data cannot be used, or a pipeline failed.
    """
    named = NamedTokenizer.load(configuration.tokenizer, configuration.add_special_tokens)
    index = pathlib.Path(configuration.index_folder).expanduser()
    work = Work(folder, flags)
    groups = (("training", configuration.training, index), ("heldout", configuration.heldout, index / "heldout"))
    divisions = [(group, Division(settings), place) for group, sources, place in groups for settings in sources]
    work.scan([(division, place / "tables") for _, division, place in divisions])
    tokenizer = pathlib.Path(named.path)
    tokenizer = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    recipe = Recipe(
        SourceSettings("", "", ""), "", f"{folder}/tokenizers/{named.tokenizer.fingerprint[:32]}/{tokenizer.name}", named.add_special_tokens
    )
    missing = {
        part.path: part  # if two sources share a shard, the part of the first source is kept
        for group, division, place in reversed(divisions)
        for part in _missing(division, place, f"{folder}/{group}", named, recipe, work)
    }
    there = {*files.addresses_in(f"{folder}/training"), *files.addresses_in(f"{folder}/heldout")}
    todo = [part.element for part in missing.values() if part.address not in there]
    if todo:
        files.put(tokenizer, recipe.tokenizer)
    work.do("measure", todo, apache_beam.ParDo(Measure()))
    files.fetch_all((part.address, part.path) for part in missing.values())


def _missing(division: Division, place: pathlib.Path, folder: str, named: NamedTokenizer, recipe: Recipe, work: Work) -> Iterator[_Missing]:
    """Yields the parts that the index of a source lacks."""
    source = open_source(division.settings, place / "tables")
    shards = source.shards()
    first, place_of = 0, {}
    for shard, found in zip(shards, division.places(shards), strict=True):
        if shard.samples:
            place_of[first] = found
        first += shard.samples
    for chunk in Builder(source, named.tokenizer, place, None, 1, lambda: False).missing():
        piece, start = place_of[chunk.first]
        path = pathlib.Path(chunk.part)
        address = f"{folder}/{path.name}"
        of_piece = recipe._replace(source=piece, tables=work.archive(piece))
        yield _Missing(path, address, json.dumps([of_piece.to_json(), chunk._replace(first=start, part=address)]))
