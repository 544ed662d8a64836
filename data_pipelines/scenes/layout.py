"""Describes the content of a scene before it is drawn: objects on a grid of cells, each about 32 pixels a side.

A layout is a text that identifies a scene except for jitter, tint and noise. A hash of the layout determines whether a scene is held out, so
no held-out layout is ever trained on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from random import Random

CELL = 32  # pixels: a cell is about one visual token
COLOURS = {"red": (215, 38, 38), "green": (30, 150, 62), "blue": (38, 82, 214), "yellow": (246, 196, 20), "black": (24, 24, 28)}
SHAPES = ("circle", "square", "triangle", "cross")
LETTERS = ("A", "E", "H", "L", "T", "X")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
SMALL_GRIDS = ((2, 2), (2, 3), (3, 2), (1, 4), (4, 1))
LARGE_GRIDS = ((3, 3), (3, 4), (4, 3), (4, 4), (3, 5), (5, 3))
OFF_CENTRE = 0.35  # largest offset as a share of the free space around a thing, so that one visual token covers most of it
HELD_OUT_SHARE = 8  # one layout in this number belongs to the held-out split


@dataclasses.dataclass(frozen=True)
class Thing:
    """One drawn object.

    Attributes:
      shape: one of SHAPES, one of LETTERS, or "wall" (fills its column).
      colour: a key of COLOURS, or "grey" for the wall.
      row, column: its cell; fractions between cells while it moves.
      size: its height and width in cells (0.5 is half a cell).
      offset: (down, right) from the cell's centre, as shares of the free space (-1 to 1).
    """

    shape: str
    colour: str
    row: float
    column: float
    size: float = 0.7
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture: things on a grid of rows x columns, in reading order.

    Attributes:
      height, width: pixels; not necessarily multiples of CELL.
      ground: whether it is a view over a plane with a horizon, in which lower and larger means nearer.
      tint: background colour, 0 to 255 per channel.
      noise: seed of the background's noise.
    """

    rows: int
    columns: int
    height: int
    width: int
    things: tuple[Thing, ...]
    ground: bool
    tint: tuple[int, int, int]
    noise: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its only correct answer. If two questions have the same `fact`, each reveals the answer of the other."""

    family: str
    text: str
    answer: str
    fact: str


@dataclasses.dataclass(frozen=True)
class Example:
    """One scene of the corpus and all questions about it.

    Attributes:
      layout: things and their positions without jitter, as text: examples with the same layout show the same scene.
      questions: questions, all about the same media.
      images: the pictures, for image examples.
      frames: the pictures of a clip, for video examples.
      captions: (prompt, answer) pairs that describe everything shown.
      preamble: text before the first question (for scenes described in words), or "".
    """

    layout: str
    questions: tuple[Question, ...]
    images: tuple[Scene, ...] = ()
    frames: tuple[Scene, ...] = ()
    captions: tuple[tuple[str, str], ...] = ()
    preamble: str = ""


def is_held_out(layout: str) -> bool:
    return hashlib.sha256(layout.encode()).digest()[0] % HELD_OUT_SHARE == 0


def scene_layout(scene: Scene) -> str:
    things = ",".join(f"{thing.name}@{thing.row:g}:{thing.column:g}" for thing in scene.things)
    return f"{'ground' if scene.ground else 'plain'} {scene.rows}x{scene.columns} {things}"


def thing_at(random: Random, shape: str, colour: str, cell: tuple[float, float], size: float | None = None) -> Thing:
    offset = (random.uniform(-OFF_CENTRE, OFF_CENTRE), random.uniform(-OFF_CENTRE, OFF_CENTRE))
    return Thing(shape, colour, *cell, random.uniform(0.74, 0.92) if size is None else size, offset)


def cells(random: Random, grid: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Returns `count` different cells of the grid, in reading order."""
    return sorted(random.sample([(row, column) for row in range(grid[0]) for column in range(grid[1])], count))


def make_scene(random: Random, grid: tuple[int, int], things: list[Thing], ground: bool = False, exact: bool = False) -> Scene:
    """Returns a scene of the things with a random size and background. `exact` keeps the sides multiples of CELL (as codecs need)."""
    spread = 0 if exact else 6
    height, width = (CELL * cells + random.randint(-spread, spread) for cells in grid)
    base = random.randint(206, 240)
    tint = (base + random.randint(-12, 12), base + random.randint(-12, 12), base + random.randint(-12, 12))
    ordered = tuple(sorted(things, key=lambda thing: (thing.row, thing.column)))
    return Scene(*grid, height, width, ordered, ground, tint, random.randrange(1 << 30))
