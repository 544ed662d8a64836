"""Files that are damaged between two starts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from drills.lab import Lab, Run, expect, last_step, same, saved
from drills.tiny import TOTAL


def _killed(lab: Lab, directory: pathlib.Path, step: int, **settings: object) -> Run:
    """A run that was killed once it had saved this step."""
    run = lab.train(directory, **settings)
    run.until_saved(step)
    run.kill()
    return run


def _largest(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _cut(path: pathlib.Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    expect(0 < path.stat().st_size < len(content), f"{path} was not cut")


def checkpoints_damaged(lab: Lab, folder: pathlib.Path) -> str:
    """One bit of the newest checkpoint flipped, the next one truncated: both set aside and named, the third is used, equal bit for bit."""
    run = _killed(lab, folder / "run", 10)
    *_, third, second, newest = saved(run.directory)
    file = _largest(run.directory / "checkpoints" / str(newest))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    _cut(_largest(run.directory / "checkpoints" / str(second)))
    again = lab.train(run.directory)
    again.end(0)
    for step in (newest, second):
        expect((run.directory / f"quarantine-{step}").is_dir(), f"checkpoint {step} was not set aside")
    expect(f"resumed after step {third}" in again.said, "it did not resume from the third")
    return f"{newest} and {second} set aside, resumed after {third}; {same(run.directory, lab.undisturbed())}"


def configuration_cut(lab: Lab, folder: pathlib.Path) -> str:
    """config.json of the run cut in half: refused with 78 and the file's name; once it is back, equal bit for bit."""
    run = _killed(lab, folder / "run", 8)
    path = run.directory / "config.json"
    whole = path.read_bytes()
    _cut(path)
    refused = lab.train(run.directory)
    refused.end(78)
    expect(str(path) in refused.said and "Traceback" not in refused.said, f"it does not name the file: {refused.said[-500:]}")
    path.write_bytes(whole)
    lab.train(run.directory).end(0)
    return same(run.directory, lab.undisturbed())


def _mended(lab: Lab, run: Run, harm: Callable[[], None], sentence: str, **settings: object) -> str:
    harm()
    again = lab.train(run.directory, **settings)
    again.end(0)
    expect(sentence in again.said, f"it does not say {sentence!r}: {again.said[-1500:]}")
    return same(run.directory, lab.undisturbed())


def metrics_cut(lab: Lab, folder: pathlib.Path) -> str:
    """metrics.jsonl cut within its last line, of a step that is done again: the part is dropped, every step has one line, equal bit for bit."""
    run = lab.train(folder / "run")
    run.until_step(9)
    run.kill()
    path, newest = run.directory / "metrics.jsonl", saved(run.directory)[-1]
    lines = path.read_text().splitlines(keepends=True)
    expect(last_step(run.directory) > newest, "its last step was saved: nothing would be done again")

    def harm() -> None:
        path.write_text("".join(lines[:-1]) + lines[-1][:40])
        expect(last_step(run.directory) < len(lines), "the line is whole")

    return _mended(lab, run, harm, f"resumed after step {newest}")


def evaluation_cut(lab: Lab, folder: pathlib.Path) -> str:
    """The last evaluation of a finished run cut in half: its questions are answered again, equal bit for bit."""
    run = lab.train(folder / "run")
    run.end(0)
    (path,) = (run.directory / "evaluations").glob("01-*.json")
    return _mended(lab, run, lambda: _cut(path), f"resumed after step {TOTAL}")


def index_cut(lab: Lab, folder: pathlib.Path) -> str:
    """The largest file of the index cut in half: noticed, measured again, equal bit for bit."""
    settings = {"data__index_folder": folder / "index"}
    run = _killed(lab, folder / "run", 8, **settings)
    return _mended(lab, run, lambda: _cut(_largest(folder / "index")), "damaged", **settings)


DRILLS = (checkpoints_damaged, configuration_cut, metrics_cut, evaluation_cut, index_cut)
