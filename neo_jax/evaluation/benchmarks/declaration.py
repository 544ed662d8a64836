"""What a benchmark is: how a row becomes a prompt, with which pictures and frames, and how answers are scored."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks.answers import Said
from neo_jax.evaluation.benchmarks.films import Choice, Film, open_film
from neo_jax.evaluation.benchmarks.message import Part, Prompt
from neo_jax.evaluation.benchmarks.pictures import Pictures, StoredPicture, inside
from neo_jax.evaluation.benchmarks.rows import Row


class Scored(NamedTuple):
    """The scores of all rows of a benchmark.

    Attributes:
      rows: of each row, the fields that the official kit writes.
      values: of each row from 0 to 1; None: it counts within another row's (a rotation of MMBench's questions).
      aggregate: the table as the official kit returns it.
      overall: the score that is published, in per cent.
    """

    rows: list[dict[str, Any]]
    values: list[float | None]
    aggregate: Any
    overall: float


@dataclasses.dataclass(frozen=True)
class Material:
    """What the rows of a benchmark refer to.

    Attributes:
      root: folder of the media.
      quirks: reads media as the official kit does (pictures.Pictures).
      pictures: pictures of the rows.
      variant: the benchmark's variant that is asked for.
    """

    root: pathlib.Path
    quirks: bool
    pictures: Pictures
    variant: Variant

    def film(self, row: Row, name: str, first_doubled: bool = False) -> Film:
        """Opens a row's video and chooses its frames by the variant's rule."""
        return open_film(inside(self.root, name, row.place), row.place, self.variant.frames, self.quirks, first_doubled)

    def images(self, row: Row) -> list[StoredPicture]:
        """Returns the pictures of a row. Raises DataError if it has none."""
        if not (found := self.pictures.of(row)):
            raise DataError(f"{row.place}: has no picture: it needs a column image or image_path")
        return found


def _no_frames(length: object) -> list[int]:
    return []


class Variant(NamedTuple):
    """A benchmark's variant.

    Attributes:
      data: its name in the official kit's scripts.
      frames: which frames of a video are shown.
      shots: number of frames, for rules that depend on the row.
      in_text: whether a picture beside the video stands at its mark in the text.
    """

    data: str
    frames: Choice = _no_frames
    shots: int = 0
    in_text: bool = False


Rows = Sequence[Row]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      name: as the commands take it.
      title: as it is published.
      spatial: whether the official kit asks it through its wrapper for spatial tasks.
      prompt: returns texts and pictures of a row in order.
      layout: places them in the user's turn.
      score: returns the scores, given rows and answers (answers.read_back), and whether quirks of the official kit are kept.
      variants: by the name of the data; the first one is the default.
      pixels: smallest and largest number of pixels of a picture after resizing, in the official kit.
      leave_out: whether a row is left out by the official kit.
      family: column by which rows are grouped in tables; "": none.
    """

    name: str
    title: str
    spatial: bool
    prompt: Callable[[Row, Material], Sequence[Part]]
    layout: Callable[[Sequence[Part]], Sequence[Part]]
    score: Callable[[Rows, Sequence[Said], bool], Scored]
    variants: tuple[Variant, ...]
    pixels: tuple[int, int]
    leave_out: Callable[[Row], bool] = lambda row: False
    family: str = "category"

    def variant(self, data: str = "") -> Variant:
        """Returns a variant by its name; without one the default. Raises DataError if there is none of that name."""
        found = {each.data: each for each in self.variants}
        if data and data not in found:
            raise DataError(f"benchmark {self.name} has no variant {data!r}; it has {', '.join(found)}")
        return found[data] if data else self.variants[0]

    def ask(self, row: Row, material: Material, system: str) -> Prompt:
        """Returns the prompt of a row. Raises DataError or SampleError if the row, or a file that it names, cannot be used."""
        try:
            message = tuple(self.prompt(row, material))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{row.place}: {error}") from error
        return Prompt(system, tuple(self.layout(message)), message)

    def material(self, rows: Rows, root: pathlib.Path, quirks: bool, data: str = "") -> Material:
        """Returns what the rows refer to, given the folder of the media."""
        return Material(root, quirks, Pictures(root, quirks, {row.key: row for row in rows}), self.variant(data))


def mean(values: Sequence[float]) -> float:
    """Returns the mean."""
    return sum(values) / len(values)


def by(rows: Rows, values: Sequence[float], column: str) -> dict[str, list[float]]:
    """Returns the values of rows by the text of a column, in the order of first appearance; rows with an empty cell are left out."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        if row.has(column):
            groups.setdefault(row.text(column), []).append(value)
    return groups


def means(groups: Mapping[str, Sequence[float]], scale: float = 1.0, ending: str = "") -> dict[str, float]:
    """Returns the mean of each group, times `scale`, under its name and `ending`."""
    return {f"{name}{ending}": scale * mean(values) for name, values in groups.items()}
