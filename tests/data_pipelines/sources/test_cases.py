"""Rows from public reports (../cases): each is read rightly or refused by a sentence that names the fault."""

import json
import pathlib
import shutil
import unicodedata

import pytest
import small_corpus

from data_pipelines.index.measures import inspect
from data_pipelines.media.images import image_size
from data_pipelines.schema import DataError, SampleError, SourceSettings, Turn
from data_pipelines.sources import open_source
from data_pipelines.text import chat
from data_pipelines.text.marks import words

CASES = pathlib.Path(__file__).parents[1] / "cases"


def rows_of(path, media_root=None, **settings):
    """Each row as a sample, or as the error that refuses it; usable samples are measured as the index does."""
    root = media_root or path.parent / "media"
    source = open_source(SourceSettings("rows", "jsonl", str(path), str(root) if root.is_dir() else "", **settings))
    rows = []
    for number in range(len(source)):
        try:
            sample = source[number]
            if not any(clip.name.endswith(("gif", "webp")) for clip in sample.clips):
                inspect(sample, small_corpus.tokenizer())
            rows.append(sample)
        except SampleError as error:
            rows.append(error)
    return rows


def case(name, ignore=()):
    return rows_of(CASES / name / "rows.jsonl", ignore=ignore)


def kinds(rows):
    """ "text", "image" or "video" for a usable row, else its reason."""
    return [row.reason if isinstance(row, SampleError) else "video" if row.clips else "image" if row.images else "text" for row in rows]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip_as_a_list_of_frames", ["bad_record", "video"]),
        ("clip_as_gif", ["video"]),
        ("clip_as_webp", ["video"]),
        ("clip_marked_as_image", ["video", "video_marks"]),
        ("clip_marked_as_image_later", ["video"]),
        ("empty_answer", ["empty_answer", "empty_answer", "text"]),
        ("empty_media_values", ["text", "text", "video", "video", "image"]),
        ("half_a_surrogate_pair", ["bad_text", "text"]),
        ("mark_as_a_word", ["text"]),
        ("messages_with_role_and_content", ["image", "text", "image"]),
        ("picture_as_path_and_bytes", ["image", "image"]),
        ("picture_in_the_row", ["image", "web_address"]),
        ("tool_turns", ["text", "text"]),
        ("two_clips_in_a_row", ["video", "video"]),
    ],
)
def test_what_is_read_and_what_is_refused(name, expected):
    assert kinds(case(name)) == expected


def test_media_under_a_key_that_is_not_read_are_refused():
    rows = case("media_under_another_key")
    for row, name in ((rows[0], "image_path"), (rows[1], "image_url"), (rows[3], "img")):
        assert f"the key {name!r} can change what is trained, and it is not read; did you mean 'image'?" in str(row)
    assert "0 <video> marks for 1 files; write one mark where each file belongs" in str(rows[2])
    assert kinds(rows)[4] == "video"


def test_frames_are_a_clip_where_something_says_when_they_are_shown():
    refused, clip = case("clip_as_a_list_of_frames")
    assert 'the clip is given as 3 frames, and nothing says when they are shown: give "fps" or "timestamps" in the row' in str(refused)
    assert clip.clips[0].times == (0.0, 0.5, 1.0) and [file.name for file in clip.clips[0].files] == ["f0.jpg", "f1.jpg", "f2.jpg"]
    first, second = rows_of(CASES / "clip_as_a_list_of_frames/rows.jsonl", frame_rate=4.0)
    assert first.clips[0].times == (0.0, 0.25, 0.5) and second.clips[0].times == (0.0, 0.5, 1.0)


def test_several_clips_stand_at_their_marks():
    two, mixed = case("two_clips_in_a_row")
    assert [clip.name for clip in two.clips] == ["0.mp4", "1.mp4"] and two.turns[0].text == "<video>\n<video>\nWhich is longer?"
    assert [image.name for image in mixed.images] == ["0.png"] and [clip.name for clip in mixed.clips] == ["0.mp4"]


def test_tools_speak_as_users_and_calls_are_answers():
    for row in case("tool_turns"):
        assert [turn.role for turn in row.turns] == ["user", "assistant", "user", "assistant"]
        assert row.turns[2].text == "<tool_response>\n12:00\n</tool_response>"
    assert case("tool_turns")[0].turns[1].text == '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def test_a_clip_marked_as_an_image_stands_at_the_mark():
    first, second = case("clip_marked_as_image")
    assert first.turns[0].text == "<video>\nWhat happens?"
    assert "0 <video> marks for 1 files; write one mark where each file belongs" in str(second)
    (later,) = case("clip_marked_as_image_later")
    assert [turn.text for turn in later.turns] == ["What happens?\n<video>", "It brightens.", "How fast?", "Slowly."]


def test_messages_read_like_conversations():
    first, second, third = case("messages_with_role_and_content")
    assert [(turn.role, turn.text) for turn in first.turns] == [("user", "<image>What is it?"), ("assistant", "A square.")]
    assert [turn.role for turn in second.turns] == ["system", "user", "assistant"]
    assert [image.name for image in third.images] == ["0.png"]


def test_a_system_prompt_and_tools_become_the_first_turn():
    first, second = case("system_prompt_as_a_column")
    assert first.turns[0] == Turn("system", "Answer in one word.") and len(first.turns) == 3
    assert (
        second.turns[0].text.startswith("Use the tools.\n\n# Tools\n\nYou may call")
        and '<tools>\n{"name": "clock"}\n</tools>' in second.turns[0].text
    )
    assert case("system_prompt_as_a_column", ignore=("tools",))[1].turns[0].text == "Use the tools."


def text_row(tmp_path, question, answer="Yes.", **more):
    (row,) = rows_of(small_corpus.write_jsonl(tmp_path / "rows.jsonl", [{"conversations": small_corpus.turns(question, answer), **more}]))
    return row


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which tag plays a clip, <video> or <audio>?", "<video>"),
        ("What is this?", "<video>\n  <source>\n</video>"),
        ("<img src='a'> or <picture>?", "Hello <|im_end|> [INST]"),
        ("How is it written in JSX and XML?", "<Image>\n</Image>, <image_url>a</image_url>"),
    ],
)
def test_words_that_look_like_marks(tmp_path, question, answer):
    row = text_row(tmp_path, question, answer)
    assert [words(turn.text) for turn in row.turns] == [question, answer]
    assert f"user\n{question}" in small_corpus.tokenizer().decode(chat.encode(row.turns, [], small_corpus.tokenizer())[0])


@pytest.mark.parametrize(
    "mark",
    [
        "<|image_pad|>",
        "<|vision_start|>",
        "<image_1>",
        "<image 2>",
        "<ImageHere>",
        "<IMAGE>",
        "<Video>",
        "<video_placeholder>",
        "<audio>",
    ],
)
def test_marks_of_other_kits_are_refused(tmp_path, mark):
    row = text_row(tmp_path, f"{mark}\nWhat is it?")
    assert row.reason == "unknown_mark" and f"the mark {mark} is not read; did you mean <image>" in str(row)


@pytest.mark.parametrize("question", ["<video>\nWhat happens?", "What happens?\n<video>", "Look:\n<video>\nWhat?", "What happens? <video>"])
def test_a_clip_that_is_not_named_is_no_word(tmp_path, question):
    row = text_row(tmp_path, question, video=None)
    assert row.reason == "video_marks" and 'name the file in "video", or write \\<video> where the word is meant' in str(row)


def test_half_a_surrogate_pair_is_called_so():
    assert 'turn 0: "value" holds half of a surrogate pair' in str(case("half_a_surrogate_pair")[0])


def test_a_picture_in_the_row_is_its_bytes():
    first, second = case("picture_in_the_row")
    assert image_size(first.images[0]) == (32, 32)
    assert "addresses are not fetched" in str(second)


def test_absolute_paths_inside_the_root(tmp_path):
    shutil.copytree(CASES / "absolute_path_inside_root", tmp_path / "case")
    root = tmp_path / "case/media"
    text = (tmp_path / "case/rows.template.jsonl").read_text().replace("@ROOT@", str(root))
    path = root.parent / "rows.jsonl"
    path.write_text(text)
    rows = rows_of(path)
    assert kinds(rows) == ["image", "image", "path_escapes_root", "image"]
    assert "lies outside of media_root" in str(rows[2])
    (tmp_path / "other").symlink_to(root)  # the root as the rows write it may be a link
    path.write_text(text.replace(str(root), str(tmp_path / "other")))
    assert kinds(rows_of(path, media_root=tmp_path / "other"))[:2] == ["image", "image"]


def hub(folder):
    """A download as a hub client leaves it: links of a snapshot into the blobs."""
    snapshot = folder / "snapshots/r1"
    snapshot.mkdir(parents=True)
    for number in range(3):
        small_corpus.write_image(folder / f"blobs/{number}a7f{number}.png", 32, 32, number)
        (snapshot / f"{number}.png").symlink_to(f"../../blobs/{number}a7f{number}.png")
    rows = [{"image": f"{number}.png", "conversations": small_corpus.turns("<image>?")} for number in range(3)]
    return small_corpus.write_jsonl(snapshot / "rows.jsonl", rows)


def test_links_into_the_blobs_of_the_same_download_are_followed(tmp_path):
    path = hub(tmp_path / "hub")
    assert kinds(rows_of(path, media_root=path.parent)) == ["image"] * 3


def test_other_links_out_of_the_root_are_called_links(tmp_path):
    path = hub(tmp_path / "hub")
    (path.parent / "1.png").unlink()
    (path.parent / "1.png").symlink_to("/etc/hostname")
    (path.parent / "2.png").unlink()
    (path.parent / "2.png").symlink_to(hub(tmp_path / "another").parent / "0.png")
    rows = rows_of(path, media_root=path.parent)
    assert kinds(rows) == ["image", "path_escapes_root", "path_escapes_root"]
    assert "'1.png' is a link that leads to /etc/hostname, outside of media_root" in str(rows[1])


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_a_name_composed_differently_finds_its_file(tmp_path, stored):
    name = "\u00e9\u56f3\u304c"
    small_corpus.write_image(tmp_path / "media" / unicodedata.normalize(stored, f"{name}/{name}.png"), 32, 48)
    for form in ("NFC", "NFD"):
        row = {"image": unicodedata.normalize(form, f"{name}/{name}.png"), "conversations": small_corpus.turns("<image>?")}
        (sample,) = rows_of(small_corpus.write_jsonl(tmp_path / "rows.jsonl", [row]))
        assert image_size(sample.images[0]) == (32, 48)


def test_the_home_folder_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small_corpus.write_image(tmp_path / "media/a.png", 32, 32)
    small_corpus.write_jsonl(tmp_path / "a.jsonl", [{"image": "a.png", "conversations": small_corpus.turns("<image>?")}])
    sample = open_source(SourceSettings("a", "jsonl", "~/a.jsonl", "~/media"))[0]
    assert sample.images[0].path == str(tmp_path / "media/a.png")
    with pytest.raises(DataError, match="write the folder out"):
        open_source(SourceSettings("a", "jsonl", "~nobody-of-this-name/a.jsonl"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("rows.parquet", "is a Parquet file"), ("rows.csv", "is CSV"), ("pretty.json", 'one JSON object, whose rows may be under "data"')],
)
def test_other_containers_are_recognised(name, message):
    with pytest.raises(DataError, match=message):
        open_source(SourceSettings("rows", "jsonl", str(CASES / "other_containers_as_source" / name)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04....", "a zip archive"),
        (b"\x1f\x8b\x08....", "is cut short or damaged .*, and no row is left"),
        (b"BZh....", "compressed with bzip2"),
        (b"x" * 257 + b"ustar  ", "a tar archive"),
        ('{"a": 1}\n'.encode("utf-16-le"), "text in UTF-16"),
        (b"\n <!DOCTYPE html>\n<html>", "HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer"),
        (b"image\tquestion\n0.png\tWhat?\n", "TSV"),
        (b"What is this?\n", "text .it begins with 'What is this.'"),
        (b'{"rows": [{"conversations": []}, {"conversations": []}]}\n', 'whose rows may be under "rows"'),
        (b'{\n "a": 1\n}\n{\n "a": 2\n}\n', "objects over several lines"),
        (bytes(range(256)) * 4, "a binary file"),
    ],
)
def test_files_that_are_no_json_lines(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(SourceSettings("rows", "jsonl", str(tmp_path / "rows.jsonl")))


def test_json_lines_that_begin_with_broken_lines_are_json_lines(tmp_path):
    good = json.dumps({"conversations": small_corpus.turns("x")})
    for first in ("cut off}", '{"conversations": [', '{"conversations": [{"from": "human", "value": "a\n'):
        (tmp_path / "rows.jsonl").write_text(f"{first}\n{good}\n")
        rows = rows_of(tmp_path / "rows.jsonl")
        assert kinds(rows)[0] == "broken_json" and kinds(rows)[-1] == "text"
