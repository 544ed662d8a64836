"""Examples of several images: what differs between them."""

from __future__ import annotations

import dataclasses
from random import Random

from data_pipelines.scenes.images import distinct_things
from data_pipelines.scenes.layout import COLOURS, SHAPES, Example, Question, Scene, Thing, make_scene, scene_layout, thing_at

GRIDS = ((2, 2), (1, 2), (2, 1), (2, 3))
ORDINALS = ("first", "second", "third")


def _example(scenes: list[Scene], questions: list[Question], caption: str) -> Example:
    return Example(" | ".join(scene_layout(scene) for scene in scenes), tuple(questions), images=tuple(scenes), caption=caption)


def _caption(scenes: list[Scene]) -> str:
    lines = [f"{ORDINALS[place]} image: {', '.join(thing.name for thing in scene.things)}" for place, scene in enumerate(scenes)]
    return ". ".join(lines).capitalize() + "."


def where(random: Random) -> Example:
    """Three images of different single things: which one shows what."""
    grid = random.choice(GRIDS)
    scenes = []
    for shape, colour in zip(random.sample(SHAPES, 3), random.sample(tuple(COLOURS), 3), strict=True):
        cell = (random.randrange(grid[0]), random.randrange(grid[1]))
        scenes.append(make_scene(random, grid, [thing_at(random, shape, colour, cell)]))
    questions = []
    for place, thing in enumerate(scene.things[0] for scene in scenes):
        text = random.choice(("Which image has the {}?", "In which image is the {}?")).format(random.choice((thing.shape, thing.name)))
        questions.append(Question("difference", text, ORDINALS[place], f"image {place}"))
        kind, answer = random.choice((("colour", thing.colour), ("shape", thing.shape)))
        questions.append(Question("difference", f"Which {kind} is in the {ORDINALS[place]} image?", answer, f"image {place}"))
    return _example(scenes, questions, _caption(scenes))


def odd(random: Random) -> Example:
    """Three images of single things, two alike: which one is different, and in what it differs."""
    grid = random.choice(GRIDS)
    shape, colour = random.choice(SHAPES), random.choice(tuple(COLOURS))
    by_shape = random.random() < 0.5
    other = random.choice([kind for kind in (SHAPES if by_shape else COLOURS) if kind not in (shape, colour)])
    different = random.randrange(3)
    scenes = []
    for place in range(3):
        kind = ((other, colour) if by_shape else (shape, other)) if place == different else (shape, colour)
        cell = (random.randrange(grid[0]), random.randrange(grid[1]))
        scenes.append(make_scene(random, grid, [thing_at(random, *kind, cell)]))
    text = random.choice(("Which image is different?", "Which image is not like the others?"))
    what = random.choice(("Is the difference in colour or shape?", "What differs, colour or shape?"))
    questions = [
        Question("difference", text, ORDINALS[different], "odd"),
        Question("difference", what, "shape" if by_shape else "colour", "kind"),
        Question("difference", f"Which {'shape' if by_shape else 'colour'} is in one image only?", other, "other"),
    ]
    return _example(scenes, questions, _caption(scenes))


def change(random: Random) -> Example:
    """The same scene twice, one thing with another colour."""
    grid = random.choice(GRIDS)
    things = distinct_things(random, grid, random.randint(1, 2))
    place = random.randrange(len(things))
    before = things[place]
    colour = random.choice([colour for colour in COLOURS if colour not in {thing.colour for thing in things}])
    after: list[Thing] = list(things)
    after[place] = dataclasses.replace(before, colour=colour)
    first = make_scene(random, grid, things)
    second = dataclasses.replace(first, things=make_scene(random, grid, after).things, noise=random.randrange(1 << 30))
    new = random.choice(("Which colour is new in the second image?", "Which colour is only in the second image?"))
    old = random.choice(("Which colour is gone in the second image?", "Which colour is only in the first image?"))
    which = random.choice(("Which shape has another colour in the second image?", "Which shape changed its colour?"))
    questions = [
        Question("difference", new, colour, "new"),
        Question("difference", old, before.colour, "old"),
        Question("difference", which, before.shape, "shape"),
    ]
    return _example([first, second], questions, _caption([first, second]))


def several_images(random: Random) -> Example:
    return random.choices((where, odd, change), (4, 3, 3))[0](random)
