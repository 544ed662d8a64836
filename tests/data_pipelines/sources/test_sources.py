import json
import os
import subprocess
import sys

import pytest
import small_corpus

from data_pipelines import convert
from data_pipelines.media.images import read_bytes
from data_pipelines.schema import DataError, SampleError, SourceSettings, Turn
from data_pipelines.sources import open_source


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root)
    return root


def source_of(tmp_path, records, name="rows.jsonl"):
    (tmp_path / "media").mkdir(exist_ok=True)
    return small_corpus.jsonl(small_corpus.write_jsonl(tmp_path / name, records))


def test_fields_of_every_kind_of_record(root):
    samples = list(map(small_corpus.jsonl(root / "mixed.jsonl").__getitem__, range(12)))
    single, several, pair, clip, text, system = samples[0], samples[6], samples[7], samples[8], samples[10], samples[11]
    assert single.key == "mixed.jsonl:1" and single.family == "what"
    assert single.turns == (Turn("user", "<image>\nWhat is 0 here?"), Turn("assistant", "Yes."))
    assert [image.name for image in single.images] == ["pictures/0.png"] and single.clips == ()
    assert single.images[0].path == str((root / "media/pictures/0.png").resolve())
    assert [image.name for image in several.images] == ["pictures/0.png", "pictures/1.jpg", "pictures/2.webp"]
    assert [image.name for image in pair.images] == ["pictures/0.png", "pictures/1.jpg"]
    assert clip.images == () and clip.clips[0].name == "clip.mp4"
    assert text.images == () and text.clips == () and text.family == ""
    assert [turn.role for turn in system.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn.is_input for turn in system.turns] == [False, False, True, False, False]


def test_a_json_list_gives_the_same_samples(root, tmp_path):
    lines = (root / "mixed.jsonl").read_text().splitlines()
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps([json.loads(line) for line in lines], indent=1))
    whole, by_line = small_corpus.jsonl(path, media_root=root / "media"), small_corpus.jsonl(root / "mixed.jsonl")
    assert len(whole) == len(by_line) == 12
    for index in range(12):
        assert (whole[index].turns, whole[index].images, whole[index].clips) == (
            by_line[index].turns,
            by_line[index].images,
            by_line[index].clips,
        )
    assert whole[3].key == whole.key(3) == "mixed.json[3]"


def test_lines_are_found_in_any_order_past_empty_lines_and_windows_line_ends(tmp_path):
    (tmp_path / "media").mkdir()
    texts = ["first", "second \u4e16\u754c", "third", "last"]
    lines = [json.dumps({"conversations": small_corpus.turns(text)}, ensure_ascii=False) for text in texts]
    (tmp_path / "rows.jsonl").write_bytes(("\ufeff" + lines[0] + "\r\n\r\n\n" + lines[1] + "\n" + lines[2] + "\r\n" + lines[3]).encode())
    source = small_corpus.jsonl(tmp_path / "rows.jsonl")
    assert len(source) == 4
    assert [source[index].turns[0].text for index in (3, 1, 0, 2)] == [texts[index] for index in (3, 1, 0, 2)]
    assert [source.key(index) for index in range(4)] == ["rows.jsonl:1", "rows.jsonl:4", "rows.jsonl:5", "rows.jsonl:6"]


TURNS = small_corpus.turns("What?")
MARKED = small_corpus.turns("<image> What?")


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ('{"conversations": [', "broken_json", "rows.jsonl, line 2"),
        ('{"conversations": "\xff', "broken_json", "line 2"),
        ("[" * 100_000, "broken_json", "line 2"),
        ("3", "bad_record", "rows.jsonl:2: a record is an object"),
        ({}, "bad_record", "keys are none: nothing to train on"),
        ({"conversations": []}, "bad_record", "at least one turn"),
        ({"conversations": ["Hi"]}, "bad_record", "rows.jsonl:2, turn 0"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "bad_record", "strings"),
        ({"conversations": [{"from": "gpt", "value": "half \ud800"}]}, "bad_text", "half of a surrogate pair"),
        ({"conversations": [{"from": "gpt", "value": "x", "is_input": 1}]}, "bad_record", "is_input"),
        ({"conversations": [{"from": "human", "value": "x", "is_input": True}]}, "bad_record", "assistant turns only"),
        ({"conversations": [*TURNS, {"from": "robot", "value": "x"}]}, "unknown_role", "turn 2: unknown role 'robot'"),
        ({"conversations": MARKED}, "image_marks", "1 <image> marks for 0 files"),
        ({"conversations": TURNS, "image": "a.png"}, "image_marks", "0 <image> marks for 1 files"),
        ({"conversations": small_corpus.turns("<image><image>"), "images": ["a.png"] * 3}, "image_marks", "2 <image> marks for 3 files"),
        ({"conversations": small_corpus.turns("<image><image>"), "image": "a.png"}, "image_marks", "2 <image> marks for 1 files"),
        ({"conversations": TURNS, "video": "a.mp4"}, "video_marks", "0 <video> marks for 1"),
        ({"conversations": small_corpus.turns("<video><video>"), "video": "a.mp4"}, "video_marks", "2 <video> marks for 1"),
        ({"conversations": small_corpus.turns("<video>")}, "video_marks", "1 <video> marks for 0"),
        ({"conversations": small_corpus.turns("<video><image>"), "video": "a.mp4"}, "image_marks", "1 <image> marks for 0"),
        ({"conversations": small_corpus.turns("<video>"), "video": ["a.mp4", "b.mp4"]}, "video_marks", "1 <video> marks for 2 files"),
        ({"conversations": MARKED, "image": "a.png", "images": ["a.png"]}, "bad_record", '"image" and "images": keep one'),
        ({"conversations": MARKED, "image": ""}, "image_marks", 'name the file in "image"'),
        ({"conversations": MARKED, "image": [3]}, "bad_record", '"image" must be'),
        ({"conversations": MARKED, "image": "a\0.png"}, "bad_record", '"image" must be'),
        ({"conversations": MARKED, "image": {"file": "a.png"}}, "bad_record", "not an object with 'file'"),
        ({"conversations": MARKED, "image": {"bytes": "no base64!"}}, "bad_media", "not valid base64"),
        ({"conversations": MARKED, "image": "data:image/svg+xml,<svg/>"}, "bad_media", "encode the file as base64"),
        ({"conversations": MARKED, "image": "gs://bucket/a.png"}, "web_address", "gs://bucket/a.png"),
        ({"conversations": TURNS, "messages": TURNS}, "bad_record", '"conversations" and "messages"'),
        ({"problem": "What?", "solution": "A square."}, "bad_record", "the row's keys are 'problem', 'solution'"),
        ({"conversations": TURNS, "system": 3}, "bad_record", '"system" must be a string, not a number'),
        ({"conversations": [{"from": "system", "value": "x"}, *TURNS], "system": "y"}, "bad_record", "a system turn"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a"}]}]}, "unknown_key", "turn 0, part 0: the key 'audio'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "bad_record",
            "parts of the type 'input_file' are not read",
        ),
        ({"conversations": small_corpus.turns("<image>", "<image>\n"), "images": ["a.png"] * 2}, "empty_answer", "turn 1"),
        ({"conversations": small_corpus.turns("What does\n<video>\nshow?")}, "video_marks", 'name the file in "video"'),
        ({"conversations": TURNS, "family": 3}, "bad_record", '"family"'),
        ({"conversations": MARKED, "image": "../secret.png"}, "path_escapes_root", "'../secret.png'"),
        ({"conversations": MARKED, "image": "inside/../../a.png"}, "path_escapes_root", "media_root"),
        ({"conversations": MARKED, "image": "/etc/hostname"}, "path_escapes_root", "'/etc/hostname'"),
        ({"conversations": MARKED, "image": "link.png"}, "path_escapes_root", "'link.png' is a link that leads to"),
        ({"conversations": small_corpus.turns("<video>"), "video": "away/a.mp4"}, "path_escapes_root", "'away/a.mp4'"),
    ],
)
def test_a_bad_record_is_refused_with_its_place_and_the_next_one_is_read(tmp_path, record, reason, message):
    good = {"conversations": TURNS}
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "media").mkdir()
    (tmp_path / "media/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "media/away").symlink_to(tmp_path)
    source = source_of(tmp_path, [good, record, good])
    with pytest.raises(SampleError) as caught:
        source[1]
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert source[0].turns == source[2].turns
    assert source.key(1) == "rows.jsonl:2"


def test_a_link_inside_the_root_is_followed(tmp_path):
    small_corpus.write_image(tmp_path / "media/a.png", 40, 40)
    (tmp_path / "media/b.png").symlink_to("a.png")
    sample = source_of(tmp_path, [{"conversations": MARKED, "image": "b.png"}])[0]
    assert read_bytes(sample.images[0]) == (tmp_path / "media/a.png").read_bytes()


def test_media_without_a_root_are_refused(tmp_path):
    path = small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"conversations": MARKED, "image": "a.png"}])
    with pytest.raises(SampleError, match="no media_root"):
        open_source(SourceSettings("rows", "jsonl", str(path)))[0]


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "  "])
def test_an_empty_source_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match="holds no samples"):
        open_source(SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl")))


def test_sources_that_cannot_be_opened_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text('[{"conversations": []},\n {"x" 3}]')
    (tmp_path / "fine.jsonl").write_text("{}\n")
    for settings, message in (
        (SourceSettings("a", "jsonl", str(tmp_path / "none.jsonl")), "source 'a': cannot read"),
        (SourceSettings("a", "jsonl", str(tmp_path / "broken.json")), "line 2"),
        (SourceSettings("a", "jsonl", str(tmp_path / "fine.jsonl"), str(tmp_path / "none")), "is not a folder"),
        (SourceSettings("a", "excel", "x"), "format 'excel': use one of jsonl, tar"),
        (SourceSettings("a", "tfds", str(tmp_path)), "not a TFDS array_record dataset"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(settings)


def test_a_source_is_known_by_content_and_settings_and_not_by_place_or_time(tmp_path):
    records = [{"conversations": TURNS}]
    first = small_corpus.identities(source_of(tmp_path, records))
    os.utime(tmp_path / "rows.jsonl", ns=(1, 1))
    (tmp_path / "mount").mkdir()
    copy = small_corpus.write_jsonl(tmp_path / "mount/rows.jsonl", records)
    for path in (tmp_path / "rows.jsonl", copy):
        assert small_corpus.identities(small_corpus.jsonl(path, media_root=tmp_path)) == first
    assert small_corpus.identities(open_source(SourceSettings("mixed", "jsonl", str(copy), str(tmp_path), ignore=("x",)))) != first
    other = small_corpus.write_jsonl(tmp_path / "other.jsonl", records)  # keys name the file, and prompts are drawn by keys
    drawn = [SourceSettings("mixed", "jsonl", str(path), prompts=("a", "b")) for path in (copy, other)]
    assert small_corpus.identities(open_source(drawn[0])) != small_corpus.identities(open_source(drawn[1]))
    assert small_corpus.identities(source_of(tmp_path, [*records, *records])) != first


def test_both_formats_give_the_same_samples(root, tmp_path):
    """Through array_record and back: keys, turns, names and every byte of the media, in several shards."""
    original = small_corpus.jsonl(root / "mixed.jsonl")
    settings = SourceSettings("mixed", "jsonl", str(root / "mixed.jsonl"), str(root / "media"))
    folder, failures = convert.convert(settings, tmp_path, 200_000, convert.FailurePolicy())
    assert failures.failed == 0 and len(list(folder.glob("*.array_record*"))) > 1
    copy = open_source(SourceSettings("mixed", "tfds", str(folder)))
    assert len(copy) == len(original) == 12

    def content(sample):
        return (sample.key, sample.turns, sample.family, len(sample.clips), [(item.name, read_bytes(item)) for item in sample.files])

    for index in range(12):
        assert content(copy[index]) == content(original[index])
        assert copy.key(index) == original.key(index)
    assert small_corpus.identities(copy) == small_corpus.identities(open_source(SourceSettings("mixed", "tfds", str(folder))))


def test_reading_and_writing_array_records_need_no_tensorflow(root, tmp_path):
    program = """
import sys
from data_pipelines import convert
from data_pipelines.schema import SourceSettings
from data_pipelines.sources import open_source
folder = sys.argv[5]
arguments = ["--input", sys.argv[1], "--media-root", sys.argv[2], "--output", sys.argv[3], "--name", "mixed"]
assert convert.main(arguments) == 0
source = open_source(SourceSettings("mixed", "tfds", folder))
assert [len(source[i].turns) for i in range(len(source))]
assert sys.argv[4] not in sys.modules
"""
    arguments = [root / "mixed.jsonl", root / "media", tmp_path, "tensorflow", tmp_path / "mixed/1.0.0"]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)
