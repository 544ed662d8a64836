"""The planner's tile ranges against the mask itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batch import Intervals
from neo_jax.attention.intervals import flatten, key_tiles, query_tiles, visited_pairs
from tests.neo_jax.attention.cases import CASES, arrays, random_intervals


def mask_of(lo, hi, keys):
    position = np.arange(keys)
    return (position >= np.asarray(lo)[:, None]) & (position < np.asarray(hi)[:, None])


def assert_ranges(ranges, tiles):
    """tiles: bool [own tiles, other tiles, pairs of a tile], the mask of each tile."""
    touched, whole = tiles.any(-1), tiles.all(-1)
    for i, (first, last, full_first, full_last) in enumerate(zip(*map(np.asarray, ranges), strict=True)):
        if touched[i].any():
            assert (first, last) == (touched[i].argmax(), touched.shape[1] - touched[i][::-1].argmax())
        else:
            assert first == last
        assert first <= full_first <= full_last <= last
        inside = np.zeros_like(whole[i])
        inside[full_first:full_last] = True
        assert (inside == whole[i]).all()


def check(lo, hi, keys, query_tile, key_tile):
    keys += -keys % key_tile
    mask = mask_of(lo, hi, keys)
    columns = keys // key_tile
    tiles = mask.reshape(-1, query_tile, columns, key_tile).swapaxes(1, 2).reshape(-1, columns, query_tile * key_tile)
    of_queries, of_keys = query_tiles(lo, hi, query_tile, key_tile), key_tiles(lo, hi, query_tile, key_tile, keys)
    assert_ranges(of_queries, tiles)
    assert_ranges(of_keys, tiles.swapaxes(0, 1))
    assert int(visited_pairs(of_queries, query_tile, key_tile)) >= mask.sum()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("query_tile", "key_tile"), [(32, 64), (128, 32)])
def test_tiles_of_packed_rows(case, query_tile, key_tile):
    _, k, _, intervals, *_ = arrays(case, 1, 1)
    lo, hi = intervals
    rows, keys = k.shape[:2]
    flat = flatten(intervals, keys, query_tile)
    for row, (start, stop) in enumerate(zip(flat[0][: lo.size].reshape(lo.shape), flat[1][: lo.size].reshape(lo.shape), strict=True)):
        np.testing.assert_array_equal(start, lo[row] + row * keys)
        np.testing.assert_array_equal(stop, hi[row] + row * keys)
    check(*flat, rows * keys, query_tile, key_tile)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(8, 8), (8, 32), (32, 8)]))
def test_tiles_of_random_rows(seed, tiles):
    attend = random_intervals(200, np.random.default_rng(seed), longest=60)
    check(*flatten(Intervals(attend[None, :, 0], attend[None, :, 1]), 200, tiles[0]), 200, *tiles)


def test_padding_queries_widen_no_range():
    lo, hi = flatten(Intervals(np.array([[0, 0, 2]], np.int32), np.array([[1, 2, 3]], np.int32)), 64, 32)
    assert len(lo) == 32
    assert [int(x[0]) for x in query_tiles(lo, hi, 32, 1)] == [0, 3, 2, 2]


def test_keys_that_nobody_sees_meet_no_tile():
    lo, hi = np.array([0, 8, 8, 9], np.int32), np.array([1, 9, 9, 10], np.int32)
    ranges = key_tiles(lo, hi, 4, 2, 10)
    assert (ranges.last - ranges.first).tolist() == [1, 0, 0, 0, 1]
