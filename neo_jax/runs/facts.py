"""What each start of a run ran on: devices, versions and commit, in run.json of the run directory."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import time
from typing import Any

import jax

from data_pipelines.storage import write_whole

NAME = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "numpy")
CHECKOUT = pathlib.Path(__file__).parents[2]  # of this code, where it was not installed


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """One start of a run.

    Attributes:
      device_kind, device_count: of all processes' accelerators, e.g. "TPU v5p" and 64.
      processes: how many the run consists of.
      versions: of Python and of the packages that decide about numbers, by name.
      commit: of the code, 40 hex digits; "" where it does not run from a git checkout. Changes that were not committed are not seen.
      parameters: how many the model has.
      started: seconds since 1970.
    """

    device_kind: str
    device_count: int
    processes: int
    versions: dict[str, str]
    commit: str
    parameters: int
    started: float

    @classmethod
    def now(cls, parameters: int) -> RunFacts:
        """The facts of a start that happens now, in this process' group."""
        versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
        device = jax.devices()[0].device_kind
        return cls(device, jax.device_count(), jax.process_count(), versions, commit(CHECKOUT), parameters, time.time())


def write_facts(directory: pathlib.Path, facts: RunFacts) -> None:
    """Adds a start to run.json of an existing run directory. A run.json that cannot be read is begun anew."""
    starts, _ = read_facts(directory)
    content = {"starts": [dataclasses.asdict(each) for each in (*starts, facts)]}
    write_whole(directory / NAME, json.dumps(content, indent=1) + "\n")


def read_facts(directory: pathlib.Path) -> tuple[list[RunFacts], str | None]:
    """The starts of a run, oldest first, and a sentence where run.json is damaged. No starts where there is none."""
    path = directory / NAME
    try:
        return [_start(values) for values in json.loads(path.read_bytes())["starts"]], None
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{path} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [], f"{path} is damaged ({type(error).__name__}: {error}); the next start of the run writes a new one"


def _start(values: dict[str, Any]) -> RunFacts:
    facts = RunFacts(**values)
    numbers = (facts.device_count, facts.processes, facts.parameters)
    if not all(isinstance(number, int) for number in numbers) or not isinstance(facts.started, int | float):
        raise ValueError("counts and times must be numbers")
    if not isinstance(facts.versions, dict) or not all(isinstance(each, str) for each in (facts.device_kind, facts.commit)):
        raise ValueError("device_kind and commit must be texts, versions an object")
    return facts


def commit(checkout: pathlib.Path) -> str:
    """The commit that a git checkout stands at, read from its files; "" where the folder is none. A linked worktree is one too."""
    git = checkout / ".git"
    try:
        if git.is_file():
            git = checkout / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return _hash(head)
        reference = head.removeprefix("ref: ")
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
        for folder in (git, common):
            if (folder / reference).is_file():
                return _hash((folder / reference).read_text())
        packed = (line.split() for line in (common / "packed-refs").read_text().splitlines())
        return next((_hash(parts[0]) for parts in packed if parts[1:] == [reference]), "")
    except (OSError, UnicodeDecodeError):
        return ""


def _hash(text: str) -> str:
    text = text.strip()
    return text if len(text) in (40, 64) and all(character in "0123456789abcdef" for character in text) else ""
