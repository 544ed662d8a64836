"""Examples of one image: count, colour, shape, reading, left_right, nearer, distance."""

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

MOST_COUNTED = 4


def join(names: list[str]) -> str:
    """A list in words: "a red circle, a blue square and a green cross"."""
    phrases = [f"a {name}" for name in names]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def describe(things: tuple[Thing, ...]) -> str:
    return f"{join([thing.name for thing in things]).capitalize()}."


def distinct_things(random: Random, grid: tuple[int, int], count: int) -> list[Thing]:
    """Things with different shapes and different colours in different cells."""
    places = random.sample(cells(random, grid, count), count)
    kinds = zip(random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), places, strict=True)
    return [thing_at(random, shape, colour, place) for shape, colour, place in kinds]


def count_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Questions on how many of a kind there are, likely answers not more frequent than others."""
    shapes, colours = Counter(thing.shape for thing in things), Counter(thing.colour for thing in things)
    kinds = [(PLURALS[shape], shapes[shape]) for shape in SHAPES] + [(f"{colour} objects", colours[colour]) for colour in COLOURS]
    by_count: dict[int, list[str]] = {}
    for kind, count in kinds:
        by_count.setdefault(count, []).append(kind)
    chosen = [(random.choice(names), count) for count, names in by_count.items() if count <= MOST_COUNTED]
    if len(things) <= MOST_COUNTED:
        chosen.append(("objects", len(things)))
    templates = ("How many {} are there?", "How many {}?", "Count the {}.")
    return [Question("count", random.choice(templates).format(kind), str(count), f"count {kind}") for kind, count in chosen]


def name_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Questions on the colour of the only thing of its shape, and on the shape of the only thing of its colour."""
    shapes, colours = Counter(thing.shape for thing in things), Counter(thing.colour for thing in things)
    questions = []
    for place, thing in enumerate(things):
        if shapes[thing.shape] == 1:
            text = random.choice(("What colour is the {}?", "Which colour is the {}?", "Name the colour of the {}."))
            questions.append(Question("colour", text.format(thing.shape), thing.colour, f"thing {place}"))
        if colours[thing.colour] == 1:
            text = random.choice(("Which shape is {}?", "What shape is the {} object?", "Name the {} shape."))
            questions.append(Question("shape", text.format(thing.colour), thing.shape, f"thing {place}"))
    return questions


def side_questions(random: Random, things: tuple[Thing, ...]) -> list[Question]:
    """Questions on what is furthest left or right, and on which side of another a thing is. Things must differ in shape and colour."""
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


def image_example(scene: Scene, questions: list[Question], caption: str) -> Example:
    return Example(scene_layout(scene), tuple(questions), images=(scene,), caption=caption)


def crowd(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """Several things of one kind among others: made for counting, every count from none to MOST_COUNTED as likely."""
    grid = random.choice(grids)
    alike = random.randint(0, MOST_COUNTED)
    others = random.randint(0 if alike else 1, min(3, grid[0] * grid[1] - alike))
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
    questions = count_questions(random, scene.things) + name_questions(random, scene.things)
    return image_example(scene, questions, describe(scene.things))


def distinct(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """Two to four things, no two alike: made for colour, shape and left_right."""
    grid = random.choice(grids)
    scene = make_scene(random, grid, distinct_things(random, grid, random.randint(2, 4)))
    questions = name_questions(random, scene.things) + side_questions(random, scene.things)
    return image_example(scene, questions, describe(scene.things))


def named(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """Two or three things, no two alike, asked for by colour and shape alone: what pre-training begins with."""
    grid = random.choice(grids)
    scene = make_scene(random, grid, distinct_things(random, grid, random.randint(2, 3)))
    return image_example(scene, name_questions(random, scene.things), describe(scene.things))


def reading(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """One to three printed letters in a row, each with its colour."""
    count = random.choice((1, 1, 2, 2, 2, 3))
    grid = random.choice([grid for grid in grids if grid[1] >= count])
    row, start = random.randrange(grid[0]), random.randint(0, grid[1] - count)
    kinds = zip(random.sample(LETTERS, count), random.sample(tuple(COLOURS), count), strict=True)
    things = [thing_at(random, *kind, (row, start + place), random.uniform(0.66, 0.86)) for place, kind in enumerate(kinds)]
    scene = make_scene(random, grid, things)
    text = " ".join(thing.shape for thing in scene.things)
    questions = [Question("reading", random.choice(("What is written?", "Read the letters.", "What does it say?")), text, "text")]
    for place, thing in enumerate(scene.things):
        question = random.choice(("Which letter is {}?", "What is the {} letter?")).format(thing.colour)
        questions.append(Question("reading", question, thing.shape, f"letter {place}"))
        question = random.choice(("What colour is the letter {}?", "Which colour is the {}?")).format(thing.shape)
        questions.append(Question("colour", question, thing.colour, f"letter {place}"))
    return image_example(scene, questions, f"The letters {text}.")


def ground(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """A plane seen from above: what is nearer stands lower and is larger."""
    grid = random.choice([grid for grid in grids if grid[0] > 1])
    count = random.randint(2, min(3, grid[0]))
    rows = sorted(random.sample(range(grid[0]), count))
    things = []
    for row, shape, colour in zip(rows, random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), strict=True):
        size = 0.36 + 0.5 * row / (grid[0] - 1) + random.uniform(-0.03, 0.03)
        things.append(thing_at(random, shape, colour, (row, random.randrange(grid[1])), size))
    scene = make_scene(random, grid, things, ground=True)
    questions = name_questions(random, scene.things)
    for word, thing in (("nearest", scene.things[-1]), ("farthest", scene.things[0])):
        kind, answer = random.choice((("colour", thing.colour), ("shape", thing.shape)))
        text = random.choice(("Which {} is {}?", "What {} is {}?")).format(kind, word)
        questions.append(Question("nearer", text, answer, word))
    return image_example(scene, questions, f"From far to near: {describe(scene.things)[:-1].lower()}.")


def track(random: Random, grids: tuple[tuple[int, int], ...]) -> Example:
    """A wall at one end of a strip and things at whole steps from it."""
    columns = max(columns for _, columns in grids)
    grid = random.choice(((1, columns), (2, columns), (1, columns + 1)))
    wall_left = random.random() < 0.5
    count = random.choice((1, 1, 2)) if grid[0] == 1 else random.randint(1, 2)
    steps = random.sample(range(1, min(grid[1], 5)), count)
    things = [thing_at(random, "wall", "grey", (0, 0 if wall_left else grid[1] - 1))]
    for step, shape, colour in zip(steps, random.sample(SHAPES, count), random.sample(tuple(COLOURS), count), strict=True):
        column = step if wall_left else grid[1] - 1 - step
        things.append(thing_at(random, shape, colour, (random.randrange(grid[0]), column)))
    scene = make_scene(random, grid, things)
    objects = tuple(thing for thing in scene.things if thing.shape != "wall")
    questions = name_questions(random, objects)
    for step, thing in zip(steps, things[1:], strict=True):
        text = random.choice(("How many steps from the wall to the {}?", "How far is the {} from the wall?")).format(thing.shape)
        questions.append(Question("distance", text, str(step), f"step {thing.shape}"))
    return image_example(scene, questions, describe(objects))


def caption_image(random: Random) -> Example:
    return named(random, SMALL_GRIDS)


def small_image(random: Random) -> Example:
    return random.choices((crowd, distinct, reading, ground, track), (5, 6, 4, 3, 3))[0](random, SMALL_GRIDS)


def large_image(random: Random) -> Example:
    return random.choices((crowd, distinct, reading, ground, track), (5, 6, 4, 3, 3))[0](random, LARGE_GRIDS)
