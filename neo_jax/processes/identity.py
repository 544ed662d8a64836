"""The identity of a process (configuration, code, versions), which must be equal in all processes of a run, and its comparison."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from neo_jax.config.changes import flat

MAX_NAMED = 10  # differing keys or files that a message names
# Packages that affect compiled programs, pixels or tokens. Those that are not installed are left out.
PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "array-record"),
    *("tensorflow-datasets", "sentencepiece", "tokenizers", "pillow", "opencv-python-headless", "simplejpeg", "av"),
)

COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity of this process: configuration, digests of the source files, versions; as JSON."""
    versions = {"python": platform.python_version()} | {name: os.environ.get(name, "") for name in COMPILER_FLAGS}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"configuration": json.loads(json.dumps(configuration)), "files": source_digests(), "versions": versions}


def source_digests() -> dict[str, str]:
    """Returns a digest of each source file of neo_jax and data_pipelines, by its path relative to their parent folder."""
    root = pathlib.Path(__file__).parents[2]
    files = sorted(path for package in ("neo_jax", "data_pipelines") for path in (root / package).rglob("*.py"))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def compare(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns how another process's identity differs from `mine`, a few words for each kind of difference. `other` may hold any JSON."""
    ours, theirs = ({key: flat(_section(each, key)) for key in ("configuration", "files", "versions")} for each in (mine, other))
    differing = {
        section: [
            key for key in sorted(ours[section].keys() | theirs[section].keys()) if ours[section].get(key) != theirs[section].get(key)
        ]
        for section in ours
    }
    said = {
        section: [f"{key}: {ours[section].get(key, 'absent')!r} -> {theirs[section].get(key, 'absent')!r}" for key in differing[section]]
        for section in ("configuration", "versions")
    }
    kinds = {"configuration": said["configuration"], "source files": differing["files"], "versions": said["versions"]}
    return [f"{kind} ({_some(names)})" for kind, names in kinds.items() if names]


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key)
    return section if isinstance(section, Mapping) else {}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(name[:200] for name in names[:MAX_NAMED]) + more
