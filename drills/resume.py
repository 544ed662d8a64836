"""A run that goes on with other numbers of processes and devices."""

from __future__ import annotations

import pathlib
import signal

from drills.lab import Lab, expect, last_step, same, saved

ROWS = {
    "phases__text__rows_per_step": 8,
    "phases__mid__rows_per_step": 8,
    "run__heldout_rows": 8,
    "curriculum": "mid",
    "phases__mid__steps": 9,
}


def other_meshes(lab: Lab, folder: pathlib.Path) -> str:
    """4 processes x 2 devices, then 2 x 2, then 1 x 8, each stopped by SIGTERM: losses equal to 1e-5 those of one device."""
    undisturbed = lab.undisturbed("eight_rows", **ROWS)
    resumed = []
    for processes, devices, until in ((4, 2, 3), (2, 2, 6), (1, 8, 0)):
        run = lab.launch(folder / "run", processes, devices, **ROWS)
        if until:
            run.until_step(until)
            run.process.send_signal(signal.SIGTERM)
        run.end(77 if until else 0)
        if resumed:
            expect(f"resumed after step {resumed[-1]}" in run.said, f"it did not resume after step {resumed[-1]}")
        resumed.append(last_step(run.directory))
        expect(saved(run.directory)[-1] == resumed[-1], "the last step was not saved")
    expect(resumed[0] < resumed[1] < resumed[2] == 9, f"they stopped after {resumed}")
    return f"changed after steps {resumed[0]} and {resumed[1]}; {same(folder / 'run', undisturbed, exactly=False)}"


DRILLS = (other_meshes,)
