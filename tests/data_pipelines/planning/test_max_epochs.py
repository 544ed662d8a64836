"""Sources that may be read a limited number of times: used up, the others take their share; nothing is repeated or lost."""

import collections

import numpy as np
import pytest
from made_lengths import Index, phase

from data_pipelines.planning.draws import Draws, MixedSource
from data_pipelines.planning.planner import InputState, Planner, budgets
from data_pipelines.randomness import permute, scramble, weyl
from data_pipelines.schema import DataError

SETTINGS = phase(mixture={"a": 2.0, "b": 1.0, "c": 3.0})
BUDGETS = budgets(SETTINGS).tolist()


def sources():
    """`b` has samples that do not fit."""
    random = np.random.default_rng(0)
    lengths = {name: np.stack([random.integers(5, 60, n), *np.zeros((2, n), int), np.ones(n, int)], axis=1) for name, n in SIZES.items()}
    lengths["b"][::3, 0] = 10_000
    epochs = {"a": 1.5, "b": 2.0, "c": 1.0}
    return {
        number: MixedSource(name, np.arange(SIZES[name]), lengths[name], number, SETTINGS.mixture[name], epochs[name])
        for number, name in enumerate(SIZES)
    }


SIZES = {"a": 400, "b": 60, "c": 1300}


def one_by_one(mixed, positions):
    """The draws as the definition says, without chunks: [(source, sample, epoch)] until all sources are used up."""
    left, at, found = list(mixed), list(positions), []
    while left:
        shares = np.array([mixed[number].share for number in left])
        edges = (np.minimum(np.cumsum(shares / shares.sum())[:-1], 1 - 2.0**-53) * 2.0**64).astype(np.uint64)
        number = left[int(np.searchsorted(edges, weyl(len(found), 1), side="right")[0])]
        source, size = mixed[number], len(mixed[number].usable)
        while at[number] < int(source.max_epochs * size):
            epoch, place = divmod(at[number], size)
            seed = scramble(np.array([epoch], np.uint64) + np.uint64(source.seed))
            sample = int(permute(np.array([place]), size, seed)[0])
            at[number] += 1
            if (source.lengths[sample] <= BUDGETS).all():
                found.append((number, sample, epoch))
                break
        else:
            left.remove(number)
    return found


@pytest.mark.parametrize("ask", [[10_000], [1] * 3000, [7, 900, 50, 3000], [1030] * 4])
@pytest.mark.parametrize("positions", [(0, 0, 0), (599, 13, 1290), (600, 0, 1300), (900, 0, 2000)])  # the last: the limits were higher
def test_draws_are_those_of_the_definition_however_many_are_asked_for(ask, positions):
    wanted = one_by_one(sources(), positions)
    draws = Draws(sources(), 0, positions, BUDGETS)
    for asked in np.cumsum([*ask, 10_000]).tolist():
        assert min(asked, len(wanted)) <= len(draws.lengths(asked)) <= len(wanted)
    assert len(draws.lengths(10_000)) == len(wanted)
    assert [tuple(draw) for draw in draws.first(len(wanted) + 1)] == wanted
    assert collections.Counter(wanted).most_common(1)[0][1] == 1


def test_a_run_goes_on_without_the_source_and_resumes_anywhere():
    random = np.random.default_rng(1)

    def index(name, count, epochs):
        return Index(
            name, np.stack([random.integers(20, 90, count), *np.zeros((2, count), int), np.ones(count, int)], axis=1), None, epochs
        )

    indexes = [index("a", 300, 2.0), index("b", 100, 0.0)]
    settings = phase(rows=240, rows_per_step=4, mixture={"a": 3.0, "b": 1.0})
    whole = Planner(0, settings, indexes, 5, InputState(0, 0, 0, (0, 0)), block_rows=32)
    rows = [whole.row(row) for row in range(240)]
    counts = collections.Counter(draw for row in rows for draw in row)
    assert set(counts.values()) == {1}
    of_a = [draw for draw in counts if draw.source == 0]
    assert len(of_a) == 600 and {draw.epoch for draw in of_a} == {0, 1}
    assert all(draw.source == 1 for row in rows[160:] for draw in row), "a is used up"
    whole = Planner(0, settings, indexes, 5, InputState(0, 0, 0, (0, 0)), block_rows=32)
    for first in range(0, 240, 20):
        resumed = Planner(0, settings, indexes, 5, whole.state(first), block_rows=32)
        assert [resumed.row(row) for row in range(first, min(first + 40, 240))] == rows[first : first + 40]


def test_the_last_sample_is_read_too():
    """Rows that hold all there is, with room for a sample more."""
    index = Index("a", np.tile([30, 0, 0, 1], (50, 1)), None, 2.0)
    settings = phase(rows=7, context=451, mixture={"a": 1.0})  # 15 samples a row
    planner = Planner(0, settings, [index], 1, InputState(0, 0, 0, (0,)))
    found = collections.Counter((draw.sample, draw.epoch) for row in range(7) for draw in planner.row(row))
    assert len(found) == 100 and set(found.values()) == {1}


def test_a_phase_that_needs_more_than_there_is_says_so():
    index = Index("a", np.tile([20, 0, 0, 1], (40, 1)), None, 3.0)
    planner = Planner(0, phase(rows=64, mixture={"a": 1.0}), [index], 1, InputState(0, 0, 0, (0,)))
    with pytest.raises(DataError, match=r"phase 'p' is used up: .*\(a\).*raise max_epochs, add a source, or take fewer steps"):
        planner.row(63)
