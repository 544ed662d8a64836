"""Has workers write the files of a dataset, as data_pipelines.convert does on one machine. Each file has samples of one input file."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import apache_beam
from apache_beam.io.filesystems import FileSystems

from data_pipelines.beam import files
from data_pipelines.beam.pieces import Division
from data_pipelines.beam.run import Work
from data_pipelines.beam.workers import FileToWrite, FileWritten, Write
from data_pipelines.conversion import VERSION, Written, describe, file_names, ranges
from data_pipelines.failures import FailurePolicy, Failures
from data_pipelines.index.work import Recipe
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source


def convert(
    settings: SourceSettings, output: str, shard_samples: int, policy: FailurePolicy, target: str, flags: list[str]
) -> tuple[str, Failures]:
    """Writes a source to the folder OUTPUT/NAME; with target "tfds", to OUTPUT/NAME/1.0.0.

    Args:
      settings: settings of the source.
      output: address of the folder of datasets, on a disk that all workers share or in an object store.
      shard_samples: maximum number of samples of a file, all of one input file.
      policy: limit on the samples that are left out; checked after all are read.
      target: output format, one of conversion.TARGETS except jsonl, whose media are separate files.
      flags: flags of Apache Beam.

    Returns:
      The folder, and the samples that were left out. OUTPUT/NAME.skipped.jsonl lists them; it is in the current folder if OUTPUT is in an
      object store.

    Raises:
      DataError: the folder exists, the source cannot be used, too many of its samples cannot be used, or the pipeline failed.
    """
    final = f"{output}/{settings.name}/{VERSION}" if target == "tfds" else f"{output}/{settings.name}"
    partial = f"{output}/{settings.name}.partial"
    work = Work(partial, flags)
    if FileSystems.exists(final) or files.addresses_in(final):
        raise DataError(f"{final} exists; delete it or choose another name")
    log = pathlib.Path(output if files.is_local(output) else "", f"{settings.name}.skipped.jsonl")
    log.unlink(missing_ok=True)
    failures = Failures(log, policy)
    files.delete(partial)
    try:
        elements = list(_elements(settings, target, work, shard_samples))
        work.do("write", elements, apache_beam.ParDo(Write()) | apache_beam.io.WriteToText(f"{partial}/written/part"))
        lines = "".join(map(files.read_text, files.addresses_in(f"{partial}/written"))).splitlines()
        written = sorted(FileWritten(*json.loads(line)) for line in lines)
        _count(written, settings.name, failures)
        _complete([each for each in written if each.samples], settings, target, partial, final)
    finally:
        files.delete(partial)
    return final, failures


def _elements(settings: SourceSettings, target: str, work: Work, shard_samples: int) -> Iterator[str]:
    """Yields the elements of the pipeline: one line of JSON for each file to write."""
    division = Division(settings)
    with tempfile.TemporaryDirectory() as folder:
        tables = pathlib.Path(folder)
        work.scan([(division, tables)])
        shards = open_source(division.settings, tables).shards()
    first, number = 0, 0
    for shard, (piece, start) in zip(shards, division.places(shards), strict=True):
        recipe = Recipe(piece, work.archive(piece), "", False).to_json()
        for rows in ranges([shard], shard_samples):
            address = f"{work.folder}/files/{number}"
            file = FileToWrite(number, start + rows.start, start + rows.stop, first + rows.start, target, address)
            yield json.dumps([recipe, file])
            number += 1
        first += shard.samples


def _count(written: Sequence[FileWritten], source: str, failures: Failures) -> None:
    """Counts read and failed samples in the order of the source. Raises DataError if too many were left out."""
    for file in written:
        failed = {place: failure for place, *failure in file.failures}
        for place in range(file.seen):
            if place in failed:
                failures.fail(source, *failed[place])
            else:
                failures.succeed(source)
    if not any(file.samples for file in written):
        raise DataError(f"nothing to write: {failures.summary()}")
    failures.check_rate(whole=True)


def _complete(written: Sequence[FileWritten], settings: SourceSettings, target: str, partial: str, final: str) -> None:
    """Moves the files to their final names. On a disk the folder appears when it is complete; in an object store files appear one by one."""
    folder = f"{partial}/complete" if files.is_local(final) else final
    if files.is_local(final):
        os.makedirs(folder)
    names = file_names(settings.name, target, len(written))
    FileSystems.rename([f"{partial}/files/{file.number}" for file in written], [f"{folder}/{name}" for name in names])
    if target == "tfds":
        with tempfile.TemporaryDirectory() as scratch:
            local = pathlib.Path(scratch)
            for name in names:
                (local / name).touch()  # describe reads the names of the files
            describe(settings, local, Written([file.samples for file in written], sum(file.size for file in written)))
            for path in sorted(local.glob("*.json")):
                files.put(path, f"{folder}/{path.name}")
    if files.is_local(final):
        os.makedirs(os.path.dirname(final), exist_ok=True)
        os.rename(folder, final)
