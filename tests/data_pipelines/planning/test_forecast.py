"""The forecast of epochs against what planning really reads."""

import numpy as np
import pytest
from made_lengths import Index, phase

from data_pipelines.planning.forecast import forecast
from data_pipelines.planning.planner import InputState, Planner


def index(name, count, low, high, epochs=0.0, visual=False):
    random = np.random.default_rng(len(name))
    tokens = random.integers(low, high, count)
    images = np.full(count, int(visual))
    return Index(name, np.stack([tokens, tokens * visual // 2, images, np.ones(count, int)], axis=1), None, epochs)


PHASES = [
    phase(name="first", rows=96, context=256, mixture={"text": 1.0, "image": 2.0}),
    phase(name="second", rows=64, context=512, mixture={"text": 1.0, "image": 1.0, "long": 1.0}),
]


@pytest.mark.parametrize("epochs", [0.0, 1.0, 1.8])
def test_it_foretells_what_planning_reads(epochs):
    indexes = [index("text", 300, 20, 80), index("image", 200, 30, 90, epochs, visual=True), index("long", 100, 100, 900)]
    found = forecast(PHASES, indexes, 0)
    state = InputState(0, 0, 0, (0, 0, 0))
    for number, settings in enumerate(PHASES):
        state = Planner(number, settings, indexes, 0, state, block_rows=32).state(settings.rows)
        really = [position / len(each.usable) for position, each in zip(state.positions, indexes, strict=True)]
        assert list(found.epochs[number]) == ["text", "image", "long"]
        assert list(found.epochs[number].values()) == pytest.approx(really, rel=0.12, abs=0.08)
    assert found.short is None
    assert ("image" in found.used_up[0] + found.used_up[1]) == (epochs > 0)


def test_the_phase_for_which_the_data_does_not_suffice_is_named():
    indexes = [index("text", 300, 20, 80, 1.0), index("image", 200, 30, 90, 1.2, visual=True), index("long", 100, 100, 200, 1.0)]
    found = forecast(PHASES, indexes, 0)
    assert found.short == "second" and found.used_up == (("image",), ("long", "text"))
    assert found.epochs[1] == {"text": 1.0, "image": 1.2, "long": 1.0}
