"""Runs a training command on this machine and starts it again when it was stopped or killed.

    python launch/local.py -- python -m neo_jax.train --config=configs/demo.py

A run resumes exactly from its last checkpoint, so starting again is always safe. Configuration and data errors, and losses that are not finite,
are not tried again. Attempts are counted by progress: RETRIES in a row that write no checkpoint end it, however many succeeded before.
"""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

from neo_jax.config import ConfigError, parse_command_line
from neo_jax.train import CONFIGURATION, DATA, DONE, NOT_FINITE, PREEMPTED

FINAL = (DONE, DATA, NOT_FINITE, CONFIGURATION)
RETRIES = 3


def newest_checkpoint(directory: pathlib.Path) -> int:
    """The newest step with a checkpoint in a run directory; -1 where there is none."""
    return max((int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit()), default=-1)


def supervise(command: Sequence[str], directory: pathlib.Path) -> int:
    """Runs the command until it ends for good; returns its last exit code. SIGTERM and SIGINT are passed on and end the supervision."""
    stopping = False
    failures, progress = 0, newest_checkpoint(directory)
    while True:
        process = subprocess.Popen(command)

        def stop(*_: object, process: subprocess.Popen[bytes] = process) -> None:
            nonlocal stopping
            stopping = True
            process.send_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        code = process.wait()
        if code in FINAL or stopping:
            return code
        newest = newest_checkpoint(directory)
        failures = 0 if newest > progress else failures + 1
        progress = newest
        if failures >= RETRIES:
            print(f"local: {RETRIES} attempts in a row wrote no checkpoint (last exit code {code}): given up", file=sys.stderr)
            return code
        reason = "was stopped and saved" if code == PREEMPTED else f"ended with exit code {code}"
        print(f"local: the run {reason}; starting it again from step {max(newest, 0)}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    if "--" not in arguments or not arguments[arguments.index("--") + 1 :]:
        print("usage: python launch/local.py -- python -m neo_jax.train --config=FILE ...", file=sys.stderr)
        return CONFIGURATION
    command = list(arguments[arguments.index("--") + 1 :])
    try:
        settings = parse_command_line([argument for argument in command if argument.startswith("--config")])
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    return supervise(command, pathlib.Path(settings.run.directory))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
