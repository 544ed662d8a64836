"""Builds the length indexes of a configuration before training, on any machine that sees its data.

    python -m data_pipelines.index --config FILE[:ARG] [--processes N]

Shards that are measured already are not measured again. SIGTERM and Ctrl-C keep what was measured: the same command continues from there.
"""

from __future__ import annotations

import pathlib
import signal
import sys
import threading

from data_pipelines.commands import answer, command_parser
from data_pipelines.configuration import read_configuration
from data_pipelines.failures import counts_text
from data_pipelines.index.opening import NamedTokenizer, open_indexed


def build(config: str, processes: int, stop: threading.Event) -> None:
    """Builds the index of each training and held-out source, and prints how many samples cannot be used.

    Args:
      config: FILE[:ARG] of the configuration.
      processes: number of processes that measure; 0: one for each core.
      stop: event that ends the work once it is set, by a signal handler for example.

    Raises:
      DataError: the configuration or its data cannot be used.
      Interrupted: `stop` was set.
    """
    configuration = read_configuration(config)
    configuration.require_index()
    tokenizer = NamedTokenizer.load(configuration.tokenizer, configuration.add_special_tokens)
    folder = pathlib.Path(configuration.index_folder).expanduser()
    for sources, place in ((configuration.training, folder), (configuration.heldout, folder / "heldout")):
        for _, index in open_indexed(sources, tokenizer, place, stop=stop.is_set, processes=processes):
            unusable = f" ({counts_text(index.unusable)}: {index.log})" if index.unusable else ""
            filtered = f", {index.filtered:,} of them left out by `keep`" if index.filtered else ""
            print(f"{index.name}: {len(index.usable):,} of {len(index):,} samples can be used{filtered}{unusable}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 65 if the configuration or its data cannot be used, 75 if a signal stopped the work."""
    codes = "0 built, 2 a flag is wrong, 65 the configuration or its data cannot be used, 75 stopped: start again to go on"
    parser = command_parser("index", __doc__, codes)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the configuration")
    parser.add_argument("--processes", type=int, default=0, help="that measure (default: one for each core)")
    options = parser.parse_args(arguments)
    if options.processes < 0:
        parser.error("--processes must be 0 or more")
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return answer("index", lambda: build(options.config, options.processes, stop))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
