"""Generates examples of scenes described in words, with the same questions as for pictures. From these a language model learns the vocabulary,
the forms of question and answer, counting and comparing before it is trained on images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

from data_pipelines.scenes.clips import SECONDS
from data_pipelines.scenes.images import captions, count_questions, crowd, distinct, name_questions
from data_pipelines.scenes.layout import COLOURS, LETTERS, SHAPES, SMALL_GRIDS, Example, Question, Scene, Thing

SIDES = {
    "left": ("right", "middle", "left"),
    "right": ("left", "middle", "right"),
    "up": ("bottom", "middle", "top"),
    "down": ("top", "middle", "bottom"),
}


def _example(preamble: str, questions: list[Question], prompts: tuple[tuple[str, str], ...] = ()) -> Example:
    asked = tuple(dataclasses.replace(question, family="text") for question in questions)
    return Example(f"text {preamble}", asked, preamble=preamble, captions=prompts)


def _names(random: Random, count: int) -> list[tuple[str, str]]:
    return list(zip(random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), strict=True))


def _clip_text(frames: list[tuple[float, str]]) -> str:
    """Describes frames in words, with the same opening sentence and time marks as for a video's frames."""
    opening = (
        f"The time range of this video is [00:00-00:{SECONDS:02d}], and the following is a series of {len(frames)} frames"
        f" sampled at {len(frames) / SECONDS:.1f} FPS.\n"
    )
    return opening + "\n".join(f"[00:{moment:05.2f}]:{text}" for moment, text in frames)


def _moments(random: Random) -> list[float]:
    count = random.randint(SECONDS, SECONDS + 2)
    return [SECONDS * (place + 1) / (count + 1) for place in range(count)]


def _told(random: Random, scene: Scene, ask: Callable[[Random, tuple[Thing, ...]], list[Question]]) -> Example:
    preamble = "The image: " + ", ".join(thing.name for thing in scene.things) + "."
    return _example(preamble, ask(random, scene.things), captions(random, scene.things))


def told(random: Random) -> Example:
    return _told(random, distinct(random, SMALL_GRIDS, (1, 1, 2, 3, 4)).images[0], name_questions)


def told_crowd(random: Random) -> Example:
    return _told(random, crowd(random, SMALL_GRIDS).images[0], count_questions)


def in_a_row(random: Random) -> Example:
    names = _names(random, random.randint(2, 4))
    preamble = "From left to right: " + ", ".join(f"{colour} {shape}" for shape, colour in names) + "."
    questions = []
    for side, place in (("left", 0), ("right", -1)):
        kind = random.choice((0, 1))
        text = random.choice(("Which {} is furthest {}?", "What {} is on the far {}?")).format(("shape", "colour")[kind], side)
        questions.append(Question("", text, names[place][kind], side))
    first, second = random.sample(range(len(names)), 2)
    text = f"Is the {names[first][0]} left or right of the {names[second][0]}?"
    questions.append(Question("", text, "left" if first < second else "right", "side"))
    return _example(preamble, questions)


def from_far(random: Random) -> Example:
    names = _names(random, random.randint(2, 3))
    preamble = "From far to near: " + ", ".join(f"{colour} {shape}" for shape, colour in names) + "."
    questions = []
    for word, place in (("farthest", 0), ("nearest", -1)):
        kind = random.choice((0, 1))
        text = random.choice(("Which {} is {}?", "What {} is {}?")).format(("shape", "colour")[kind], word)
        questions.append(Question("", text, names[place][kind], word))
    return _example(preamble, questions)


def on_a_track(random: Random) -> Example:
    names = _names(random, random.randint(1, 3))
    steps = random.sample(range(1, 5), len(names))
    preamble = " ".join(f"The {colour} {shape} is {step} steps from the wall." for (shape, colour), step in zip(names, steps, strict=True))
    templates = ("How many steps from the wall to the {}?", "How far is the {} from the wall?")
    questions = [
        Question("", random.choice(templates).format(shape), str(step), shape) for (shape, _), step in zip(names, steps, strict=True)
    ]
    return _example(preamble, questions)


def letters(random: Random) -> Example:
    names = random.sample(LETTERS, random.randint(1, 3))
    colours = random.sample(tuple(COLOURS), len(names))
    preamble = "The letters: " + ", ".join(f"{colour} {letter}" for letter, colour in zip(names, colours, strict=True)) + "."
    questions = [Question("", random.choice(("What is written?", "Read the letters.")), " ".join(names), "text")]
    for letter, colour in zip(names, colours, strict=True):
        questions.append(Question("", random.choice(("Which letter is {}?", "What is the {} letter?")).format(colour), letter, letter))
        questions.append(Question("", f"What colour is the letter {letter}?", colour, letter))
    return _example(preamble, questions)


def pictures(random: Random) -> Example:
    names = _names(random, 3)
    preamble = " ".join(f"Image {number}: {colour} {shape}." for number, (shape, colour) in enumerate(names, 1))
    questions = []
    for number, (shape, colour) in enumerate(names, 1):
        text = random.choice(("Which image has the {}?", "In which image is the {}?")).format(random.choice((shape, f"{colour} {shape}")))
        questions.append(Question("", text, str(number), f"image {number}"))
        questions.append(Question("", f"Which shape is in image {number}?", shape, f"image {number}"))
    return _example(preamble, questions)


def moving(random: Random) -> Example:
    shape, colour = random.choice(SHAPES), random.choice(tuple(COLOURS))
    direction = random.choice(tuple(SIDES))
    moments = _moments(random)
    frames = [(moment, SIDES[direction][min(2, int(3 * moment / SECONDS))]) for moment in moments]
    text = random.choice(("Which way does the {} move?", "In which direction does the {} move?", "Where does the {} go?"))
    questions = [
        Question("", text.format(shape), direction, "direction"),
        Question("", f"What colour is the {shape}?", colour, "colour"),
    ]
    return _example(f"A {colour} {shape} moves.\n{_clip_text(frames)}", questions)


def one_by_one(random: Random) -> Example:
    names = _names(random, random.randint(2, 3))
    moments = _moments(random)
    frames = [(moment, " ".join(reversed(names[int(moment / SECONDS * len(names))]))) for moment in moments]
    questions = []
    for word, place in (("first", 0), ("last", -1), *((("second", 1),) if len(names) == 3 else ())):
        kind = random.choice((0, 1))
        text = random.choice(("Which {} appears {}?", "What {} comes {}?")).format(("shape", "colour")[kind], word)
        questions.append(Question("", text, names[place][kind], word))
    return _example(_clip_text(frames), questions)


def appearing(random: Random) -> Example:
    names = _names(random, random.randint(1, 2))
    starts = random.sample(range(SECONDS), len(names))
    frames = []
    for moment in _moments(random):
        seen = [f"{colour} {shape}" for (shape, colour), start in zip(names, starts, strict=True) if moment >= start]
        frames.append((moment, ", ".join(seen) or "nothing"))
    templates = ("At which second does the {} appear?", "When does the {} appear?")
    questions = [
        Question("", random.choice(templates).format(shape), str(start), shape) for (shape, _), start in zip(names, starts, strict=True)
    ]
    return _example(_clip_text(frames), questions)


def text(random: Random) -> Example:
    kinds = (told, told_crowd, in_a_row, from_far, on_a_track, letters, pictures, moving, one_by_one, appearing)
    return random.choices(kinds, (12, 2, 1, 1, 1, 2, 2, 1, 1, 1))[0](random)
