"""Stands for neo_jax.train in tests of the sweep's driver: a step is a line of metrics; continues where it was; saves and exits with 77 on SIGTERM.

The held-out loss is the learning rate of the first phase; run.seed 99 fails, and the phase's weight decay is not read. Needs no jax.
"""

import fcntl
import json
import pathlib
import signal
import sys
import time

(argument,) = [each for each in sys.argv[1:] if each.startswith("--config=")]
config = json.loads(pathlib.Path(argument.partition("=")[2]).read_text())
run = pathlib.Path(config["run"]["directory"])
run.mkdir(parents=True, exist_ok=True)
alive = (run / "alive").open("w")
fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
(run.parent.parent / "starts.txt").open("a").write(f"{run.name}\n")
if config["run"]["seed"] == 99 and not (run.parent.parent / "mended").exists():
    print("this seed fails", file=sys.stderr)
    sys.exit(70)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
phases = [config["phases"][name] for name in config["curriculum"]]
rate, steps = phases[0]["learning_rate"], sum(phase["steps"] for phase in phases)
metrics = run / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
for step in range(done + 1, steps + 1):
    (run / "checkpoints" / str(step)).mkdir(parents=True)
    record = {
        "step": step,
        "phase": config["curriculum"][0],
        "tokens": 10 * step,
        "loss": rate + 1 / step,
        "heldout_loss": {"a": rate, "b": 3 * rate},
    }
    with metrics.open("a") as file:
        file.write(json.dumps(record) + "\n")
    time.sleep(0.02)
    if stopped:
        sys.exit(77)
(run / "report.json").write_text(json.dumps({"exact_match": {"overall": 0.5, "count": 0.5}, "benchmarks": [], "phases": []}))
