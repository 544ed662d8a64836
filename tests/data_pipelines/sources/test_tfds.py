"""TFDS datasets by folder, and by name and version from a data directory."""

import io
import pathlib

import pytest
import small_corpus
import tensorflow_datasets
from array_record.python import array_record_module
from PIL import Image

from data_pipelines.convert import FailurePolicy, convert
from data_pipelines.media.images import image_size
from data_pipelines.schema import DataError, SourceSettings
from data_pipelines.sources import open_source


def write_dataset(folder, texts, kinds=None):
    """A dataset NAME[/CONFIG]/VERSION of captions, as other programs write it."""
    features = tensorflow_datasets.features.FeaturesDict(
        {"image": tensorflow_datasets.features.Image(), "caption": tensorflow_datasets.features.Text()}
    )
    folder.mkdir(parents=True)
    name = "captions"
    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split="train", filetype_suffix="array_record"
    )
    writer = array_record_module.ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
    for text in texts:
        picture = io.BytesIO()
        Image.new("RGB", (48, 32)).save(picture, "PNG")
        picture.seek(0)
        writer.write(features.serialize_example(features.encode_example({"image": picture, "caption": text})))
    writer.close()
    split = tensorflow_datasets.core.SplitInfo(name="train", shard_lengths=[len(texts)], num_bytes=1, filename_template=template)
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=folder, features=features, version=folder.name, split_infos=[split], check_data=False
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        write_dataset(root / "captions" / version, [f"of {version}", "second"])
    write_dataset(root / "captions" / "small" / "2.0.0", ["of the small one"])
    return root


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("captions/1.0.0", "of 1.0.0"),
        ("captions:1.9.0", "of 1.9.0"),
        ("captions", "of 1.10.0"),
        ("captions/small:2.0.0", "of the small one"),
        ("captions/small", "of the small one"),
    ],
)
def test_a_dataset_by_folder_name_and_version(data_dir, path, answer):
    source = open_source(SourceSettings("rows", "tfds", str(data_dir / path)))
    assert source[0].turns[1].text == answer and image_size(source[0].images[0]) == (32, 48)
    assert source.key(0) == "captions-train.array_record-00000-of-00001[0]"


def test_its_files_are_a_source_too(data_dir):
    source = open_source(SourceSettings("rows", "arrayrecord", str(data_dir / "captions/{1.9.0,1.10.0}/*.array_record*")))
    assert [source[index].turns[1].text for index in (0, 2)] == ["of 1.9.0", "of 1.10.0"]
    assert source.key(2) == "1.10.0/captions-train.array_record-00000-of-00001[0]"


@pytest.mark.parametrize("path", ["captions:3.0.0", "other:1.0.0", "other", "captions/large:1.0.0"])
def test_datasets_that_are_not_there(data_dir, path):
    with pytest.raises(DataError, match=f"source 'rows': {data_dir / path} is not a TFDS array_record dataset .*write one with"):
        open_source(SourceSettings("rows", "tfds", str(data_dir / path)))


def test_a_copy_is_the_same_data(data_dir, tmp_path):
    path = data_dir / "captions/1.0.0"
    (tmp_path / "copy").mkdir()
    for file in pathlib.Path(path).iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    first, copy = (
        small_corpus.identities(open_source(SourceSettings("rows", "tfds", str(folder)))) for folder in (path, tmp_path / "copy")
    )
    assert first == copy != small_corpus.identities(open_source(SourceSettings("rows", "tfds", str(data_dir / "captions"))))


def test_a_converted_dataset_has_no_columns_to_filter_by(tmp_path):
    small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"text": "a text", "lang": "en"}])
    folder, _ = convert(SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl")), tmp_path / "out", 1 << 30, FailurePolicy())
    assert len(open_source(SourceSettings("copy", "tfds", str(folder), keep=("tokens > 0",)))) == 1
    with pytest.raises(DataError, match=r"column\.lang in en.* holds samples without their rows' columns"):
        open_source(SourceSettings("copy", "tfds", str(folder), keep=("column.lang in en",)))
