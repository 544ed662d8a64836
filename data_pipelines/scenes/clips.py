"""Generates examples with a video: direction of motion, order of events, second at which something appears.

Frames are sampled at one a second or more, at evenly spaced inner points of a clip. Two sampled frames are less than a second apart. So every
stage of more than a second is sampled, and the time of the first frame that shows a thing, in whole seconds, is the second of its appearance.
"""

from __future__ import annotations

import dataclasses
from random import Random

from data_pipelines.scenes.images import distinct_things
from data_pipelines.scenes.layout import COLOURS, SHAPES, Example, Question, Scene, Thing, make_scene, scene_layout, thing_at

RATE = 4  # frames a second
SECONDS = 4  # duration of every clip
CROSSING = 6  # frames that a thing takes from one side to the other; some of them are sampled
STILL_SHARE = 0.2
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


def _example(kind: str, frames: list[Scene], questions: list[Question]) -> Example:
    layouts = [scene_layout(frame) for frame in frames]
    changes = [f"{place} {layout}" for place, layout in enumerate(layouts) if place == 0 or layout != layouts[place - 1]]
    return Example(f"{kind} {len(frames)} {' > '.join(changes)}", tuple(questions), frames=tuple(frames))


def _frames(scene: Scene, moments: list[list[Thing]]) -> list[Scene]:
    """Returns the frames: the scene's background with the things of each moment."""
    return [dataclasses.replace(scene, things=tuple(things)) for things in moments]


def motion(random: Random) -> Example:
    """One thing rests at one side, crosses the picture and rests at the other; some clips contain a second thing that does not move."""
    side = random.choice((2, 2, 3))
    direction = random.choice(tuple(STEPS))
    down, right = STEPS[direction]
    first, last = (0, side - 1) if down + right > 0 else (side - 1, 0)
    lane = random.randrange(side)
    start, end = ((first, lane), (last, lane)) if down else ((lane, first), (lane, last))
    shapes, colours = random.sample(SHAPES, 2), random.sample(tuple(COLOURS), 2)
    moving = thing_at(random, shapes[0], colours[0], start)
    other_lane = random.choice([other for other in range(side) if other != lane])
    place = (random.randrange(side), other_lane) if down else (other_lane, random.randrange(side))
    rest = [thing_at(random, shapes[1], colours[1], place)] if random.random() < STILL_SHARE else []
    crossing = random.randint(RATE, SECONDS * RATE - RATE - CROSSING)  # sampled at rest before and after, even at 1 frame/s
    moments = []
    for frame in range(SECONDS * RATE):
        share = min(1.0, max(0.0, (frame - crossing) / CROSSING))
        cell = [begin + share * (finish - begin) for begin, finish in zip(start, end, strict=True)]
        moments.append([dataclasses.replace(moving, row=cell[0], column=cell[1]), *rest])
    frames = _frames(make_scene(random, (side, side), [], exact=True), moments)
    text = random.choice(("Which way does the {} move?", "Where does the {} go?"))
    return _example("motion", frames, [Question("motion", text.format(random.choice((moving.shape, moving.name))), direction, "direction")])


def order(random: Random) -> Example:
    """Two or three things shown one after the other, each for more than a second."""
    count = random.choice((2, 2, 3))
    side = 2
    things = distinct_things(random, (side, side), count)
    length = SECONDS * RATE
    cuts = [0, *([random.randint(6, 10)] if count == 2 else [random.choice((5, 6)), random.choice((10, 11))]), length]
    moments = [[thing] for thing, start, end in zip(things, cuts[:-1], cuts[1:], strict=True) for _ in range(end - start)]
    frames = _frames(make_scene(random, (side, side), [], exact=True), moments)
    questions = []
    named = [("first", things[0]), ("last", things[-1])] + ([("second", things[1])] if count == 3 else [])
    for word, thing in named:
        kind, answer = random.choice((("colour", thing.colour), ("shape", thing.shape)))
        text = random.choice(("Which {} appears {}?", "What {} comes {}?"))
        questions.append(Question("order", text.format(kind, word), answer, word))
    return _example("order", frames, questions)


def time(random: Random) -> Example:
    """One or two things appear, each at a whole second (0 is the start of the clip), and remain."""
    side = 2
    count = random.choice((1, 1, 2))
    things = distinct_things(random, (side, side), count)
    starts = random.sample(range(SECONDS), count)
    moments = [[thing for thing, start in zip(things, starts, strict=True) if frame >= start * RATE] for frame in range(SECONDS * RATE)]
    frames = _frames(make_scene(random, (side, side), [], exact=True), moments)
    questions = []
    for thing, start in zip(things, starts, strict=True):
        text = random.choice(("At which second does the {} appear?", "When does the {} appear?"))
        questions.append(Question("time", text.format(random.choice((thing.shape, thing.name))), str(start), f"start {thing.shape}"))
    return _example("time", frames, questions)


def clip(random: Random) -> Example:
    return random.choices((motion, order, time), (5, 2, 2))[0](random)
