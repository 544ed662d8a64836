"""Writes the demo's corpus of drawn scenes.

python -m data_pipelines.scenes --output runs/demo/corpus --seed 0
"""

from __future__ import annotations

import dataclasses
import os
import sys

from data_pipelines.commands import command_parser
from data_pipelines.scenes import ScenesSettings, write_scenes
from data_pipelines.schema import DataError


def main(arguments: list[str] | None = None) -> int:
    parser = command_parser("scenes", __doc__, "0 written, or there already; 1 the folder holds something else; 2 a flag is wrong")
    parser.add_argument("--output", required=True, type=os.path.expanduser, help="folder to write; must not exist, or hold the same corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    for field in dataclasses.fields(ScenesSettings):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = vars(parser.parse_args(arguments))
    folder, workers = options.pop("output"), options.pop("workers")
    try:
        print(write_scenes(folder, ScenesSettings(**options), workers))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
