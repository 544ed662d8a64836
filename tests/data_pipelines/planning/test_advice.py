import dataclasses

import numpy as np
import pytest

from benchmarks.packing import DEMO_MIXTURE, MIXTURE, demo_mixture, lognormal_mixture, phase
from data_pipelines.planning.blocks import pack_block
from data_pipelines.planning.planner import BUDGETS, InputState, Planner

SOURCES = {8192: (MIXTURE, lognormal_mixture(8192)), 512: (DEMO_MIXTURE, demo_mixture())}


def planner(context, row=0, cursor=0, **changes):
    mixture, sources = SOURCES[context]
    settings = dataclasses.replace(phase(context, mixture, 8), **changes)
    return Planner(0, settings, sources, 0, InputState(0, row, cursor, (cursor,) * len(sources)), block_rows=512)


def fill(planned):
    tokens = [planned.lengths(planned.row(row))[:, 0].sum() for row in range(planned.block_rows)]
    return np.mean(tokens) / planned.phase.context


@pytest.mark.parametrize("context", [512, 8192])
def test_budgets_that_suffice_are_not_spoken_of(context):
    assert planner(context).advice() is None


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"visual_tokens": 4096}, {"visual_tokens": 5632}, {"visual_tokens": 7168}),
        ({"segments": 4}, {"segments": 8}, {"segments": 16}),
        ({"images": 12}, {"images": 14}, {"images": 56}),
        ({"visual_tokens": 4096, "segments": 4}, {"visual_tokens": 5632, "segments": 8}, {"visual_tokens": 7168, "segments": 16}),
    ],
)
def test_a_budget_that_runs_out_before_the_context_is_named_with_one_that_fills_the_rows(changes, low, high):
    short = planner(8192, **changes)
    found = short.advice()
    named = {name: better for name, now, better in zip(BUDGETS, found.budgets, found.better, strict=True) if now != better}
    assert set(named) == set(changes) and all(low[name] <= named[name] <= high[name] for name in named), named
    assert found.fill == pytest.approx(fill(short), abs=0.08) and found.fill < 0.9
    assert found.better_fill > 0.985 and fill(planner(8192, **named)) > 0.985


def test_advice_does_not_depend_on_where_the_phase_stands():
    assert planner(8192, segments=4).advice() == planner(8192, row=1024, cursor=6000, segments=4).advice()


def test_rows_that_their_samples_leave_empty_are_no_matter_of_budgets():
    """Samples of 300 tokens fill rows of 512 to 59%, whatever the budgets."""
    _, sources = SOURCES[512]
    long = type(sources[0])("text", np.full(50, 300), 0, 0)
    settings = dataclasses.replace(phase(512, {"text": 1.0}, 8), segments=1)
    assert Planner(0, settings, [long], 0, InputState(0, 0, 0, (0,))).advice() is None


def test_a_trial_takes_few_samples_where_a_row_holds_thousands(monkeypatch):
    sources = [type(SOURCES[512][1][0])("text", np.full(50, 100), 0, 0)]
    settings = dataclasses.replace(phase(512, {"text": 1.0}, 8), context=1 << 20, segments=5000)
    planned = Planner(0, settings, sources, 0, InputState(0, 0, 0, (0,)), block_rows=1)
    taken = []
    monkeypatch.setattr("data_pipelines.planning.advice.pack_block", lambda *each: taken.append(packed := pack_block(*each)) or packed)
    found = planned.advice()
    assert found.fill < 0.5 and found.better_fill > 0.99
    assert max(samples for _, samples in taken) <= 20_000
