"""Bad steps, bad samples, media that change behind the run's back, and a clock that jumps."""

from __future__ import annotations

import io
import json
import math
import pathlib
import shutil
from typing import Any

from PIL import Image, ImageOps

from drills.lab import Lab, expect, kill, members, records, same
from drills.tiny import TOTAL

BAD = 9  # the step that is spoiled, in the second phase; the last save before it is of step 8
SPOILED = ("-m", "drills.programs.spoiled", str(BAD), "nan")


def _incidents(directory: pathlib.Path) -> list[dict[str, Any]]:
    path = directory / "incidents.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _spoiled(lab: Lab, folder: pathlib.Path, policy: str, code: int, what: str) -> pathlib.Path:
    """Runs with a loss that is not a number at step BAD; returns the run's directory after looking at its one incident."""
    run = lab.train(folder / "run", program=SPOILED, run__bad_steps=policy)
    run.end(code)
    expect("Traceback" not in run.said, run.said[-1000:])
    (incident,) = _incidents(run.directory) or [{}]
    expect((incident.get("step"), incident.get("kind")) == (BAD, what), f"the incident is {incident}")
    expect(incident["samples"] and incident["rows"], "the incident names no samples")
    undisturbed = records(lab.undisturbed())
    for mine, other in zip(records(run.directory)[: BAD - 1], undisturbed, strict=False):
        expect(mine["loss"] == other["loss"], f"step {mine['step']} before the bad one differs")
    return run.directory


def _later_steps(lab: Lab, directory: pathlib.Path) -> str:
    """All later steps are done and finite, and are not those of the undisturbed run, which had another step BAD."""
    found, undisturbed = records(directory), records(lab.undisturbed())
    expect([line["step"] for line in found] == list(range(1, TOTAL + 1)), "steps are missing")
    expect(math.isnan(found[BAD - 1]["loss"]), f"the loss of step {BAD} is {found[BAD - 1]['loss']}: it was not spoiled")
    expect(all(math.isfinite(line["loss"]) for line in found[BAD:]), "a later loss is not finite")
    expect(found[BAD]["loss"] != undisturbed[BAD]["loss"], "the bad step changed nothing")
    return f"{len(found) - BAD} later steps finite"


def nan_stop(lab: Lab, folder: pathlib.Path) -> str:
    """A loss that is not a number, run.bad_steps=stop: 70, rows and samples named; without it the same command goes on, equal bit for bit."""
    directory = _spoiled(lab, folder, "stop", 70, "stopped")
    again = lab.train(directory)
    again.end(0)
    expect("resumed after step 8" in again.said, "it did not resume from the last save before")
    return same(directory, lab.undisturbed())


def nan_skip(lab: Lab, folder: pathlib.Path) -> str:
    """The same with skip: the step is left out and named, the run ends with finite losses."""
    return _later_steps(lab, _spoiled(lab, folder, "skip", 0, "skipped"))


def nan_rewind(lab: Lab, folder: pathlib.Path) -> str:
    """The same with rewind: the run goes on behind the bad rows from the parameters of the last save, killed and started again it does so too."""
    directory = _spoiled(lab, folder, "rewind", 0, "rewound")
    figure = _later_steps(lab, directory)
    run = lab.launch(folder / "killed", 1, 0, program=SPOILED, run__bad_steps="rewind")
    run.until_step(BAD + 1)
    kill(members(run)[0])
    run.end(0)
    ours, theirs = records(run.directory)[BAD:], records(directory)[BAD:]
    expect([line["loss"] for line in ours] == [line["loss"] for line in theirs], "killed behind it, the run ends in other losses")
    return f"{figure}; killed behind it, they are equal"


def spike(lab: Lab, folder: pathlib.Path) -> str:
    """An update 10,000 times too large and run.spike_factor=3 with rewind: the run goes back to the parameters before it, later losses are usual."""
    settings = {
        "curriculum": "text",
        "phases__text__steps": 24,
        "run__checkpoint_every": 6,
        "run__spike_factor": 3.0,
        "run__bad_steps": "rewind",
    }
    run = lab.train(folder / "run", program=("-m", "drills.programs.spiking", "19", "1e4"), **settings)
    run.end(0)
    (incident,) = _incidents(run.directory) or [{}]
    expect((incident.get("step"), incident.get("kind")) == (20, "rewound"), f"the incident is {incident}")
    expect("went back to the parameters of step 18" in run.said, "it did not go back to the last save")
    losses = [line["loss"] for line in records(run.directory)]
    expect(losses[19] > 3 * losses[17], f"the loss of step 20 is {losses[19]}: no spike")
    expect(len(losses) == 24 and max(losses[20:]) < 1.5 * losses[17], f"losses behind it: {losses[20:]}")
    return f"loss {losses[17]:.1f}, spike {losses[19]:.0f}, then {losses[20]:.1f}"


def corrupt_files(lab: Lab, folder: pathlib.Path) -> str:
    """Half of the pictures of a source cut in half: 65 above the limit, and each skipped sample is named with the reason."""
    shutil.copytree(lab.root / "corpus", folder / "corpus", ignore=shutil.ignore_patterns("tfds"))
    pictures = sorted((folder / "corpus/media/large").rglob("*.jpg"))
    settings = {
        "data__sources__large__path": folder / "corpus/train/large.jsonl",
        "data__sources__large__media_root": folder / "corpus",
        "data__index_folder": folder / "index",
        "data__minimum_samples": 20,
        "curriculum": "mid",
    }
    settings |= {f"phases__mid__mixture__{name}": 0.0 for name in ("caption", "image", "multi", "video", "text")}
    for picture in pictures[::2]:
        content = picture.read_bytes()
        picture.write_bytes(content[: len(content) // 2])
    run = lab.train(folder / "run", **settings)
    run.end(65)
    expect("Traceback" not in run.said, run.said[-1000:])
    skipped = [json.loads(line) for line in (run.directory / "skipped.jsonl").read_text().splitlines()]
    expect(skipped and all(line["reason"] and line["key"] for line in skipped), "no sample is named")
    return f"{len(pictures[::2])} of {len(pictures)} pictures cut; {len(skipped)} samples named, {skipped[0]['reason']}"


def media_replaced(lab: Lab, folder: pathlib.Path) -> str:
    """Pictures replaced by others of the same numbers of bytes and pixels between two starts: the next start says so."""
    shutil.copytree(lab.root / "corpus", folder / "corpus", ignore=shutil.ignore_patterns("tfds"))
    settings = {
        "data__sources__large__path": folder / "corpus/train/large.jsonl",
        "data__sources__large__media_root": folder / "corpus",
        "data__index_folder": folder / "index",
    }
    run = lab.train(folder / "run", **settings)
    run.until_saved(8)
    run.kill()
    pictures = sorted((folder / "corpus/media/large").rglob("*.jpg"))
    for path in pictures:
        old = path.read_bytes()
        with Image.open(path) as picture:
            other, size = ImageOps.invert(picture.convert("RGB")), picture.size
        new = io.BytesIO()
        other.save(new, "jpeg", quality=30)
        expect(len(new.getvalue()) < len(old) and other.size == size, "the other picture is larger")
        path.write_bytes(new.getvalue() + bytes(len(old) - len(new.getvalue())))  # bytes behind the end are no part of the picture
        expect(path.stat().st_size == len(old), "the number of bytes changed")
    expect(pictures, "no picture was replaced")
    again = lab.train(run.directory, **settings)
    again.end(0)
    said = [line for line in again.said.splitlines() if "media files of another size or time" in line]
    expect(said, f"{len(pictures)} pictures were replaced and nothing was said: {again.said[-800:]}")
    return f"{len(pictures)} pictures replaced; it says: {said[0]}"


def clock_jump(lab: Lab, folder: pathlib.Path) -> str:
    """The computer's clock jumps a day ahead in the run and two days back before its next start: equal bit for bit, times of the run stay sane."""
    jump = folder / "jump"
    program = ("-m", "drills.programs.clock", str(jump))
    run = lab.train(folder / "run", program=program)
    run.until_step(4)
    jump.write_text("86400")
    run.until_saved(10)
    run.kill()
    jump.write_text("-86400")
    again = lab.train(run.directory, program=program)
    again.end(0)
    lines = [json.loads(line) for line in (run.directory / "goodput.jsonl").read_text().splitlines()]
    began = sorted({line["began"] for line in lines}, reverse=True)
    expect(len(began) == 2 and began[0] - began[1] > 80_000, "the clock did not jump")
    longest = max(max(line["seconds"].values()) for line in lines)
    expect(longest < 3600 and min(min(line["seconds"].values()) for line in lines) >= 0, f"{longest:.0f} s are counted")
    return f"longest time counted {longest:.1f} s; {same(run.directory, lab.undisturbed())}"


DRILLS = (nan_stop, nan_skip, nan_rewind, spike, corrupt_files, media_replaced, clock_jump)
