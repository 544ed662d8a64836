"""Generates examples with several images and questions about their differences."""

from __future__ import annotations

import dataclasses
from random import Random

from data_pipelines.scenes.images import distinct_things
from data_pipelines.scenes.layout import COLOURS, SHAPES, Example, Question, Scene, Thing, make_scene, scene_layout, thing_at

GRIDS = ((2, 2), (1, 2), (2, 1), (1, 1))


def _example(scenes: list[Scene], questions: list[Question]) -> Example:
    lines = [f"Image {number}: {', '.join(thing.name for thing in scene.things)}." for number, scene in enumerate(scenes, 1)]
    captions = (("Describe the images.", " ".join(lines)),)
    return Example(" | ".join(scene_layout(scene) for scene in scenes), tuple(questions), images=tuple(scenes), captions=captions)


def where(random: Random) -> Example:
    """Three images, each of one thing, all different, with questions about which image shows which thing."""
    grid = random.choice(GRIDS)
    scenes = []
    for shape, colour in zip(random.sample(SHAPES, 3), random.sample(tuple(COLOURS), 3), strict=True):
        cell = (random.randrange(grid[0]), random.randrange(grid[1]))
        scenes.append(make_scene(random, grid, [thing_at(random, shape, colour, cell)]))
    questions = []
    for number, thing in enumerate((scene.things[0] for scene in scenes), 1):
        text = random.choice(("Which image has the {}?", "In which image is the {}?")).format(random.choice((thing.shape, thing.name)))
        questions.append(Question("difference", text, str(number), f"image {number}"))
        kind, answer = random.choice((("colour", thing.colour), ("shape", thing.shape)))
        questions.append(Question("difference", f"Which {kind} is in image {number}?", answer, f"image {number}"))
    return _example(scenes, questions)


def change(random: Random) -> Example:
    """Two images of the same scene in which one thing changes its colour."""
    grid = random.choice(GRIDS)
    things = distinct_things(random, grid, random.randint(1, min(2, grid[0] * grid[1])))
    place = random.randrange(len(things))
    before = things[place]
    colour = random.choice([colour for colour in COLOURS if colour not in {thing.colour for thing in things}])
    after: list[Thing] = list(things)
    after[place] = dataclasses.replace(before, colour=colour)
    first = make_scene(random, grid, things)
    second = dataclasses.replace(first, things=make_scene(random, grid, after).things, noise=random.randrange(1 << 30))
    questions = [
        Question("difference", "Which colour is only in image 2?", colour, "new"),
        Question("difference", "Which colour is only in image 1?", before.colour, "old"),
        Question("difference", "Which shape has another colour in image 2?", before.shape, "shape"),
    ]
    return _example([first, second], questions)


def several_images(random: Random) -> Example:
    return random.choice((where, change))(random)
