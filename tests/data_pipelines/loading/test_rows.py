import dataclasses
import json
import pathlib

import numpy as np
import pytest

from data_pipelines.batch import arrays, batch_spec
from data_pipelines.loading import rows
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document, PhaseSettings

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
IMAGE = 9
PHASE = PhaseSettings("test", 1, 16, 6, 3, 3, 1, 1, 1, (1.0, 1.0), 1, {})


def document(tokens, grids=(), labels=None):
    tokens = np.asarray(tokens, np.int32)
    grids = np.asarray(grids, np.int32).reshape(-1, 2)
    visual = np.random.default_rng(len(tokens)).integers(1, 256, (grids.prod(axis=1).sum(), VISUAL_TOKEN_BYTES), dtype=np.uint8)
    return Document(tokens, np.full_like(tokens, NO_LABEL) if labels is None else np.asarray(labels, np.int32), grids, visual)


def golden_documents(batch, image_token):
    grids = batch["grid_hw"] // 2
    documents = []
    used = 0
    for start, end in zip(batch["seq_boundaries"][:-1], batch["seq_boundaries"][1:], strict=True):
        tokens = batch["input_ids"][start:end]
        images = 0
        while grids[used : used + images].prod(axis=1).sum() < np.count_nonzero(tokens == image_token):
            images += 1
        documents.append(document(tokens, grids[used : used + images], batch["labels"][start:end]))
        used += images
    assert used == len(grids)
    return documents


@pytest.mark.parametrize("model", ["model_tied", "model_untied", "model_edges", "model_text_only"])
def test_rows_equal_the_reference(model):
    batch = np.load(GOLDEN / model / "batch.npz")
    image_token = json.loads((GOLDEN / model / "config.json").read_text())["img_context_token_id"]
    documents = golden_documents(batch, image_token)
    length, padding = len(batch["input_ids"]), 5
    phase = dataclasses.replace(PHASE, context=length + padding, visual_tokens=40, images=8, segments=8)
    row = rows.pack(documents, range(len(documents)), phase, image_token)
    np.testing.assert_array_equal(row.inputs.tokens[:length], batch["input_ids"])
    np.testing.assert_array_equal(row.inputs.positions[:length, 0], batch["t_index"])
    np.testing.assert_array_equal(np.stack(row.inputs.intervals)[:, :length], np.stack([batch["mask_lo"], batch["mask_hi"]]))
    np.testing.assert_array_equal(row.loss_weights[: length - 1], batch["loss_weight"][1:])
    labelled = batch["loss_weight"][1:] > 0
    np.testing.assert_array_equal(row.targets[: length - 1], np.where(labelled, batch["labels"][1:], 0))
    grids = (batch["grid_hw"] // 2).tolist()
    cells = [(h, w) for rows_of_image, columns in grids for h in range(rows_of_image) for w in range(columns)]
    np.testing.assert_array_equal(row.inputs.visual_position[: len(cells)], np.reshape(cells, (-1, 2)))
    np.testing.assert_array_equal(row.inputs.positions[:length][batch["input_ids"] == image_token, 1:], np.reshape(cells, (-1, 2)))
    assert not row.inputs.positions[:length][batch["input_ids"] != image_token, 1:].any()


def test_a_row_written_out():
    first = document([5, 9, 9, 9, 9, 6, 7], [[2, 1], [1, 2]], [5, 9, 9, 9, 9, NO_LABEL, 7])  # two images side by side
    second = document([3], [], [3])
    third = document([9, 4, 4, 8], [[1, 1]], [NO_LABEL, NO_LABEL, 4, 8])
    row = rows.pack([first, second, third], [2, 0, 1], PHASE, IMAGE)
    assert row.inputs.tokens.tolist() == [5, 9, 9, 9, 9, 6, 7, 3, 9, 4, 4, 8, 0, 0, 0, 0]
    assert row.targets.tolist() == [0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0]
    half = np.float32(0.5**0.5)
    assert row.loss_weights.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, half, half, 0, 0, 0, 0, 0]
    assert row.inputs.positions[:, 0].tolist() == [0, 1, 1, 2, 2, 3, 4, 0, 0, 1, 2, 3, 0, 0, 0, 0]
    assert row.inputs.positions[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert row.inputs.positions[:, 2].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert row.inputs.intervals.lo.tolist() == [0, 0, 0, 0, 0, 0, 0, 7, 8, 8, 8, 8, 12, 13, 14, 15]
    assert row.inputs.intervals.hi.tolist() == [1, 3, 3, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert row.inputs.visual_slot.tolist() == [-1, 0, 1, 2, 3, -1, -1, -1, 4, -1, -1, -1, -1, -1, -1, -1]
    assert row.inputs.visual_position.tolist() == [[0, 0], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0]]
    assert row.source.tolist() == [2] * 7 + [0] + [1] * 4 + [-1] * 4
    np.testing.assert_array_equal(row.inputs.visual[:4], first.visual)
    np.testing.assert_array_equal(row.inputs.visual[4:5], third.visual)
    assert not row.inputs.visual[5:].any()


@pytest.mark.parametrize("documents", [[], [document([1, 2, 3])]])
def test_shapes_and_types_are_those_of_the_schema(documents):
    row = rows.pack(documents, [0] * len(documents), PHASE, IMAGE)
    fields = batch_spec(1, PHASE.context, PHASE.visual_tokens)
    assert [(name, array.shape, array.dtype.type) for name, array in arrays(row)] == [
        (name, spec.shape[1:], spec.dtype) for name, spec in arrays(fields)
    ]
    assert np.stack(row.inputs.intervals, axis=1)[3:].tolist() == [[i, i + 1] for i in range(3, PHASE.context)]


@pytest.mark.parametrize(("weighting", "weight"), [("square", 0.5), ("token", 1.0), ("sample", 0.25)])
def test_label_weights(weighting, weight):
    labels = np.array([NO_LABEL, 0, 3, NO_LABEL, 4, 5], np.int32)
    assert rows.label_weights(labels, weighting).tolist() == [0, weight, weight, 0, weight, weight]
    assert rows.label_weights(labels[:1], weighting).tolist() == [0]


def test_n_counts_labels_after_all_exclusions():
    # 6 labels are given; the first token's and the image tokens' do not count.
    row = rows.pack([document([5, 9, 9, 6, 7, 8], [[1, 2]], [5, 9, 9, 6, 7, 8])], [0], PHASE, IMAGE)
    np.testing.assert_array_equal(row.loss_weights[:6], np.float32([0, 0, 3**-0.5, 3**-0.5, 3**-0.5, 0]))


def test_the_mask_is_exactly_the_papers():
    """Equation 7: a query sees a key of its document that is not later, or of its own image."""
    documents = [document([1, 9, 9, 9, 9, 2], [[2, 2]]), document([9, 9, 9, 3], [[1, 1], [2, 1]])]
    row = rows.pack(documents, [0, 0], dataclasses.replace(PHASE, visual_tokens=7), IMAGE)
    document_of = [0] * 6 + [1] * 4
    image_of = [None, 0, 0, 0, 0, None, 1, 2, 2, None]
    for query, (lo, hi) in enumerate(np.stack(row.inputs.intervals, axis=1)[:10]):
        for key in range(10):
            same_image = image_of[query] is not None and image_of[query] == image_of[key]
            assert (lo <= key < hi) == (document_of[query] == document_of[key] and (key <= query or same_image))
    assert (np.diff(np.stack(row.inputs.intervals)) >= 0).all()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([document(range(17))], "16 tokens, but 17"),
        ([document([9] * 7, [[7, 1]])], "6 visual tokens, but 7"),
        ([document([9] * 4, [[1, 1]] * 4)], "3 images, but 4"),
        ([document([1])] * 4, "3 documents, but 4"),
        ([document([1]), document([1, 9, 9], [[1, 1]])], "document 1 of a row: 2 image tokens"),
        ([document([1, 9], [[1, 2]])], "document 0 of a row: 1 image tokens"),
        ([document([9, 1, 9], [[1, 2]])], "do not stand together"),
        ([document([9, 1], [[1, 0], [1, 1]])], "at least one row"),
        ([document([])], "0 tokens"),
        ([document([1, 2], labels=[1])], "2 tokens and 1 labels"),
        ([dataclasses.replace(document([9], [[1, 1]]), visual=np.zeros((2, VISUAL_TOKEN_BYTES), np.uint8))], "pixels"),
    ],
)
def test_what_does_not_fit_is_refused(documents, message):
    with pytest.raises(ValueError, match=message):
        rows.pack(documents, [0] * len(documents), PHASE, IMAGE)


def test_a_source_for_each_document():
    with pytest.raises(ValueError, match="2 documents came with 1 sources"):
        rows.pack([document([1]), document([2])], [0], PHASE, IMAGE)


def test_unknown_weighting():
    with pytest.raises(ValueError, match="squared"):
        rows.label_weights(np.zeros(3, np.int32), "squared")
