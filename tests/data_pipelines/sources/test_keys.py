import base64
import json
import logging

import pytest
import small_corpus
import tensorflow_datasets

from data_pipelines import convert
from data_pipelines.failures import FailurePolicy
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source, tfds
from data_pipelines.sources.keys import can_change_training

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(80)).decode()


def source_of(tmp_path, records, ignore=()):
    (tmp_path / "media").mkdir(exist_ok=True)
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", records)
    return open_source(SourceSettings("rows", "jsonl", str(path), str(tmp_path / "media"), ignore=ignore))


def refusal(source, index=0):
    with pytest.raises(SampleError) as caught:
        source[index]
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "0") for key in ("img", "imagePath", "pictures", "video_file", "clips", "audio", "image_0", "media_items")),
        *(
            (key, "x")
            for key in ("system_prompt", "tools", "functions", "messages2", "dialogue", "history", "chosen", "rejected", "prompt")
        ),
        *((key, 0) for key in ("loss", "loss_weight", "sample_weight", "mask", "trainable", "fps", "nframes", "video_start", "max_pixels")),
        *((key, ["x"]) for key in ("imags", "vidoe", "sytem", "conversatons", "Images")),
        ("photo_of_the_day", "a.PNG"),
        ("attachment", ["notes", "b.jpeg"]),
        ("meta", {"where": {"file": "c.mp4"}}),
        ("link", "https://example.org/d.webp?size=2"),
        ("blob", {"bytes": "AAAA"}),
        ("content_b", f"data:image/png;base64,{PNG}"),
        ("raw", PNG),
        ("extra", [{"role": "user", "content": "x"}]),
        ("extra", [{"from": "human", "value": "x"}]),
        ("extra", json.dumps([{"role": "user", "content": "x"}])),
    ],
)
def test_keys_that_can_change_what_is_trained(key, value):
    assert can_change_training(key, value, in_turn=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 7) for key in ("id", "image_id", "video_duration", "num_images", "imageWidth", "conversation_id", "has_image", "score")),
        *((key, "x") for key in ("source", "dataset", "license", "split", "topic", "url", "image_caption", "difficulty", "answer", "page")),
        ("metadata", {"author": "me", "tags": ["a", "b"]}),
        ("bbox", [[1, 2, 3, 4]]),
        ("objects", [{"label": "cat", "value": 3}]),
        ("page_url", "https://example.org/page.html"),
        ("description", "Saved as a.png\non the disk"),
    ],
)
def test_keys_that_cannot(key, value):
    assert not can_change_training(key, value, in_turn=False)


def test_keys_that_are_not_read_are_counted_and_named_once(tmp_path, caplog):
    rows = [
        {
            "id": n,
            "score": 0.5,
            "tools": [],
            "image": {"path": None, "bytes": None},
            "video": float("nan"),
            "conversations": small_corpus.turns("x"),
        }
        for n in range(3)
    ]
    rows[2]["license"] = "CC0"
    rows[1]["conversations"][0]["name"] = "Ada"
    source = source_of(tmp_path, rows)
    with caplog.at_level(logging.WARNING):
        assert [len(source[number].turns) for number in range(3)] == [2, 2, 2]
    assert source.ignored == {"score": 3, "name": 1, "license": 1}
    assert len(caplog.messages) == 3
    assert caplog.messages[0] == "source 'rows': keys that are not read: 'score' (first seen in rows.jsonl:1)"


def test_a_key_to_ignore_is_passed_over_in_rows_and_turns(tmp_path):
    turns = small_corpus.turns("x")
    turns[1]["thinking"] = "Hm."
    rows = [{"thumbnail": "a.png", "conversations": turns}]
    assert "'thumbnail'" in str(refusal(source_of(tmp_path, rows)))
    assert "turn 1: the key 'thinking'" in str(refusal(source_of(tmp_path, rows, ("thumbnail",))))
    source = source_of(tmp_path, rows, ("thumbnail", "thinking"))
    assert source[0].images == () and source.ignored == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("images", ["a.png"]),
        ("mask", True),
        ("train", False),
        ("reasoning_content", "hm"),
        ("text", "x"),
        ("x", "a.png"),
    ],
)
def test_keys_of_turns_that_can_change_what_is_trained(tmp_path, key, value):
    turns = small_corpus.turns("x")
    turns[0][key] = value
    error = refusal(source_of(tmp_path, [{"conversations": turns}]))
    assert error.reason == "unknown_key" and f"rows.jsonl:1, turn 0: the key {key!r}" in str(error)


@pytest.mark.parametrize(
    ("key", "value", "is_input"), [("loss", False, True), ("loss", True, False), ("weight", 0, True), ("weight", 1.0, False)]
)
def test_loss_and_weight_of_an_answer_are_the_opposite_of_is_input(tmp_path, key, value, is_input):
    turns = small_corpus.turns("x") + small_corpus.turns("y")
    turns[1][key] = value
    turns[0][key] = 0  # a question has none anyway
    assert [turn.is_input for turn in source_of(tmp_path, [{"conversations": turns}])[0].turns] == [False, is_input, False, False]


@pytest.mark.parametrize(
    ("turn", "more", "message"),
    [
        (1, {"weight": 0.5}, '"weight" is 0.5: only 0, 1, false and true are read'),
        (1, {"loss": "no"}, "\"loss\" is 'no'"),
        (0, {"loss": True}, '"loss" is True on the turn of a user: only answers are learned'),
        (1, {"loss": True, "is_input": True}, "contradict each other"),
        (1, {"role": "user"}, 'of "from" and "role" it has both'),
    ],
)
def test_losses_that_are_not_read(tmp_path, turn, more, message):
    turns = small_corpus.turns("x")
    turns[turn] |= more
    error = refusal(source_of(tmp_path, [{"conversations": turns}]))
    assert error.reason == "bad_record" and message in str(error)


def dataset_with(monkeypatch, folder, feature):
    """A dataset that was written elsewhere, with one feature more than is read."""
    path = small_corpus.write_jsonl(folder / "rows.jsonl", [{"conversations": small_corpus.turns("x")}])
    features, encode = tfds.features(), tfds.encode
    text = tensorflow_datasets.features.Text()
    with monkeypatch.context() as patch:
        patch.setattr(tfds, "features", lambda: tensorflow_datasets.features.FeaturesDict(dict(features) | {feature: text}))
        patch.setattr(tfds, "encode", lambda *arguments: encode(*arguments) | {feature: "x"})
        return convert.convert(SourceSettings("rows", "jsonl", str(path)), folder, 1 << 20, FailurePolicy())[0]


def test_a_feature_of_a_dataset_that_cannot_change_training_is_counted(tmp_path, monkeypatch):
    source = open_source(SourceSettings("rows", "tfds", str(dataset_with(monkeypatch, tmp_path, "score"))))
    assert len(source[0].turns) == 2 and source.ignored == {"score": 1}


def test_a_feature_of_a_dataset_that_can_is_refused(tmp_path, monkeypatch):
    folder = str(dataset_with(monkeypatch, tmp_path, "system_prompt"))
    with pytest.raises(DataError, match="the feature 'system_prompt', which can change what is trained"):
        open_source(SourceSettings("rows", "tfds", folder))
    assert len(open_source(SourceSettings("rows", "tfds", folder, ignore=("system_prompt",)))[0].turns) == 2
