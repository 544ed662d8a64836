"""Configuration changes that are allowed between two starts of a run."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MAY_CHANGE = (  # at any start: nothing here changes which rows are trained on, in which order, or the mathematics
    "phases.*.accumulate",
    "phases.*.mesh.*",
    "phases.*.remat",
    "phases.*.unroll",
    "phases.*.attention",
    "optimizer.offload",
    "data.sources.*.path",  # of what is known by its content: another is noticed by the index's digest
    "data.sources.*.media_root",
    "data.sources.*.task",
    "data.heldout*",
    "data.index_folder",
    "data.threads",
    "data.max_failure_rate",
    "data.max_failure_run",
    "data.minimum_samples",
    "data.stall_seconds",
    "evaluation.*",
    "tokenizer.path",  # known by its content too
    "run.directory",
    "run.initial",  # what it names is known by its content (training.beginning.check_origin)
    "run.initial_takes",
    "run.overrides",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.copies",
    "run.keep_every",
    "run.keep_best",
    "run.heldout_every",
    "run.heldout_rows",
    "run.bad_steps",  # from that start on; config_changes.jsonl says which
    "run.max_bad_steps",
    "run.spike_factor",
    "run.hang_seconds",
    "run.compare_replicas_every",
    "run.debug",
    "run.profile_steps",
    "run.trackers",
)
# At any start too, from the next block of rows on (data_pipelines.loading.spliced): samples are neither repeated nor lost.
FROM_THE_NEXT_BLOCK = ("phases.*.mixture.*", "data.sources.*.keep", "data.sources.*.max_epochs")


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], begun: Sequence[str], finished: bool = False
) -> tuple[list[str], list[str]]:
    """Compares two resolved configurations (Config.resolved(), or the JSON beside a run).

    Args:
      begun: the phases that the run has begun, in order; the last is the one it is in. Those that are not begun may change in any way, and
        sources may be added.
      finished: whether the last of `begun` has ended: it may get more steps.

    Returns:
      (forbidden, allowed): what changed, as "key: old -> new". Forbidden changes would change the order of the data or the mathematics of
      what a run has begun; allowed ones do not.
    """
    before, after = flat(old), flat(new)
    forbidden: list[str] = []
    allowed: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            overridden = key in new.get("run", {}).get("overrides", ())
            may = overridden or _matches(key, MAY_CHANGE) or _may_while_running(key, old, new, begun, finished)
            changes = allowed if may else forbidden
            changes.append(f"{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}")
    if moved := _moved_sources(old, new):
        forbidden.append(f"data.sources: {moved}")
    return forbidden, allowed


def _may_while_running(key: str, old: Mapping[str, Any], new: Mapping[str, Any], begun: Sequence[str], finished: bool) -> bool:
    section, _, rest = key.partition(".")
    if key == "curriculum":
        return list(new[key])[: len(begun)] == list(begun)
    if section == "phases":
        name = rest.partition(".")[0]
        if finished and key == f"phases.{begun[-1]}.steps":
            return new["phases"][name]["steps"] > old["phases"][name]["steps"]
        return name not in begun or (name == begun[-1] and _matches(key, FROM_THE_NEXT_BLOCK))
    if key.startswith("data.sources."):
        return key.split(".")[2] not in old["data"]["sources"] or _matches(key, FROM_THE_NEXT_BLOCK)
    return False


def _moved_sources(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What is wrong with the order of sources, or ""."""
    before, after = (list(values["data"]["sources"]) for values in (old, new))
    if missing := [name for name in before if name not in after]:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: keep them, and leave them out of the mixtures"
    if [name for name in after if name in before] != before:
        return f"the order {before} became {after}: keep it, and add new ones anywhere"
    return ""


def _matches(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a resolved configuration by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
