import numpy as np
import pytest
import small_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import phase, tokenizer

from data_pipelines.failures import FailurePolicy
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.loading.loader import Input
from data_pipelines.loading.shards import arrange, attended_pairs, deal, pieces_of_shard, shard_fields

CONTEXT, VISUAL = 512, 400
TOKEN_FIELDS = ("tokens", "targets", "loss_weights", "positions", "attend", "source")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    source = small_corpus.jsonl(small_corpus.write_corpus(root, repeats=4))
    index = LengthIndex.open(source, tokenizer(), root / "index")
    phases = [phase(rows=8, context=CONTEXT, visual_tokens=VISUAL)]
    return lambda: Input([source], [index], phases, tokenizer(), 0, FailurePolicy(), root / "log.jsonl", threads=1)


@pytest.fixture(scope="module")
def rows(reader):
    reader = reader()
    batches = [batch for batch, _ in reader.batches(reader.start(), 4)]
    return [{name: array[row] for name, array in batch.items()} for batch in batches for row in range(4)]


@pytest.mark.parametrize("shards", [2, 4, 8, 16])
def test_every_token_keeps_its_label_its_interval_and_its_pixels(rows, shards):
    for row in rows:
        cut = arrange(row, shards)
        for name, (shape, dtype) in shard_fields(1, CONTEXT, VISUAL, shards).items():
            assert cut[name].shape == shape[1:] and cut[name].dtype == dtype, name
        places = cut["pieces"]
        size = CONTEXT // len(places)
        back = (places[:, None] * size + np.arange(size)).reshape(-1)  # where each token of the row went
        for name in TOKEN_FIELDS:
            assert (cut[name][back] == row[name]).all(), name
        slots = cut["visual_slot"] + np.arange(CONTEXT) // (CONTEXT // shards) * (len(cut["visual"]) // shards)
        seen = row["visual_slot"] >= 0
        assert ((cut["visual_slot"] >= 0)[back] == seen).all() and seen.any()
        for name in ("visual", "visual_position"):
            assert (cut[name][slots[back][seen]] == row[name][row["visual_slot"][seen]]).all()


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_intervals_do_not_decrease_within_a_shard_and_pairs_are_kept(rows, shards):
    for row in rows:
        cut = arrange(row, shards)
        assert (np.diff(cut["attend"].reshape(shards, -1, 2), axis=1) >= 0).all()
        pairs = attended_pairs(cut, shards)
        assert pairs.sum() == (row["attend"][:, 1] - row["attend"][:, 0]).sum() and len(pairs) == shards


def test_one_shard_is_the_row_itself(rows):
    assert arrange(rows[0], 1) is rows[0]


def test_the_loader_arranges_the_same_rows(reader, rows):
    arranged = reader()
    batches = [batch for batch, _ in arranged.batches(arranged.start(), 4, [1, 3], context_shards=4)]
    for number, batch in enumerate(batches):
        for place, row in enumerate((1, 3)):
            expected = arrange(rows[4 * number + row], 4)
            assert batch.keys() == expected.keys()
            assert all((batch[name][place] == expected[name]).all() for name in expected)


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
