"""Runs the drills, or those named, and prints a line each: name, criterion, figure, verdict, seconds. Exit code 1 if one fails.

python -m drills [NAME ...] [--list] [--write] [--folder=.cache/drills]
"""

from __future__ import annotations

import argparse
import inspect
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

from drills import damage, data, kills, peers, resume, signals, storage, timing
from drills.document import Outcome, keep, kept, write_drills
from drills.lab import DrillError, Lab, slowness

Drill = Callable[[Lab, pathlib.Path], str]
GROUPS = (timing, kills, signals, storage, damage, data, peers, resume)
DRILLS: dict[str, Drill] = {drill.__name__: drill for group in GROUPS for drill in group.DRILLS}


def criterion(drill: Drill) -> str:
    return " ".join((inspect.getdoc(drill) or "").split())


def carry_out(name: str, lab: Lab) -> Outcome:
    """Runs one drill. Whatever goes wrong in it is its failure."""
    drill, began, load = DRILLS[name], time.monotonic(), slowness()
    try:
        with lab.scratch(name) as folder:
            figure, passed = drill(lab, folder), True
    except (DrillError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        if not isinstance(error, DrillError):
            traceback.print_exception(error)
        figure, passed = str(error) or type(error).__name__, False
    return Outcome(name, criterion(drill), figure, passed, time.monotonic() - began, load)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m drills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="drills to run; without names, all")
    parser.add_argument("--list", action="store_true", help="only prints names and criteria")
    parser.add_argument("--write", action="store_true", help="writes the last outcome of every drill into docs/drills.md")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache/drills"), help="keeps the corpus and what was compiled")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in DRILLS]:
        parser.error(f"{', '.join(unknown)}: no such drill; --list names all")
    names = options.names or list(DRILLS)
    if options.list:
        print("\n".join(f"{name}: {criterion(DRILLS[name])}" for name in names))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a drill has started ends with it
    lab = Lab(options.folder)
    lab.prepare()
    outcomes = []
    for name in names:
        outcomes.append(carry_out(name, lab))
        print(outcomes[-1].line(), flush=True)
        keep(outcomes[-1], options.folder)
    if options.write:
        write_drills(kept(list(DRILLS), options.folder))
    passed = sum(each.passed for each in outcomes)
    print(f"{passed} of {len(outcomes)} drills passed")
    return 0 if passed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
