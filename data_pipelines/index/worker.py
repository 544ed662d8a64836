"""A process that measures chunks of a source: `python -m data_pipelines.index.worker THREADS`, started by index/work.py.

Reads lines of JSON from standard input: a work.Recipe, then work.Chunks. Answers each chunk with {"new": bool, "problem": str} on standard
output. Ends at the end of the input.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import sys

from data_pipelines.index.work import Chunk, Recipe
from data_pipelines.schema import DataError
from data_pipelines.sources import Source, open_source
from data_pipelines.text.tokenizers import Tokenizer, load_tokenizer


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent process ends the workers
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps what libraries print apart from the answers
    recipe = Recipe.from_json(sys.stdin.readline())
    source: Source | None = None
    tokenizer: Tokenizer | None = None
    count = int(sys.argv[1])
    with concurrent.futures.ThreadPoolExecutor(count) if count > 1 else contextlib.nullcontext() as threads:
        for line in sys.stdin:
            answer = {"new": False, "problem": ""}
            try:
                source = source or open_source(recipe.source, pathlib.Path(recipe.tables))
                tokenizer = tokenizer or load_tokenizer(recipe.tokenizer, recipe.add_special_tokens)
                answer["new"] = Chunk(*json.loads(line)).measure(source, tokenizer, threads)
            except DataError as error:
                answer["problem"] = str(error)
            try:
                print(json.dumps(answer), file=answers, flush=True)
            except BrokenPipeError:
                os._exit(0)  # the parent process has ended; the part is on disk


if __name__ == "__main__":
    main()
