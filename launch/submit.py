"""Calls the programs of clusters: sbatch, kubectl, gcloud."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from neo_jax.config import ConfigError


def call(command: Sequence[str], text: str | None, what: str) -> int:
    """Runs a program with a text as its input (None: with this program's) and returns its exit code; what it prints is shown.

    Args:
      what: the name of the program and what to do if it is missing, for the message.

    Raises:
      ConfigError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise ConfigError([f"{command[0]}: no such program here; it is {what}; --dry-run prints what would be submitted"])
    return subprocess.run(command, input=text, text=True, check=False).returncode
