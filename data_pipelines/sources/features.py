"""Checks features.json of a TFDS dataset before TFDS reads it: TFDS imports the modules that it names, which would run code of whoever wrote it."""

from __future__ import annotations

import os
import pathlib
import re

from data_pipelines.schema import DataError
from data_pipelines.sources.json_text import read_json

_OWN = re.compile(r"tensorflow_datasets(\.\w+)+")


def check_features(folder: str | os.PathLike[str]) -> None:
    """Raises DataError if features.json in a folder names a class outside of tensorflow_datasets, or cannot be read."""
    path = pathlib.Path(folder) / "features.json"
    try:
        waiting = [read_json(path.read_bytes())]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, name in value.items():
                # A feature may itself be called "type": then its value is no text.
                if re.sub(r"\W|_", "", key).lower() in ("pythonclassname", "type") and isinstance(name, str) and not _OWN.fullmatch(name):
                    raise DataError(
                        f"{path} names the class {name!r}: only those of tensorflow_datasets are read, since others run foreign code"
                    )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
