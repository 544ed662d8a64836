"""Meta files that list JSONL datasets, as the training kits of InternVL and SenseNova-U1 read them."""

import json

import pytest
import small_corpus
from small_corpus import WIDE, phase, tokenizer

from data_pipelines.index import work
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.opening import NamedTokenizer, open_indexed
from data_pipelines.inspection.leaks import find_leaks
from data_pipelines.schema import DataError, SampleError, SourceSettings
from data_pipelines.sources import open_source


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    rows = [{"conversations": small_corpus.turns(f"What is {i}?", f"{i}.")} for i in range(10)]
    small_corpus.write_jsonl(root / "one.jsonl", rows[:6])
    small_corpus.write_jsonl(root / "two.jsonl", rows[6:])
    return root


def opened(root, listed, **settings):
    (root / "meta.json").write_text(json.dumps(listed))
    return open_source(SourceSettings("all", "meta", str(root / "meta.json"), **settings))


def listing(root):
    texts = {"root": "", "annotation": [str(root / "one.jsonl"), str(root / "two.jsonl")]}
    return {
        "pictures": {
            "root": str(root / "media"),
            "annotation": str(root / "mixed.jsonl"),
            "repeat_time": 2,
            "length": 12,
            "data_augment": False,
        },
        "part": texts | {"repeat_time": 0.75, "max_dynamic_patch": 6},
        "whole": texts,
    }


def test_datasets_follow_one_another_as_often_as_they_are_repeated(root):
    source = opened(root, listing(root))
    assert len(source) == 2 * 12 + 7 + 10
    keys = [source.key(number) for number in range(len(source))]
    assert keys[:24] == [f"pictures/mixed.jsonl:{line}" for line in range(1, 13)] * 2
    assert keys[24:31] == [f"part/one.jsonl:{line}" for line in range(1, 7)] + ["part/two.jsonl:1"]
    assert keys[31:] == [f"whole/one.jsonl:{line}" for line in range(1, 7)] + [f"whole/two.jsonl:{line}" for line in range(1, 5)]
    assert [source[number].key for number in range(len(source))] == keys
    assert source[12].images == source[0].images and source[0].images
    assert source.ignored == {"length": 1, "data_augment": 1, "max_dynamic_patch": 1}


def test_its_index_is_that_of_its_datasets_and_copies_are_measured_once(root, tmp_path, inspected):
    source = opened(root, listing(root))
    lengths = LengthIndex.open(source, tokenizer(), tmp_path).lengths(phase(**WIDE), 0)[:]
    assert len(inspected) == 12 + 6 + 1 + 4, "one.jsonl once; of two.jsonl a cut shard and the whole"
    alone = LengthIndex.open(small_corpus.jsonl(root / "mixed.jsonl"), tokenizer(), tmp_path / "alone").lengths(phase(**WIDE, frames=1), 0)[
        :
    ]
    assert (lengths[:8] == alone[:8]).all() and (lengths[12:20] == alone[:8]).all()
    assert (lengths[24:31] == lengths[31:38]).all()


def test_other_processes_measure_it_too(root, tmp_path, monkeypatch, inspected):
    monkeypatch.setattr(work, "CHUNK", 4)
    source = opened(root, listing(root))
    path = str(small_corpus.GOLDEN / "tokenizer.json")
    named = NamedTokenizer(tokenizer(), path, True)
    ((_, index),) = open_indexed([source.settings], named, tmp_path / "many", processes=2)
    alone = LengthIndex.open(source, tokenizer(), tmp_path / "one")
    assert index.digest() == alone.digest() and len(inspected) == 12 + 6 + 1 + 4, "those of the second"


def test_held_out_rows_of_a_listed_file_are_noticed(root):
    held_out = open_source(SourceSettings("held", "jsonl", str(root / "two.jsonl")))
    assert find_leaks({"all": opened(root, listing(root))}, {"held": held_out})[0].startswith("held-out source held reads the file of")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotation": None}, r"dataset 'whole' must have \"annotation\""),
        ({"annotation": []}, r"must have \"annotation\""),
        ({"repeat_time": 1.5}, r"\"repeat_time\" is 1.5, must be a whole number"),
        ({"repeat_time": 0}, "must be a whole number"),
        ({"repeat_time": "2"}, "must be a whole number"),
        ({"root": 3}, r"\"root\" is 3"),
        ({"root": "/nowhere/at/all"}, "media_root /nowhere/at/all is not a folder"),
        ({"annotation": "/nowhere/a.jsonl"}, "/nowhere/a.jsonl"),
        ({"data_augment": True}, r"'data_augment' is not read .*`ignore`"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_named(root, change, message):
    listed = listing(root)
    listed["whole"] = listed["whole"] | change
    with pytest.raises(DataError, match=message):
        opened(root, listed)


def test_what_is_refused_can_be_passed_over_by_name(root):
    listed = listing(root)
    listed["whole"]["data_augment"] = True
    assert opened(root, listed, ignore=("data_augment",)).ignored["data_augment"] == 2


@pytest.mark.parametrize("text", ["[]", "{}", "nothing", '{"a": []}'])
def test_a_file_that_is_no_list_of_datasets_is_refused(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"source 'all': .*meta\.json"):
        open_source(SourceSettings("all", "meta", str(tmp_path / "meta.json")))


def test_a_broken_row_is_named_with_its_dataset(root, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"conversations": []}\n{"conversations": \n')
    source = opened(root, {"d": {"root": "", "annotation": str(tmp_path / "rows.jsonl")}})
    with pytest.raises(SampleError):
        source[0]
    assert source.key(1) == "d/rows.jsonl:2"
