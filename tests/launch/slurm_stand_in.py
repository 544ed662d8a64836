"""Stands for sbatch, squeue and scancel: keeps in a folder which tasks are held and what was called. It starts nothing; tests say what happens.

held.json     tasks that squeue shows, with their states        calls.jsonl   program, arguments and standard input of each call
broken        if this file exists, every call fails with what is in it
"""

import json
import os
import pathlib
import re
import sys

PROGRAMS = ("sbatch", "squeue", "scancel")


def install(folder: pathlib.Path) -> pathlib.Path:
    """Writes the programs to a folder, and returns it."""
    folder.mkdir()
    for program in PROGRAMS:
        (folder / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{folder}" {program} "$@"\n')
        (folder / program).chmod(0o755)
    hold(folder, {})
    return folder


def held(folder: pathlib.Path) -> dict[str, str]:
    return json.loads((folder / "held.json").read_text())


def hold(folder: pathlib.Path, tasks: dict[str, str]) -> None:
    (folder / "held.json").write_text(json.dumps(tasks))


def calls(folder: pathlib.Path, program: str) -> list[dict]:
    path = folder / "calls.jsonl"
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    return [line for line in lines if line["program"] == program]


def main(folder: pathlib.Path, program: str, arguments: list[str]) -> int:
    text = sys.stdin.read() if program == "sbatch" else ""
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"program": program, "arguments": arguments, "text": text, "folder": os.getcwd()}) + "\n")
    if (folder / "broken").exists():
        print((folder / "broken").read_text(), file=sys.stderr)
        return 1
    tasks = held(folder)
    match program:
        case "sbatch":
            job = 100 + len(calls(folder, "sbatch"))
            for part in re.search(r"--array=([\d,-]+)", text)[1].split(","):
                first, _, last = part.partition("-")
                tasks |= {f"{job}_{index}": "PENDING" for index in range(int(first), int(last or first) + 1)}
            print(f"{job};cluster")
        case "squeue":
            print("".join(f"{task} {state}\n" for task, state in tasks.items()), end="")
        case "scancel":
            tasks = {task: state for task, state in tasks.items() if task not in arguments}
    hold(folder, tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
