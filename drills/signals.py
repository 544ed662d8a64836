"""SIGTERM in every state of a run: obeyed soon, and nothing is lost. The signal goes to the training process itself."""

from __future__ import annotations

import pathlib
import signal
from typing import Any

from drills.lab import Lab, Run, being_saved, expect, last_step, same, saved, slowness
from drills.tiny import STEPS, TOTAL

OBEY_SECONDS = 5.0  # on an idle machine


def _terminate(run: Run, slow: float, *codes: int) -> str:
    """Sends SIGTERM and returns how long the run took to end with one of these codes. Raises DrillError above the limit."""
    expect(run.process.poll() is None, "it ended before the signal")
    run.process.send_signal(signal.SIGTERM)
    seconds = run.end(*codes)
    slow = max(slow, slowness())
    expect(seconds <= OBEY_SECONDS * slow, f"{seconds:.1f} s to obey, above {OBEY_SECONDS:.0f} s x load {slow:.1f}")
    return f"{seconds:.1f} s to obey"


def _goes_on(lab: Lab, run: Run, undisturbed: pathlib.Path, step: int | None = None, **settings: Any) -> str:
    """Starts the same command again, to its end."""
    again = lab.train(run.directory, **settings)
    again.end(0)
    if step is not None:
        expect(f"resumed after step {step}" in again.said, f"it did not resume after step {step}")
    return same(run.directory, undisturbed)


def sigterm_importing(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while modules are imported: ends within 5 s, nothing was written."""
    slow, run = slowness(), lab.train(folder / "run")
    maps = pathlib.Path(f"/proc/{run.process.pid}/maps")
    run.until(lambda: "jaxlib" in maps.read_text(), "jax was being imported")
    figure = _terminate(run, slow, -signal.SIGTERM)
    expect(not run.directory.exists(), "it had got further: its directory is there")
    return figure


def sigterm_indexing(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while an index is built: 77 within 5 s; the same command goes on with what was measured, and ends as an undisturbed run."""
    many = folder / "many.jsonl"
    many.write_text((lab.root / "corpus/train/text.jsonl").read_text() * 1000)
    settings = {"data__sources__text__path": many, "data__index_folder": folder / "index", "curriculum": "text"}
    slow, run = slowness(), lab.train(folder / "run", **settings)
    run.until(lambda: len(list((folder / "index").rglob("parts/*.npz"))) >= 2, "two parts of an index were written")
    figure = _terminate(run, slow, 77)
    expect("before the first step" in run.said, "it was not indexing")
    kept = len(list((folder / "index").rglob("parts/*.npz")))
    expect(kept, "nothing of what was measured is kept")
    undisturbed = lab.train(folder / "undisturbed", **settings | {"data__index_folder": folder / "other_index"})
    undisturbed.end(0)
    return f"{figure}, {kept} files of the index kept; {_goes_on(lab, run, undisturbed.directory, **settings)}"


def sigterm_compiling(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while the training step is compiled: 77 within 5 s (a compilation cannot be interrupted), nothing lost."""
    environment = lab.environment(JAX_COMPILATION_CACHE_DIR=str(folder / "cache"), JAX_LOG_COMPILES="1")
    slow, run = slowness(), lab.train(folder / "run", environment=environment)
    run.until(lambda: "Compiling jit(step)" in run.said, "the step was being compiled", 0.01)
    expect("Finished XLA compilation of jit(step)" not in run.said, "the step was compiled already")
    figure = _terminate(run, slow, 77)
    step = last_step(run.directory)
    expect(saved(run.directory)[-1:] == [step] and step <= 2, f"step {step} was logged, {saved(run.directory)} saved")
    return f"{figure}; {_goes_on(lab, run, lab.undisturbed(), step)}"


def sigterm_stepping(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM between two saves: 77 within 5 s, the last step is saved, equal bit for bit."""
    settings = {"run__checkpoint_every": 100}
    slow, run = slowness(), lab.train(folder / "run", **settings)
    run.until_step(STEPS["text"] + 2)
    figure = _terminate(run, slow, 77)
    step = last_step(run.directory)
    expect(STEPS["text"] + 2 <= step < TOTAL and saved(run.directory)[-1] == step, f"step {step} was logged, {saved(run.directory)} saved")
    return f"{figure}, 0 steps lost; {_goes_on(lab, run, lab.undisturbed(), step, **settings)}"


def sigterm_pair(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM to the launcher of two processes: both save the same step and end with 77 within 5 s, equal bit for bit."""
    settings = {"run__checkpoint_every": 100}
    undisturbed, slow = lab.pair(), slowness()
    run = lab.launch(folder / "run", **settings)
    run.until_step(STEPS["text"] + 2)
    figure = _terminate(run, slow, 77)
    step = last_step(run.directory)
    expect(step < TOTAL and saved(run.directory)[-1] == step, f"step {step} was logged, {saved(run.directory)} saved")
    again = lab.launch(run.directory, **settings)
    again.end(0)
    expect(f"resumed after step {step}" in again.said, "it did not resume there")
    return f"{figure}, 0 steps lost; {same(run.directory, undisturbed)}"


def sigterm_saving(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while a checkpoint is half written: 77 within 5 s, it is completed, equal bit for bit."""
    slow = slowness()
    for attempt in range(1, 11):
        run = lab.train(folder / f"run{attempt}")
        run.until_saving(STEPS["text"] + 4)
        run.process.send_signal(signal.SIGSTOP)
        writing = being_saved(run.directory)
        run.process.send_signal(signal.SIGCONT)
        if writing:
            figure, step = _terminate(run, slow, 77), last_step(run.directory)
            expect(set(writing) <= set(saved(run.directory)) and saved(run.directory)[-1] == step, "the checkpoint was not completed")
            return f"{figure}, 0 steps lost; {_goes_on(lab, run, lab.undisturbed(), step)}"
        run.stop_all()
    expect(False, "no signal hit a save in 10 attempts")
    return ""


def _until_evaluating(run: Run) -> None:
    run.until_saved(STEPS["text"])
    expect(last_step(run.directory) == STEPS["text"], "the next phase has begun")


def sigterm_evaluating(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while held-out questions are answered: 77 within 5 s; they are answered at the next start, equal bit for bit."""
    slow, run = slowness(), lab.train(folder / "run")
    _until_evaluating(run)
    figure = _terminate(run, slow, 77)
    expect("stopped while answering held-out questions" in run.said, f"it was doing something else: {run.said[-300:]}")
    expect(not list((run.directory / "evaluations").glob("*")), "the evaluation was complete")
    return f"{figure}; {_goes_on(lab, run, lab.undisturbed(), STEPS['text'])}"


def sigterm_reporting(lab: Lab, folder: pathlib.Path) -> str:
    """SIGTERM while the report is written: ends within 5 s; the next start writes it, equal bit for bit."""
    slow, run = slowness(), lab.train(folder / "run", program=("-m", "drills.programs.slow_report"))
    run.until(lambda: "writing the report" in run.said, "the report was being written")
    figure = _terminate(run, slow, -signal.SIGTERM)
    expect(not (run.directory / "report.html").exists(), "the report was written")
    compared = _goes_on(lab, run, lab.undisturbed(), TOTAL)
    expect((run.directory / "report.html").stat().st_size > 10_000, "there is no report")
    return f"{figure}; {compared}"


DRILLS = (
    sigterm_importing, sigterm_indexing, sigterm_compiling, sigterm_stepping, sigterm_pair, sigterm_saving, sigterm_evaluating, sigterm_reporting,
)  # fmt: skip
