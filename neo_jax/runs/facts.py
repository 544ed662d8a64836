"""The environment of each start of a run (devices, versions, commit), in run.json of the run directory."""

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
CHECKOUT = pathlib.Path(__file__).parents[2]  # the root of the git checkout, if the code is not installed


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The environment of one start of a run.

    Attributes:
      device_kind, device_count: kind and number of the devices of all processes, such as "TPU v5p" and 64.
      processes: number of processes.
      versions: versions of Python and of the packages that affect the numbers, by name.
      commit: git commit of the code, 40 hex digits; "" if it does not run from a git checkout. Uncommitted changes are not detected.
      parameters: number of parameters of the model.
      started: time of the start, in seconds since 1970.
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
        """Returns the facts of a start at this moment. `parameters` is the number of parameters of the model."""
        versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
        device = jax.devices()[0].device_kind
        return cls(device, jax.device_count(), jax.process_count(), versions, commit(CHECKOUT), parameters, time.time())


def write_facts(directory: pathlib.Path, facts: RunFacts) -> None:
    """Appends a start to run.json of an existing run directory. A run.json that cannot be read is replaced."""
    starts, _ = read_facts(directory)
    content = {"starts": [dataclasses.asdict(each) for each in (*starts, facts)]}
    write_whole(directory / NAME, json.dumps(content, indent=1) + "\n")


def read_facts(directory: pathlib.Path) -> tuple[list[RunFacts], str | None]:
    """Returns the starts of a run, oldest first, and a sentence if run.json cannot be read. Without run.json the list is empty."""
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
    """Returns the commit of a git checkout or linked worktree, read from its files; "" if the folder is neither."""
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
