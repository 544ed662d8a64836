"""What saving and its checksums cost at the demo's interval."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys

from drills.lab import CODE, TRAIN, Lab, expect, saved

INTERVAL, STEPS = 200, 400  # run.checkpoint_every of configs/demo.py; two saves
SAVE_SHARE, CHECKSUM_SHARE = 0.02, 0.01


def save_cost(lab: Lab, folder: pathlib.Path) -> str:
    """The demo's model saving every 200 steps: saving takes under 2% of training time, its checksums under 1%."""
    sources = ("text", "caption", "large", "multi", "video")
    corpus = lab.root / "corpus"
    places = {f"data.sources.{name}.path": corpus / f"train/{name}.jsonl" for name in sources}
    places |= {f"data.sources.{name}.media_root": corpus for name in sources}
    places |= {f"data.heldout.{path.stem}.path": path for path in (corpus / "heldout").glob("*.jsonl")}
    places |= {f"data.heldout.{path.stem}.media_root": corpus for path in (corpus / "heldout").glob("*.jsonl")}
    places |= {"data.sources.image.path": corpus / "tfds/image/1.0.0", "tokenizer.path": corpus / "tokenizer.model"}
    places |= {"data.index_folder": folder / "index", "run.directory": folder / "run"}
    settings = {"curriculum": "mid_256", "phases.mid_256.steps": STEPS, "run.heldout_every": 0, "evaluation.questions": 1}
    flags = [f"--config.{key}={value}" for key, value in (places | settings).items()]
    environment = lab.environment()
    del environment["XLA_FLAGS"]  # the step as a user has it
    run = lab.start(
        [sys.executable, *TRAIN, f"--config={CODE / 'configs/demo.py'}", "--cpu-devices=2", *flags], folder / "run", environment
    )
    run.end(0)
    values = json.loads((run.directory / "config.json").read_text())
    expect(values["run"]["checkpoint_every"] == INTERVAL and saved(run.directory) == [INTERVAL, STEPS], f"saved {saved(run.directory)}")
    seconds: dict[str, float] = {}
    for line in map(json.loads, (run.directory / "goodput.jsonl").read_text().splitlines()):
        for bucket, value in line["seconds"].items():
            seconds[bucket] = seconds.get(bucket, 0.0) + value
    training = seconds["step"] + seconds.get("data", 0.0) + seconds["save"]
    timed = lab.start(
        [sys.executable, "-m", "drills.programs.checksums", str(run.directory / "checkpoints" / str(STEPS))],
        folder / "checksums",
        environment,
    )
    timed.end(0)
    checksums = statistics.median(json.loads(timed.said.splitlines()[-1]))
    save, checks = seconds["save"] / training, 2 * checksums / training
    figure = f"saving {save:.2%}, checksums {checks:.3%} of {training:.0f} s ({1000 * checksums:.1f} ms each)"
    expect(save < SAVE_SHARE and checks < CHECKSUM_SHARE, figure)
    return figure


DRILLS = (save_cost,)
