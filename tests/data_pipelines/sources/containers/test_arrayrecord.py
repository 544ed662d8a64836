"""ArrayRecord files with JSON, and TFDS datasets of any features."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from PIL import Image

from data_pipelines.schema import DataError, SampleError
from data_pipelines.sources.containers.arrayrecord import ArrayRecords, example_decoder
from data_pipelines.sources.containers.shards import Shards
from data_pipelines.sources.containers.tables import Tables

features = tensorflow_datasets.features


def write(path, records):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def opened(*paths):
    return Shards(ArrayRecords(), [str(path) for path in paths], Tables(None), "rows")


def png():
    content = io.BytesIO()
    Image.new("RGB", (8, 6)).save(content, "PNG")
    content.seek(0)
    return content


def test_json_records(tmp_path):
    rows = [{"text": f"row {number} \u4e16"} for number in range(5)]
    container = opened(
        *(write(tmp_path / name, [json.dumps(row).encode() for row in part]) for name, part in (("a", rows[:2]), ("b", rows[2:])))
    )
    assert [container.record(index).fields for index in (4, 0, 2)] == [rows[4], rows[0], rows[2]]
    assert container.key(4) == "b[2]" and [shard.samples for shard in container.shards()] == [2, 3]


def test_examples_of_many_features_are_plain_values_with_media_encoded():
    kinds = features.FeaturesDict(
        {
            "image": features.Image(),
            "images": features.Sequence(features.Image()),
            "conversations": features.Sequence({"from": features.Text(), "value": features.Text()}),
            "label": features.ClassLabel(names=["a", "b"]),
            "box": features.BBoxFeature(),
            "sizes": features.Sequence(np.int64),
            "inner": {"image": features.Image(), "text": features.Text()},
        }
    )
    turns = [{"from": "human", "value": "\u00e9?"}, {"from": "gpt", "value": ""}]
    example = {"image": png(), "images": [png(), png()], "conversations": turns, "label": "b", "sizes": [3, 4]}
    example |= {"box": features.BBox(0.0, 0.5, 1.0, 1.0), "inner": {"image": png(), "text": "t"}}
    fields = example_decoder(kinds)(kinds.serialize_example(kinds.encode_example(example)))
    bytes_of = png().getvalue()
    assert fields == {
        "image": bytes_of,
        "images": [bytes_of] * 2,
        "conversations": turns,
        "label": 1,
        "box": [0.0, 0.5, 1.0, 1.0],
        "sizes": [3, 4],
        "inner": {"image": bytes_of, "text": "t"},
    }


def test_damage_is_named(tmp_path):
    path = write(tmp_path / "a", [b'{"text": "first"}', b"{broken", b'{"text": "third"}', b'{"text": "fourth"}'])
    content = bytearray(path.read_bytes())
    at = content.index(b"third")
    content[at : at + 5] = b"\xff" * 5
    path.write_bytes(content)
    container = opened(path)
    assert [container.record(index).fields["text"] for index in (0, 3)] == ["first", "fourth"]
    for index, message in ((1, "is not what its file holds elsewhere"), (2, "cannot be read")):
        with pytest.raises(SampleError, match=rf"a\[{index}\]: record {index} of .*a {message}") as caught:
            container.record(index)
        assert caught.value.reason == "broken_record"
    path.write_bytes(content[:70_000])
    with pytest.raises(DataError, match=r"source 'rows': .*a is cut short, damaged or without records"):
        opened(path)


def test_other_files_and_stores_are_refused(tmp_path):
    (tmp_path / "a").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match='is JSON, not an ArrayRecord file: set the source\'s format to "jsonl"'):
        opened(tmp_path / "a")
    path = write(tmp_path / "b", [b"{}"])
    with pytest.raises(DataError, match="is an ArrayRecord file, not a tar archive"):
        from data_pipelines.sources.containers.tar import Tar

        Shards(Tar(), str(path), Tables(None), "rows")
