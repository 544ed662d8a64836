"""What the runs of a sweep have logged so far. A file is read again when it has grown."""

from __future__ import annotations

from neo_jax.runs.metrics import StepRecord, read_records
from neo_jax.sweeps.folder import SweepFolder


class Progress:
    """The metrics of the runs in a sweep's folder."""

    def __init__(self, folder: SweepFolder):
        self._folder = folder
        self._seen: dict[str, tuple[int, list[StepRecord]]] = {}  # size of a run's metrics in bytes, and its records

    def records(self, name: str) -> list[StepRecord]:
        path = self._folder.run_directory(name) / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if name not in self._seen or self._seen[name][0] != size:
            self._seen[name] = (size, read_records(path)[0])
        return self._seen[name][1]

    def step(self, name: str) -> int:
        """Returns the last step that a run has logged; 0 before the first."""
        records = self.records(name)
        return records[-1].step if records else 0
