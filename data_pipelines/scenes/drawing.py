"""Renders scenes to pixels: anti-aliased masks are blended onto a tinted, noisy background."""

from __future__ import annotations

import dataclasses
import functools
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.scenes.layout import COLOURS, LETTERS, Scene, Thing

WALL = (120, 120, 126)
OVERSAMPLING = 4
NOISE_SIDE = 512
MOST_SIDE = 200  # largest height and width of a scene in pixels
NOISE_AMPLITUDE = 3  # standard deviation, on the scale 0 to 255


@functools.cache
def _noise() -> np.ndarray:
    return np.rint(np.random.default_rng(0).normal(0, NOISE_AMPLITUDE, (NOISE_SIDE, 3 * NOISE_SIDE))).astype(np.int16)


@functools.cache
def _mask(shape: str, size: int) -> np.ndarray:
    """Returns the coverage of a shape or letter in a square of `size` pixels: [size, size, 3] float32, 0 to 1."""
    side = size * OVERSAMPLING
    image = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(image)
    end = side - 1
    if shape == "circle":
        canvas.ellipse((0, 0, end, end), fill=255)
    elif shape == "square":
        canvas.rectangle((0.06 * side, 0.06 * side, 0.94 * end, 0.94 * end), fill=255)
    elif shape == "triangle":
        canvas.polygon(((end / 2, 0), (end, 0.94 * end), (0, 0.94 * end)), fill=255)
    elif shape == "cross":
        canvas.rectangle((0.34 * side, 0, 0.66 * side, end), fill=255)
        canvas.rectangle((0, 0.34 * side, end, 0.66 * side), fill=255)
    elif shape in LETTERS:
        font = ImageFont.load_default(1.3 * side)
        canvas.text((side / 2, side / 2), shape, fill=255, font=font, anchor="mm", stroke_width=side / 40)
    else:
        raise ValueError(f"no drawing for the shape {shape!r}")
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.repeat(np.asarray(small, np.float32)[..., None] / 255, 3, axis=2)


def _place(pixels: np.ndarray, scene: Scene, thing: Thing, colour: np.ndarray) -> None:
    cell_height, cell_width = scene.height / scene.rows, scene.width / scene.columns
    if thing.shape == "wall":
        pixels[:, round(thing.column * cell_width) + 4 : round((thing.column + 1) * cell_width) - 4] = colour
        return
    side = min(cell_height, cell_width)
    size = min(round(thing.size * side), int(side) - 2)
    top = (thing.row + 0.5) * cell_height - size / 2 + thing.offset[0] * (cell_height - size - 2) / 2
    left = (thing.column + 0.5) * cell_width - size / 2 + thing.offset[1] * (cell_width - size - 2) / 2
    top, left = (int(min(max(round(start), 0), limit - size)) for start, limit in ((top, scene.height), (left, scene.width)))
    region = pixels[top : top + size, left : left + size]
    region += ((colour - region) * _mask(thing.shape, size)).astype(np.int16)


@functools.lru_cache(maxsize=1)
def _background(empty: Scene) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the pixels of a scene without its things, [height, width, 3] int16, and the scene's shade of each colour."""
    random = Random(empty.noise)
    top, left = random.randrange(NOISE_SIDE - MOST_SIDE), random.randrange(NOISE_SIDE - MOST_SIDE)
    shades = {
        name: np.asarray([channel + random.randint(-12, 12) for channel in colour], np.float32)
        for name, colour in (*COLOURS.items(), ("grey", WALL))
    }
    flat = _noise()[top : top + empty.height, left : left + 3 * empty.width] + np.tile(np.asarray(empty.tint, np.int16), empty.width)
    if empty.ground:
        horizon = empty.height // 8
        light = np.linspace(0.72, 0.9, empty.height - horizon, dtype=np.float32)[:, None]
        flat[horizon:] = flat[horizon:] * (light * np.tile(np.asarray((1.0, 0.97, 0.88), np.float32), empty.width))
    pixels = flat.reshape(empty.height, empty.width, 3)
    return pixels, shades


@functools.lru_cache(maxsize=1)  # consecutive frames of a clip often show the same scene
def render(scene: Scene) -> np.ndarray:
    """Returns the pixels of a scene, [height, width, 3] uint8: a pure function of the scene. Callers must not modify the array, which is cached."""
    background, shades = _background(dataclasses.replace(scene, things=()))
    pixels = background.copy()
    for thing in scene.things:
        _place(pixels, scene, thing, shades[thing.colour])
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
