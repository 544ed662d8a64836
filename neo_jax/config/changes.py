"""Configuration changes that are allowed between two starts of a run."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

MAY_CHANGE = (  # keys that affect neither which rows are trained on, nor their order, nor the mathematics
    "phases.*.accumulate",
    "phases.*.mesh.*",
    "phases.*.remat",
    "phases.*.attention",
    "optimizer.offload",
    "data.heldout*",
    "data.index_folder",
    "data.threads",
    "data.max_failure_rate",
    "data.max_failure_run",
    "data.minimum_samples",
    "data.stall_seconds",
    "evaluation.*",
    "run.directory",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.heldout_every",
    "run.heldout_rows",
    "run.debug",
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compares two resolved configurations (Config.resolved(), or the JSON beside a run).

    Returns:
      (forbidden, allowed): the changes, as "key: old -> new". Forbidden ones would change the order of the data or the mathematics of a run that
      has begun; allowed ones (MAY_CHANGE) would not.
    """
    before, after = _flat(old), _flat(new)
    forbidden: list[str] = []
    allowed: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            changes = allowed if any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE) else forbidden
            changes.append(f"{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}")
    return forbidden, allowed


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
