import numpy as np
import pytest

from data_pipelines.planning.balance import document_pairs
from data_pipelines.planning.packing import OpenRows, fill_rows


def samples(count, seed=0, low=40, high=270):
    """Text and picture samples of three or four a row of 512: [count, 4]."""
    random = np.random.default_rng(seed)
    visual = random.choice([0, 0, 9, 16, 25], count)
    tokens = np.maximum(random.integers(low, high, count), visual + 10)
    return np.stack([tokens, visual, visual > 0, np.ones(count, int)], axis=1)


def totals(rows, lengths):
    return np.array([np.sum([lengths[sample] for sample in row], axis=0) for row in rows])


@pytest.mark.parametrize("budget", [[512, 256, 64, 32], [512, 20, 64, 32], [512, 256, 1, 32], [512, 256, 64, 2], [512, 256, 64, 1]])
def test_every_sample_is_placed_once_within_every_budget(budget):
    lengths = np.array([sample for sample in samples(500) if sample[1] <= budget[1]])
    rows, placed = fill_rows(lengths, budget, 10_000)
    assert placed == len(lengths) and sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert (totals(rows, lengths) <= budget).all()


def test_rows_of_few_samples_are_filled():
    lengths = samples(4000)
    rows, _ = fill_rows(lengths, [512, 256, 64, 32], 10_000)
    assert totals(rows, lengths)[:-20, 0].mean() > 0.985 * 512


def test_the_last_two_samples_of_a_row_are_chosen_together():
    lengths = np.array([[tokens, 0, 0, 1] for tokens in (60, 55, 45, 40)])
    rows, _ = fill_rows(lengths, [100, 0, 0, 4], 10)
    assert sorted(sorted(row) for row in rows) == [[0, 3], [1, 2]]


def test_rows_end_where_there_may_be_no_more():
    rows, placed = fill_rows(np.array([[60, 0, 0, 1]] * 5), [100, 0, 0, 4], 3)
    assert len(rows) == placed == 3


def test_text_fills_rows_whose_visual_tokens_are_used_up():
    """Twenty kinds of pictures that fit no more stand between a row and the text that does."""
    pictures = [[100 + extra, 50, 1, 1] for extra in range(20)]
    lengths = np.array(pictures + [[30, 0, 0, 1]] * 200)
    rows, _ = fill_rows(lengths, [400, 50, 8, 32], 100)
    with_pictures = [row for row in rows if min(row) < 20]
    assert len(with_pictures) == 20
    assert totals(with_pictures, lengths)[:, 0].min() > 370


def test_one_by_one_goes_to_the_fullest_row_with_room_then_to_a_new_one():
    lengths = np.array([[70, 0, 0, 1], [50, 10, 1, 1]])
    packing = OpenRows([[0], [1]], lengths, [100, 10, 2, 3], 3)
    for sample, needs, row in (
        (2, [25, 0, 0, 1], 0),
        (3, [20, 0, 0, 1], 1),
        (4, [20, 5, 1, 1], 2),
        (5, [30, 0, 0, 1], 1),
        (6, [75, 5, 1, 1], 2),
    ):
        assert packing.place(sample, needs) and sample in packing.rows[row]
    assert not packing.place(7, [10, 0, 0, 1])
    assert packing.rows == [[0, 2], [1, 3, 5], [4, 6]]


def test_one_by_one_keeps_every_budget():
    lengths = samples(800)
    for budget in ([512, 256, 64, 32], [512, 25, 64, 32], [512, 256, 2, 32], [512, 256, 64, 2]):
        packing = OpenRows([], lengths[:0], budget, 60)
        taken = next(number for number, needs in enumerate(lengths.tolist()) if not packing.place(number, needs))
        assert len(packing.rows) == 60 and sorted(sample for row in packing.rows for sample in row) == list(range(taken))
        assert (totals(packing.rows, lengths) <= budget).all()


def test_rows_hold_alike_samples_and_pairs():
    """Lengths from 40 to 8,000: pairs differ by what the longest sample of a row has alone, the number of samples hardly."""
    random = np.random.default_rng(0)
    tokens = np.clip(random.lognormal(6, 1, 6000), 40, 8000).astype(int)
    lengths = np.stack([tokens, 0 * tokens, 0 * tokens, 1 + 0 * tokens], axis=1)
    rows, _ = fill_rows(lengths, [8192, 0, 0, 512], 1000)
    each = document_pairs(lengths)
    pairs, longest, counts = np.array([[each[row].sum(), each[row].max(), len(row)] for row in rows[:-8]]).T
    others = longest < np.median(pairs)
    assert np.quantile(pairs[others], 0.95) < 1.3 * np.median(pairs) and pairs[others].min() > 0.5 * np.median(pairs)
    assert 0.6 < counts[~others].mean() / counts[others].mean() < 1.4
    assert totals(rows, lengths)[:-8, 0].mean() > 0.998 * 8192
