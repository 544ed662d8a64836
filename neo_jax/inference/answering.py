"""Answers conversations: one in pieces of text as they are written, or many in batches."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data_pipelines.documents import Lengths, measure_prompt, prompt_document
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import Document, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text.tokenizers import Tokenizer
from neo_jax import config
from neo_jax.inference.batches import PromptBatch, prompt_batches
from neo_jax.inference.generate import Program, decode, fetch, generate, on_mesh, prefill
from neo_jax.inference.sampling import Sampling
from neo_jax.model.backbone import Parameters
from neo_jax.model.computation import Computation
from neo_jax.sharding import own_rows, row_shards, to_devices

BLANK = 127  # pixel value of a blank image
PIECE = 4  # tokens between two pieces of text
SMALLEST = 64  # room of the shortest prompts and answers
UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


class Prompts(NamedTuple):
    """Prompts to be answered.

    Attributes:
      lengths: of each.
      document: builds the prompt with a number; called by several threads.
      samplings: settings of each.
    """

    lengths: Sequence[Lengths]
    document: Callable[[int], Document]
    samplings: Sequence[Sampling]


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

    @property
    def _end(self) -> int:
        return self.tokenizer.special["<|im_end|>"]

    @property
    def _image_token(self) -> int:
        return self.tokenizer.special["<IMG_CONTEXT>"]

    @functools.cached_property
    def _program(self) -> Program:
        banned = tuple(self.tokenizer.special[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>"))
        banned += tuple(range(self.tokenizer.vocabulary, self.model.vocabulary))  # rows of the embedding table that belong to no token
        return Program(self.model, self.computation, (self._end,), banned)

    def document(self, conversation: Sample, max_tokens: int, seed: int = 0) -> Document:
        """Returns the prompt of a conversation whose last turn is the user's. Raises SampleError if it cannot be read or is too long."""
        document = prompt_document(_asked(conversation), self.limits, self.tokenizer, seed)
        self.check_length(conversation.key, len(document.tokens), max_tokens)
        return document

    def measure(self, conversation: Sample, max_tokens: int, seed: int = 0) -> Lengths:
        """Returns the lengths of the prompt of a conversation without decoding pixels. Errors as `document`."""
        lengths = measure_prompt(_asked(conversation), self.limits, self.tokenizer, seed)
        self.check_length(conversation.key, lengths.tokens, max_tokens)
        return lengths

    def check_length(self, key: str, tokens: int, max_tokens: int) -> None:
        """Raises SampleError if a prompt, together with its answer, is longer than the context."""
        most = self.limits.context
        if (need := tokens + max_tokens) > most:
            raise SampleError("too_long", f"{key} has {tokens:,} tokens, with {max_tokens:,} for the answer {need:,} of {most:,} (context)")

    def answers(self, prompts: Prompts, max_tokens: int, tokens: int) -> Iterator[tuple[tuple[int, ...], list[str]]]:
        """Yields the answers to prompts, a batch at a time: their numbers, and their texts. Documents are prepared while others are answered.

        Args:
          max_tokens: most tokens of an answer.
          tokens: largest number of tokens of a batch, room for the answers counted.
        """
        batches = prompt_batches(prompts.lengths, max_tokens, tokens, row_shards())
        with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1)) as threads:
            coming = [threads.submit(prompts.document, number) for number in self._held(batches[0])] if batches else []
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                documents = [each.result() for each in coming]
                coming = [threads.submit(prompts.document, number) for number in self._held(following)] if following else []
                samplings = [prompts.samplings[number] for number in batch.numbers]
                yield batch.numbers, self._batch(documents, samplings, batch, max_tokens)

    def _held(self, batch: PromptBatch) -> list[int]:
        """Returns the numbers of the prompts whose rows the devices of this process hold. All batches of a shape have as many rows: the last
        prompt fills up."""
        last = len(batch.numbers) - 1
        return [batch.numbers[min(row, last)] for part in own_rows(batch.shape.rows) for row in part]

    def _batch(self, documents: Sequence[Document], samplings: Sequence[Sampling], batch: PromptBatch, max_tokens: int) -> list[str]:
        shape = batch.shape
        prompts = prompt_inputs(documents, shape.length, shape.visual_tokens, self._image_token)
        of_rows = [samplings[min(row, len(samplings) - 1)] for row in range(shape.rows)]
        written = generate(self._program, self.parameters, to_devices(prompts), of_rows, max_tokens)
        return [self._text(row) for row in written[: len(samplings)]]

    def _text(self, ids: np.ndarray) -> str:
        ends = np.flatnonzero(ids == self._end)
        return self.tokenizer.decode(ids[: ends[0] if len(ends) else None].tolist())

    def stream(self, conversation: Sample, sampling: Sampling, max_tokens: int, stops: Sequence[str] = ()) -> Iterator[str]:
        """Yields the answer to a conversation in pieces.

        Args:
          conversation: its last turn is the user's.
          max_tokens: most tokens of the answer.
          stops: the answer ends before the first of these texts.

        Raises:
          SampleError: the conversation cannot be read, or is too long.
        """
        asked = Asked(self.document(conversation, max_tokens, sampling.seed), sampling, max_tokens, stops)
        yield from (piece.text for piece in self.write([asked]) if piece.text)

    def write(self, asked: Sequence[Asked]) -> Iterator[Piece]:
        """Yields the answers to several prompts in pieces, as they are written side by side on the devices of one process.

        The last piece of each answer says why it ended. Shapes are rounded up, so that few programs are compiled.
        """
        rows = row_shards()
        while rows < len(asked):
            rows *= 2
        filled = [asked[min(row, len(asked) - 1)] for row in range(rows)]
        length, room = (_room(max(sizes)) for sizes in ([len(each.document.tokens) for each in asked], [each.max_tokens for each in asked]))
        visual = max(len(each.document.visual) for each in asked)
        documents = [each.document for each in filled]
        inputs = to_devices(prompt_inputs(documents, length, _room(visual) if visual else 0, self._image_token))
        state = prefill(self._program, self.parameters, inputs, on_mesh([each.sampling for each in filled]), length + room)
        answers = [_Answer(each, self.tokenizer, self._end) for each in asked]
        tokens = fetch(state.token)[:, None]
        while True:
            for row, answer in enumerate(answers):
                if not answer.ended and ((text := answer.add(tokens[row].tolist())) or answer.ended):
                    yield Piece(row, text, answer.ended, len(answer.ids))
            left = max((answer.left for answer in answers if not answer.ended), default=0)
            if not left:
                return
            written, count, state = decode(self._program, self.parameters, state, np.int32(min(PIECE, left)))
            tokens = fetch(written)[:, : int(count)]


class Asked(NamedTuple):
    """A prompt, and how it is answered.

    Attributes:
      document: from Answerer.document.
      sampling: how tokens are chosen.
      max_tokens: most tokens of the answer.
      stops: the answer ends before the first of these texts.
    """

    document: Document
    sampling: Sampling
    max_tokens: int
    stops: Sequence[str] = ()


class Piece(NamedTuple):
    """Some text of an answer.

    Attributes:
      number: of the prompt.
      text: what is new.
      ended: why the answer ended: "stop" or "length"; "": it goes on.
      tokens: number of tokens of the answer so far, the one that ends it included.
    """

    number: int
    text: str
    ended: str
    tokens: int


class _Answer:
    """An answer that is being written.

    Attributes:
      ids: its tokens so far.
      ended: as in Piece.
    """

    def __init__(self, asked: Asked, tokenizer: Tokenizer, end: int):
        self._asked, self._tokenizer, self._end = asked, tokenizer, end
        self._text = Text(asked.stops)
        self.ids: list[int] = []
        self.ended = ""

    @property
    def left(self) -> int:
        """Number of tokens that may follow."""
        return self._asked.max_tokens - len(self.ids)

    def add(self, ids: list[int]) -> str:
        """Adds tokens; returns what is new in the text."""
        ids = ids[: self.left]
        self.ids += ids[: ids.index(self._end) + 1] if self._end in ids else ids
        said = self.ids[:-1] if self.ids[-1] == self._end else self.ids
        whole = len(said) < len(self.ids) or not self.left
        new = "".join(self._text.add(self._tokenizer.decode(said), whole))
        if self._text.stopped or len(said) < len(self.ids):
            self.ended = "stop"
        elif not self.left:
            self.ended = "length"
        return new


def blanked(document: Document) -> Document:
    """Returns a document with blank images in place of its own."""
    return dataclasses.replace(document, visual=np.full_like(document.visual, BLANK))


def _asked(conversation: Sample) -> Sample:
    """Returns the conversation with an empty answer behind it."""
    return dataclasses.replace(conversation, turns=(*conversation.turns, Turn("assistant", "")))


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
