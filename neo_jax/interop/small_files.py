"""The files of a published checkpoint folder besides its tensors: configurations, tokenizer, code, licence."""

from __future__ import annotations

import pathlib
import shutil

from neo_jax.interop.errors import WeightsError

ENDINGS = (".json", ".txt", ".model", ".jinja", ".py", ".md")
LICENCES = ("LICENSE", "LICENSE.txt", "NOTICE")
INDEXES = ".index.json"  # ending of files that say which file holds which tensor
INITIAL = "initial"  # folder of a run directory: the small files of the checkpoint that the run began from


def small_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the small files of a folder by name; none if it does not exist."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name: path
        for path in found
        if path.is_file() and (path.suffix in ENDINGS or path.name in LICENCES) and not path.name.endswith(INDEXES)
    }


def keep_small_files(folder: pathlib.Path, run: pathlib.Path) -> None:
    """Copies the small files of the checkpoint that a run begins from into its directory, for exports of the run. Raises WeightsError."""
    try:
        (run / INITIAL).mkdir(exist_ok=True)
        for name, path in small_files(folder).items():
            shutil.copyfile(path, run / INITIAL / name)
    except OSError as error:
        raise WeightsError(f"the files of {folder} cannot be copied to {run / INITIAL} ({error.strerror or error})") from error
