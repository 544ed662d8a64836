import numpy as np
import pytest
import small_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import phase, tokenizer

from data_pipelines.batch import arrays, attended_pairs, batch_spec, map_arrays, pieces_of_shard
from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import RowLoader
from data_pipelines.loading.shards import arrange, deal, pairs_of_shards

CONTEXT, VISUAL = 512, 400


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    source = small_corpus.jsonl(small_corpus.write_corpus(root, repeats=4))
    index = LengthIndex.open(source, tokenizer(), root / "index")
    phases = [phase(rows=8, rows_per_step=4, context=CONTEXT, visual_tokens=VISUAL)]
    return lambda: RowLoader([source], [index], phases, tokenizer(), 0, FailurePolicy(), root / "log.jsonl", threads=1)


@pytest.fixture(scope="module")
def rows(reader):
    reader = reader()
    batches = [batch for batch, _ in reader.batches(reader.start())]
    return [map_arrays(lambda array, row=row: array[row], batch) for batch in batches for row in range(4)]


def of_tokens(row):
    """Every array with a value for each token, but for the slots."""
    return row.inputs.tokens, row.inputs.positions, *row.inputs.intervals, row.targets, row.loss_weights, row.source


@pytest.mark.parametrize("shards", [2, 4, 8, 16])
def test_every_token_keeps_its_label_its_interval_and_its_pixels(rows, shards):
    for row in rows:
        cut = arrange(row, shards)
        for (name, array), (_, spec) in zip(arrays(cut), arrays(batch_spec(1, CONTEXT, VISUAL, shards)), strict=True):
            assert array.shape == spec.shape[1:] and array.dtype == spec.dtype, name
        places = cut.inputs.pieces
        size = CONTEXT // len(places)
        back = (places[:, None] * size + np.arange(size)).reshape(-1)  # where each token of the row went
        assert all((mine[back] == theirs).all() for mine, theirs in zip(of_tokens(cut), of_tokens(row), strict=True))
        slots = cut.inputs.visual_slot + np.arange(CONTEXT) // (CONTEXT // shards) * (len(cut.inputs.visual) // shards)
        seen = row.inputs.visual_slot >= 0
        assert ((cut.inputs.visual_slot >= 0)[back] == seen).all() and seen.any()
        for mine, theirs in ((cut.inputs.visual, row.inputs.visual), (cut.inputs.visual_position, row.inputs.visual_position)):
            assert (mine[slots[back][seen]] == theirs[row.inputs.visual_slot[seen]]).all()


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_intervals_do_not_decrease_within_a_shard_and_pairs_are_kept(rows, shards):
    for row in rows:
        intervals = arrange(row, shards).inputs.intervals
        assert all((np.diff(x.reshape(shards, -1), axis=1) >= 0).all() for x in intervals)
        pairs = pairs_of_shards(intervals, shards)
        assert pairs.sum() == attended_pairs(row.inputs.intervals) and len(pairs) == shards


def test_one_shard_is_the_row_itself(rows):
    assert arrange(rows[0], 1) is rows[0]


def test_the_loader_arranges_the_same_rows(reader, rows):
    arranged = reader()
    batches = [batch for batch, _ in arranged.batches(arranged.start(), [1, 3], context_shards=4)]
    for number, batch in enumerate(batches):
        for place, row in enumerate((1, 3)):
            expected = arrange(rows[4 * number + row], 4)
            assert all((mine[place] == theirs).all() for (_, mine), (_, theirs) in zip(arrays(batch), arrays(expected), strict=True))


@pytest.mark.parametrize(
    ("context", "shards", "pieces"),
    [(36_864, 2, 6), (36_864, 4, 9), (34_816, 2, 17), (131_072, 16, 8), (1024, 4, 8), (64, 8, 8), (8, 4, 2), (46, 2, 1), (4, 4, 1)],
)
def test_pieces_are_many_and_aligned(context, shards, pieces):
    assert pieces_of_shard(context, shards) == pieces and context % (shards * pieces) == 0


@given(st.integers(1, 8), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_every_piece_is_dealt_once_equally_many_to_each(shards, each, random):
    costs = np.array([random.randint(1, 1000) for _ in range(shards * each)])
    dealt = deal(costs, shards)
    assert dealt.shape == (shards, each)
    assert sorted(dealt.reshape(-1).tolist()) == list(range(shards * each)) and (np.diff(dealt, axis=1) > 0).all()


@pytest.mark.parametrize("shards", [2, 4, 8, 16])
def test_one_causal_document_is_balanced(shards):
    """Where runs of tokens would give the last shard nearly twice the mean."""
    costs = np.arange(1, 8 * shards + 1) - 0.5
    sums = costs[deal(costs, shards)].sum(axis=1)
    assert sums.max() <= 1.001 * sums.mean()
    assert costs.reshape(shards, -1).sum(axis=1).max() >= (2 - 1 / shards) * 0.99 * sums.mean()
