"""Answers one conversation at a time, in pieces of text as they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.documents import prompt_document
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax import config
from neo_jax.inference.generate import Program, decode, fetch, on_mesh, prefill
from neo_jax.inference.sampling import Sampling
from neo_jax.model.backbone import Parameters
from neo_jax.model.computation import Computation
from neo_jax.sharding import row_shards, to_devices

PIECE = 4  # tokens between two pieces of text
SMALLEST = 64  # room of the shortest prompts and answers
UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


@dataclasses.dataclass(frozen=True)
class Answerer:
    """A model with everything that answering needs. Its methods run on the current mesh.

    Attributes:
      parameters: on the mesh.
      limits: how pictures and clips are read, and the largest number of tokens of prompt and answer together (`context`).
    """

    model: config.Model
    computation: Computation
    parameters: Parameters
    tokenizer: Tokenizer
    limits: PhaseSettings

    def stream(self, conversation: Sample, sampling: Sampling, max_tokens: int, stops: Sequence[str] = ()) -> Iterator[str]:
        """Yields the answer to a conversation in pieces.

        Args:
          conversation: its last turn is the user's.
          max_tokens: most tokens of the answer.
          stops: the answer ends before the first of these texts.

        Raises:
          SampleError: the conversation cannot be read, or is too long.
        """
        special = self.tokenizer.special
        end = special["<|im_end|>"]
        banned = tuple(special[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>"))
        banned += tuple(range(self.tokenizer.vocabulary, self.model.vocabulary))  # rows of the embedding table that belong to no token
        program = Program(self.model, self.computation, (end,), banned)
        asked = dataclasses.replace(conversation, turns=(*conversation.turns, Turn("assistant", "")))
        document = prompt_document(asked, self.limits, self.tokenizer, sampling.seed)
        tokens, visual = len(document.tokens), len(document.visual)
        if (need := tokens + max_tokens) > self.limits.context:
            raise SampleError(
                "too_long",
                f"the conversation has {tokens:,} tokens, with {max_tokens:,} for the answer {need:,} of {self.limits.context:,}",
            )
        rows = row_shards()  # each computes the same: a batch has at least one row of every shard
        length, room = _room(tokens), _room(max_tokens)
        inputs = to_devices(prompt_inputs([document] * rows, length, _room(visual) if visual else 0, special["<IMG_CONTEXT>"]))
        state = prefill(program, self.parameters, inputs, on_mesh([sampling] * rows), length + room)
        ids, text = [int(fetch(state.token)[0])], Text(stops)
        while ids[-1] != end and len(ids) < max_tokens:
            yield from text.add(self.tokenizer.decode(ids))
            if text.stopped:
                return
            written, count, state = decode(program, self.parameters, state, np.int32(min(PIECE, max_tokens - len(ids))))
            new = fetch(written)[0, : int(count)].tolist()
            ids += new[: new.index(end) + 1] if end in new else new
        yield from text.add(self.tokenizer.decode(ids[:-1] if ids[-1] == end else ids), whole=True)


class Text:
    """The text of an answer as far as it will not change any more: without half a character, or what may become a stop text.

    Attributes:
      stopped: whether a stop text was reached.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = [stop for stop in stops if stop]
        self._given = 0
        self.stopped = False

    def add(self, text: str, whole: bool = False) -> Iterator[str]:
        """Yields what is new in the text of the answer so far; with `whole`, all of it."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, text = True, text[: min(places)]
        elif not whole:
            text = text.rstrip(UNFINISHED)
            text = text[: len(text) - max((_begun(text, stop) for stop in self._stops), default=0)]
        if len(text) > self._given:
            yield text[self._given :]
            self._given = len(text)


def _begun(text: str, stop: str) -> int:
    """Returns how many of the last characters of `text` are the first of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def _room(tokens: int) -> int:
    """Returns the next of 64, 96, 128, 192, 256, ...: few shapes to compile, and at most half more work."""
    size = SMALLEST
    while size < tokens:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
