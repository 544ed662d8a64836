"""Serves a checkpoint to OpenAI's clients: python -m neo_jax.serve --checkpoint=PLACE."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence

import jax

from neo_jax.config.fields import ConfigError, OptionalPath, Positive, Text, Whole
from neo_jax.config.flags import Command, read_flags
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from neo_jax.inference.opening import CheckpointFlags, mesh_for, open_answerer
from neo_jax.places import exit_code, open_place

try:
    from aiohttp import web

    from neo_jax.serving.app import Service, make_app
    from neo_jax.serving.batching import Batcher
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    sys.exit("error: the server needs aiohttp: pip install -r requirements-serve.txt")

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CheckpointFlags):
    """The flags.

    Attributes:
      host: address on which the server listens; 0.0.0.0 is all of this machine's.
      port: number of the port; 0: a free one, which is printed.
      model: name of the model in requests; without it, the name of the run or folder.
      max_tokens: largest number of tokens of an answer.
      max_megabytes: largest size of a request, with its pictures.
      waiting: largest number of requests that wait; further ones are told to try again (429).
      tokens: largest number of tokens that are answered at a time: requests times the longest prompt and answer.
      key_file: file with a key that requests must bear (Authorization: Bearer KEY); without it none.
    """

    host: Text = "127.0.0.1"
    port: Whole = 8000
    model: str = ""
    max_tokens: Positive = 4096
    max_megabytes: Positive = 64
    waiting: Positive = 256
    tokens: Positive = 131_072
    key_file: OptionalPath = ""


COMMAND = Command(
    "neo_jax.serve",
    "Serves a checkpoint on /v1/chat/completions in OpenAI's format: text, pictures and clips as data URLs, streaming. Requests that wait together "
    "are answered together. Needs requirements-serve.txt.",
    "--checkpoint=runs/mine --port=8000",
    {
        DONE: "stopped by a signal",
        DATA: "the tokenizer cannot be used",
        CONFIGURATION: "a flag is wrong, the checkpoint cannot be read, or the port is taken",
    },
    operands=None,
)


def _key(path: str) -> str:
    if not path:
        return ""
    try:
        key = pathlib.Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--key-file: {path} cannot be read ({error})"]) from error
    if not key:
        raise ConfigError([f"--key-file: {path} is empty: write a key into it"])
    return key


def serve(flags: Flags, tell: Callable[[str], None], ready: Callable[[str], None] = lambda address: None) -> None:
    """Serves until a signal. `ready` is called with the address when the server listens. Raises ConfigError if the port is taken."""
    place, key = open_place(flags.checkpoint), _key(flags.key_file)
    mesh = mesh_for(place.model)
    with jax.set_mesh(mesh):
        answerer = open_answerer(place, flags, tell)
    name = flags.model or pathlib.PurePath(place.text.partition(":")[0]).name
    batcher = Batcher(answerer, mesh, flags.tokens, flags.waiting)
    service = Service(name, place.pictures, answerer, batcher, flags.max_tokens, flags.max_megabytes << 20, key)

    def listening(address: str) -> None:
        tell(f"model {name!r} at {address}/v1")
        if flags.host not in LOOPBACK and not key:
            tell("anyone who reaches this address can ask: --key-file names a key that requests must bear")
        ready(address)

    try:
        asyncio.run(_listen(flags, service, listening))
    except OSError as error:
        raise ConfigError(
            [f"--host={flags.host} --port={flags.port}: the server cannot listen there ({error.strerror or error})"]
        ) from error
    finally:
        batcher.close()


async def _listen(flags: Flags, service: Service, listening: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(make_app(service), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, flags.host, flags.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stop.wait()
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""

    def work() -> None:
        flags, _ = read_flags(Flags, arguments, COMMAND)
        serve(flags, lambda line: print(line, file=sys.stderr, flush=True))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
