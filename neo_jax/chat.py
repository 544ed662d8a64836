"""Talks to a checkpoint: python -m neo_jax.chat --checkpoint=PLACE [--image=a.jpg] [--video=b.mp4] ["question"]."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence

import jax

from data_pipelines.printable import printable
from data_pipelines.schema import Clip, Media, Sample, SampleError, Turn
from data_pipelines.text.marks import as_words
from neo_jax.config.fields import AboveZero, AtLeastZero, Positive, Seed, Text, Whole
from neo_jax.config.flags import Command, read_flags
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from neo_jax.inference.answering import Answerer
from neo_jax.inference.opening import CheckpointFlags, mesh_for, open_answerer
from neo_jax.inference.sampling import Sampling
from neo_jax.places import exit_code, open_place

HELP = "/image FILE and /video FILE add to the next question, /reset begins a new conversation, /quit ends"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CheckpointFlags):
    """The flags besides the question.

    Attributes:
      image: pictures that stand before the question, in order.
      video: clips that stand before the question, behind the pictures.
      system: text of a system turn.
      max_tokens: largest number of tokens of an answer.
      temperature: 0: the most likely token each time; above: tokens are drawn.
      top_k: tokens are drawn from so many of the most likely ones; 0: from all.
      top_p: tokens are drawn from the most likely ones that have this probability together.
      repetition_penalty: divides the logits of tokens that the conversation has; 1: none.
      seed: of the draws.
      stop: the answer ends before the first of these texts.
    """

    image: tuple[Text, ...] = ()
    video: tuple[Text, ...] = ()
    system: str = ""
    max_tokens: Positive = 512
    temperature: AtLeastZero = 0.0
    top_k: Whole = 0
    top_p: AboveZero = 1.0
    repetition_penalty: AboveZero = 1.0
    seed: Seed = 0
    stop: tuple[Text, ...] = ()

    def sampling(self) -> Sampling:
        return Sampling(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)})

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from self.sampling().problems()


COMMAND = Command(
    "neo_jax.chat",
    "Answers a question about pictures, clips and text with a checkpoint, on all devices of this machine. Without a question it reads them from the "
    f"terminal: {HELP}.",
    '--checkpoint=runs/mine --image=cat.jpg "How many cats?"',
    {
        DONE: "answered",
        DATA: "a picture, a clip or the tokenizer cannot be used",
        CONFIGURATION: "a flag is wrong, or the checkpoint cannot be read",
    },
    operands="[QUESTION]",
)


class Conversation:
    """The turns so far, with their media.

    Args:
      pictures: policy by which pictures are read.
      system: text of a system turn; "": none.
    """

    def __init__(self, pictures: str, system: str):
        self._pictures = pictures
        self._turns = [Turn("system", as_words(system))] if system else []
        self._images: list[Media] = []
        self._clips: list[Clip] = []

    def asking(self, question: str, images: Sequence[str], videos: Sequence[str]) -> Sample:
        """Returns the conversation with this question as its last turn. Raises SampleError for a file that does not exist."""
        marks = "<image>\n" * len(images) + "<video>\n" * len(videos)
        turn = Turn("user", marks + as_words(question))
        self._asked = (turn, [self._media(name) for name in images], [Clip((self._media(name),)) for name in videos])
        return Sample("question", (*self._turns, turn), (*self._images, *self._asked[1]), (*self._clips, *self._asked[2]))

    def answered(self, answer: str) -> None:
        """Keeps the last question and its answer."""
        turn, images, clips = self._asked
        self._turns += [turn, Turn("assistant", as_words(answer))]
        self._images += images
        self._clips += clips

    def _media(self, name: str) -> Media:
        if not pathlib.Path(name).exists():
            raise SampleError("unreadable_file", f"{name} does not exist")
        return Media(name, path=str(pathlib.Path(name).resolve()), pictures=self._pictures)


def answer(
    answerer: Answerer, conversation: Conversation, flags: Flags, question: str, images: Sequence[str], videos: Sequence[str]
) -> None:
    """Prints the answer as it is written, and keeps it in the conversation. Raises SampleError if the question cannot be read.

    On a terminal control characters of the answer are shown as text; a pipe or a file gets the answer as it is.
    """
    parts = []
    for part in answerer.stream(conversation.asking(question, images, videos), flags.sampling(), flags.max_tokens, flags.stop):
        parts.append(part)
        print(printable(part, keep="\n\t") if sys.stdout.isatty() else part, end="", flush=True)  # a terminal would obey it
    print(flush=True)
    conversation.answered("".join(parts))


def talk(answerer: Answerer, pictures: str, flags: Flags, lines: Iterator[str]) -> None:
    """Answers questions until the lines end, or /quit."""
    conversation, images, videos = Conversation(pictures, flags.system), list(flags.image), list(flags.video)
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return
        if word == "/reset":
            conversation, images, videos = Conversation(pictures, flags.system), [], []
        elif word in ("/image", "/video") and pathlib.Path(rest.strip()).exists():
            (images if word == "/image" else videos).append(rest.strip())
        elif word in ("/image", "/video"):
            print(f"{rest.strip() or 'no file'} does not exist", file=sys.stderr)
        elif word.startswith("/"):
            print(HELP, file=sys.stderr)
        elif word:
            try:
                answer(answerer, conversation, flags, line.strip(), images, videos)
            except SampleError as error:
                print(f"error: {error}; /reset begins a new conversation", file=sys.stderr)
            images, videos = [], []


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""

    def work() -> None:
        flags, operands = read_flags(Flags, arguments, COMMAND)
        place = open_place(flags.checkpoint)
        with jax.set_mesh(mesh_for(place.model)):
            answerer = open_answerer(place, flags, lambda line: print(line, file=sys.stderr, flush=True))
            if operands:
                answer(answerer, Conversation(place.pictures, flags.system), flags, " ".join(operands), flags.image, flags.video)
            else:
                print(HELP, file=sys.stderr)
                talk(answerer, place.pictures, flags, _lines())

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
