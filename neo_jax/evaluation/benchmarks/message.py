"""The prompt of a benchmark's row: texts and pictures in order, and how the official kit's two wrappers lay them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipelines.schema import Turn
from data_pipelines.text.marks import IMAGE_MARK, as_words

Pixels = npt.NDArray[np.uint8]
MARK = "<image>"  # of a picture in a question
AFTER_IMAGE = "\n"  # what stands behind every picture


class Picture(Protocol):
    """A picture of a row."""

    @property
    def format(self) -> str:
        """Format of the file that the model's wrapper opens: "JPEG" or "PNG"."""

    def size(self) -> tuple[int, int]:
        """Returns (height, width) of the file that the model's wrapper opens."""

    def shown_size(self) -> tuple[int, int]:
        """Returns (height, width) of `pixels`, without decoding them."""

    def pixels(self) -> Pixels:
        """Returns [H, W, 3] what is then resized for the model."""


Part = str | Picture


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question as the model gets it.

    Attributes:
      system: text of the system turn; "": there is none.
      parts: texts and pictures of the user's turn, in order.
      message: the same before the wrapper laid it out.
    """

    system: str
    parts: tuple[Part, ...]
    message: tuple[Part, ...]

    @property
    def pictures(self) -> list[Picture]:
        """The pictures in order."""
        return [part for part in self.parts if not isinstance(part, str)]

    def turns(self) -> tuple[Turn, ...]:
        """Returns the turns, with a mark at the place of each picture."""
        text = "".join(as_words(part) if isinstance(part, str) else IMAGE_MARK for part in self.parts)
        opening = (Turn("system", as_words(self.system)),) if self.system else ()
        return (*opening, Turn("user", text))

    def written(self) -> str:
        """Returns the whole prompt as text, `<img></img>` at the place of each picture."""
        user = "".join(part if isinstance(part, str) else "<img></img>" for part in self.parts)
        opening = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        return f"{opening}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def text_of(message: Sequence[Part]) -> str:
    """Returns the texts of a message, one behind the other."""
    return "".join(part for part in message if isinstance(part, str))


def pictures_of(message: Sequence[Part]) -> list[Picture]:
    """Returns the pictures of a message, in order."""
    return [part for part in message if not isinstance(part, str)]


def picture_first(message: Sequence[Part]) -> list[Part]:
    """Lays out the one picture before the texts, each on its line."""
    (picture,) = pictures_of(message)
    return [picture, AFTER_IMAGE, "\n".join(part for part in message if isinstance(part, str))]


def pictures_last(message: Sequence[Part]) -> list[Part]:
    """Lays out the one picture before the text, or several behind it, directly at its end."""
    if len(pictures_of(message)) == 1:
        return picture_first(message)
    return [text_of(message), *(part for picture in pictures_of(message) for part in (picture, AFTER_IMAGE))]


def pictures_numbered(message: Sequence[Part]) -> list[Part]:
    """Lays out the one picture before the text; or several, numbered `Image-k: `, with references `<Image-k>` at their places in the text.

    References that stand next to each other in full sequence are left out.
    """
    if len(pictures_of(message)) == 1:
        return picture_first(message)
    numbered, text = _numbered(message, "Image-{}: ")
    return [*numbered, text.replace("".join(f"<Image-{number + 1}>" for number in range(len(pictures_of(message)))), "")]


def pictures_in_brackets(message: Sequence[Part]) -> list[Part]:
    """Lays out all pictures, numbered `<Image-k>: `, before the text with their references at their places."""
    numbered, text = _numbered(message, "<Image-{}>: ")
    return [*numbered, text]


def in_place(message: Sequence[Part]) -> list[Part]:
    """Lays out texts and pictures as they are, a newline behind each picture."""
    return [each for part in message for each in ((part,) if isinstance(part, str) else (part, AFTER_IMAGE))]


def _numbered(message: Sequence[Part], label: str) -> tuple[list[Part], str]:
    numbers = iter(range(1, len(message) + 1))
    text = "".join(part if isinstance(part, str) else f"<Image-{next(numbers)}>" for part in message)
    pictures = enumerate(pictures_of(message), 1)
    return [part for number, picture in pictures for part in (label.format(number), picture, AFTER_IMAGE)], text


def at_marks(text: str, pictures: Sequence[Picture], strict: bool) -> Iterator[Part]:
    """Yields a text divided at its marks `<image>`, a picture for each; texts without surrounding blanks. Without marks, the pictures come first.

    Args:
      strict: refuses marks that are not as many as the pictures; else pictures without a mark are left out, and marks without a picture.

    Raises ValueError if there are marks, but not as many as pictures.
    """
    texts = text.split(MARK)
    if len(texts) == 1:
        texts = [*[""] * len(pictures), text]
    if strict and len(texts) != len(pictures) + 1:
        raise ValueError(f"has {len(texts) - 1} marks {MARK} for {len(pictures)} pictures: write one for each")
    for number, each in enumerate(texts):
        if each.strip():
            yield each.strip()
        if number < len(texts) - 1 and number < len(pictures):
            yield pictures[number]


def behind_texts(text: str, pictures: Sequence[Picture]) -> Iterator[Part]:
    """Yields a text divided at its marks `<image>`, with a picture behind each part, the last one too, while there are any; the rest is left out."""
    for number, each in enumerate(text.split(MARK)):
        if each.strip():
            yield each.strip()
        if number < len(pictures):
            yield pictures[number]
