"""Generates examples with one image, of the families count, colour, shape, reading, left_right, nearer and distance."""

from __future__ import annotations

from collections import Counter
from random import Random

from data_pipelines.scenes.layout import (
    COLOURS,
    LARGE_GRIDS,
    LETTERS,
    PLURALS,
    SHAPES,
    SMALL_GRIDS,
    Example,
    Question,
    Scene,
    Thing,
    cells,
    make_scene,
    scene_layout,
    thing_at,
)

MOST_COUNTED = 3
TRACK_COLUMNS = 5


def join(names: list[str]) -> str:
    """Writes names as a list in words: "A red circle, a blue square and a green cross"."""
    phrases = [f"{'a' if place else 'A'} {name}" for place, name in enumerate(names)]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def captions(random: Random, things: tuple[Thing, ...], kind: str = "shape") -> tuple[tuple[str, str], ...]:
    """Returns (prompt, answer) pairs that describe all things: in reading order, and in random order by shape or colour if all differ in it.

    In random order, each shape or colour in the answer acts as a question about the next word, so one picture gives many answers.
    """
    prompts = [("Describe the image.", f"{join([thing.name for thing in things])}.")]
    shuffled = random.sample(things, len(things))
    if len({thing.shape for thing in things}) == len(things):
        prompts.append((f"What colour is each {kind}?", f"{', '.join(f'{thing.shape} {thing.colour}' for thing in shuffled)}."))
    if len({thing.colour for thing in things}) == len(things):
        prompts.append((f"Which {kind} is each colour?", f"{', '.join(f'{thing.colour} {thing.shape}' for thing in shuffled)}."))
    return tuple(prompts)


def distinct_things(random: Random, grid: tuple[int, int], count: int) -> list[Thing]:
    """Returns things with different shapes and different colours in different cells."""
    places = random.sample(cells(random, grid, count), count)
    kinds = zip(random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), places, strict=True)
    return [thing_at(random, shape, colour, place) for shape, colour, place in kinds]


def count_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Returns questions about the number of things of a kind, one for each count, so that common counts are not asked more often."""
    shapes, colours = Counter(thing.shape for thing in things), Counter(thing.colour for thing in things)
    kinds = [(PLURALS[shape], shapes[shape]) for shape in SHAPES] + [(f"{colour} objects", colours[colour]) for colour in COLOURS]
    by_count: dict[int, list[str]] = {}
    for kind, count in kinds:
        by_count.setdefault(count, []).append(kind)
    chosen = [(random.choice(names), count) for count, names in by_count.items() if count <= MOST_COUNTED]
    if len(things) <= MOST_COUNTED:
        chosen.append(("objects", len(things)))
    templates = ("How many {} are there?", "Count the {}.")
    return [Question("count", random.choice(templates).format(kind), str(count), f"count {kind}") for kind, count in chosen]


def name_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Returns questions about the colour of a thing whose shape is unique, and about the shape of a thing whose colour is unique."""
    shapes, colours = Counter(thing.shape for thing in things), Counter(thing.colour for thing in things)
    questions = []
    for place, thing in enumerate(things):
        if shapes[thing.shape] == 1:
            text = random.choice(("What colour is the {}?", "Name the colour of the {}."))
            questions.append(Question("colour", text.format(thing.shape), thing.colour, f"thing {place}"))
        if colours[thing.colour] == 1:
            text = random.choice(("Which shape is {}?", "Name the {} shape."))
            questions.append(Question("shape", text.format(thing.colour), thing.shape, f"thing {place}"))
    return questions


def side_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Returns questions about the thing furthest left or right, and about the relative side of two things. Things must differ in shape and colour."""
    questions = []
    ordered = sorted(things, key=lambda thing: thing.column)
    for side, extreme, next_one in (("left", ordered[0], ordered[1]), ("right", ordered[-1], ordered[-2])):
        if extreme.column == next_one.column:
            continue
        kind, answer = random.choice((("colour", extreme.colour), ("shape", extreme.shape)))
        text = random.choice(("Which {} is furthest {}?", "What {} is on the far {}?"))
        questions.append(Question("left_right", text.format(kind, side), answer, f"far {side}"))
    first, second = random.sample(things, 2)
    if first.column != second.column and random.random() < 0.5:
        side = "left" if first.column < second.column else "right"
        text = f"Is the {first.shape} left or right of the {second.shape}?"
        questions.append(Question("left_right", text, side, f"side {first.shape}"))
    return questions


def image_example(scene: Scene, questions: list[Question], prompts: tuple[tuple[str, str], ...]) -> Example:
    return Example(scene_layout(scene), tuple(questions), images=(scene,), captions=prompts)


def crowd(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """Several things of one kind among others, for counting. Each count from 0 to MOST_COUNTED is equally likely."""
    grid = random.choice(grids)
    alike = random.randint(0, MOST_COUNTED)
    others = random.randint(0 if alike else 1, min(2, grid[0] * grid[1] - alike))
    by_shape = random.random() < 0.6
    kinds = SHAPES if by_shape else tuple(COLOURS)
    focus = random.choice(kinds)
    rest = [kind for kind in kinds if kind != focus]
    chosen = [focus] * alike + [random.choice(rest) for _ in range(others)]
    random.shuffle(chosen)
    free = tuple(COLOURS) if by_shape else SHAPES
    things = []
    for kind, place in zip(chosen, cells(random, grid, len(chosen)), strict=True):
        shape, colour = (kind, random.choice(free)) if by_shape else (random.choice(free), kind)
        things.append(thing_at(random, shape, colour, place))
    scene = make_scene(random, grid, things)
    return image_example(scene, count_questions(random, scene.things), captions(random, scene.things))


def distinct(random: Random, grids: tuple[tuple[int, int], ...], counts: tuple[int, ...] = (2, 3, 3, 4)) -> Example:
    """Things that all differ in colour and shape, for questions about colour and shape."""
    grid = random.choice(grids)
    scene = make_scene(random, grid, distinct_things(random, grid, random.choice(counts)))
    return image_example(scene, name_questions(random, scene.things), captions(random, scene.things))


def sides(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """Two or three things in different columns."""
    grid = random.choice([grid for grid in grids if grid[1] > 1])
    columns = random.sample(range(grid[1]), min(random.choice((2, 2, 3)), grid[1]))
    kinds = zip(random.sample(SHAPES, len(columns)), random.sample(tuple(COLOURS), len(columns)), columns, strict=True)
    things = [thing_at(random, shape, colour, (random.randrange(grid[0]), column)) for shape, colour, column in kinds]
    scene = make_scene(random, grid, things)
    return image_example(scene, side_questions(random, scene.things), captions(random, scene.things))


def reading(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """One or two printed letters in a row, each with its own colour."""
    count = random.choice((1, 2, 2))
    grid = random.choice([grid for grid in grids if grid[1] >= count])
    row, start = random.randrange(grid[0]), random.randint(0, grid[1] - count)
    kinds = zip(random.sample(LETTERS, count), random.sample(tuple(COLOURS), count), strict=True)
    things = [thing_at(random, *kind, (row, start + place)) for place, kind in enumerate(kinds)]
    scene = make_scene(random, grid, things)
    text = " ".join(thing.shape for thing in scene.things)
    questions = [Question("reading", random.choice(("What is written?", "Read the letters.")), text, "text")]
    for place, thing in enumerate(scene.things):
        question = random.choice(("Which letter is {}?", "What is the {} letter?")).format(thing.colour)
        questions.append(Question("reading", question, thing.shape, f"letter {place}"))
    return image_example(scene, questions, captions(random, scene.things, "letter"))


def ground(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """A plane seen from above: nearer things are lower in the picture and larger."""
    grid = random.choice([grid for grid in grids if grid[0] > 1])
    count = random.randint(2, min(3, grid[0]))
    rows = sorted(random.sample(range(grid[0]), count))
    things = []
    for row, shape, colour in zip(rows, random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), strict=True):
        size = 0.56 + 0.34 * row / (grid[0] - 1) + random.uniform(-0.03, 0.03)
        things.append(thing_at(random, shape, colour, (row, random.randrange(grid[1])), size))
    scene = make_scene(random, grid, things, ground=True)
    questions = []
    for word, thing in (("nearest", scene.things[-1]), ("farthest", scene.things[0])):
        kind, answer = random.choice((("colour", thing.colour), ("shape", thing.shape)))
        text = random.choice(("Which {} is {}?", "What {} is {}?")).format(kind, word)
        questions.append(Question("nearer", text, answer, word))
    return image_example(scene, questions, captions(random, scene.things))


def track(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """A wall at the left end of a strip, and things at whole numbers of steps from it."""
    grid = (random.choice((1, 2)) if grids is SMALL_GRIDS else 3, TRACK_COLUMNS)
    count = random.choice((1, 1, 2)) if grid[0] == 1 else random.randint(1, 2)
    steps = random.sample(range(1, min(grid[1], 5)), count)
    things = [thing_at(random, "wall", "grey", (0, 0))]
    for step, shape, colour in zip(steps, random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), strict=True):
        things.append(thing_at(random, shape, colour, (random.randrange(grid[0]), step)))
    scene = make_scene(random, grid, things)
    objects = tuple(thing for thing in scene.things if thing.shape != "wall")
    questions = []
    for step, thing in zip(steps, things[1:], strict=True):
        text = random.choice(("How many steps from the wall to the {}?", "How far is the {} from the wall?")).format(thing.shape)
        questions.append(Question("distance", text, str(step), f"step {thing.shape}"))
    return image_example(scene, questions, captions(random, objects))


def caption_image(random: Random) -> Example:
    """A single thing, which can be named without being located, as often as several things."""
    return distinct(random, SMALL_GRIDS, (1, 1, 2, 3))


def small_image(random: Random) -> Example:
    return random.choices((crowd, distinct, sides, reading, ground, track), (5, 3, 6, 2, 3, 5))[0](random, SMALL_GRIDS)


def large_image(random: Random) -> Example:
    return random.choices((crowd, distinct, sides, reading, ground, track), (5, 3, 6, 2, 3, 5))[0](random, LARGE_GRIDS)
