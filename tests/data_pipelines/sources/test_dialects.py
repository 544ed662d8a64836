"""Rows laid out as data sets are published: what each dialect reads, and what it refuses."""

import base64

import pytest
import small_corpus

from data_pipelines.schema import DOCUMENT, SampleError, SourceSettings
from data_pipelines.sources.samples import SampleReader
from data_pipelines.text.marks import words

PICTURE = {"bytes": base64.b64encode(b"picture").decode(), "path": "a.png"}
USER, ANSWER = {"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}


def read(record, tmp_path=None, **settings):
    root = ""
    if tmp_path is not None:
        root = str(tmp_path)
    return SampleReader(SourceSettings("rows", "jsonl", "rows.jsonl", root, **settings)).read(record, "rows.jsonl:1")


def refusal(record, tmp_path=None, **settings):
    with pytest.raises(SampleError) as caught:
        read(record, tmp_path, **settings)
    return f"{caught.value.reason}: {caught.value}"


def turns_of(sample):
    return [(turn.role, words(turn.text)) for turn in sample.turns]


def test_ms_swift_columns(tmp_path):
    row = {
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "<image><video>Which?"}, {"role": "assistant", "content": "Both.", "loss": True}],
        "images": ["a.jpg"],
        "videos": ["b.mp4"],
        "objects": None,
        "rejected_response": "",
    }
    sample = read(row, tmp_path)
    assert turns_of(sample) == [("system", "Be brief."), ("user", "<image><video>Which?"), ("assistant", "Both.")]
    assert [file.name for file in sample.files] == ["a.jpg", "b.mp4"]


def test_llama_factory_columns_and_tools():
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "It is sunny."},
        ],
        "tools": '[{"name": "weather"}]',
    }
    roles = turns_of(read(row))
    assert [role for role, _ in roles] == ["system", "user", "assistant", "user", "assistant"]
    assert roles[0][1].startswith("# Tools\n\n") and '\n{"name": "weather"}\n</tools>' in roles[0][1]
    assert roles[2][1] == '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


def test_openai_parts_calls_and_answers_of_tools():
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 3}'}}
    row = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Is <image> a tag? "}, {"type": "image_url", "image_url": {"url": "a.png"}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    row["messages"][0]["content"][1]["image_url"]["url"] = f"data:image/png;base64,{PICTURE['bytes']}"
    sample = read(row)
    written = '<tool_call>\n{"name": "look", "arguments": {"at": 3}}\n</tool_call>'
    assert turns_of(sample) == [
        ("user", "Is <image> a tag? <image>"),
        ("assistant", f"{written}\n{written}"),
        ("user", "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"),
        ("assistant", "Yes."),
    ]
    assert [image.data for image in sample.images] == [b"picture"] and sample.turns[0].text.count("<image>") == 1


def test_qwen_parts_keep_their_order(tmp_path):
    content = [
        {"type": "video", "video": ["f1.png", "f2.png"], "fps": 2.0},
        {"type": "text", "text": "or"},
        {"type": "image", "image": "a.png"},
        "?",
    ]
    sample = read({"messages": [{"role": "user", "content": content}, ANSWER]}, tmp_path)
    assert sample.turns[0].text == "<video>or<image>?"
    assert sample.clips[0].times == (0.0, 0.5) and [image.name for image in sample.images] == ["a.png"]


def test_parts_without_files_take_them_from_the_columns(tmp_path):
    content = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    sample = read({"messages": [{"role": "user", "content": content}, ANSWER], "images": [{"path": "a.png", "bytes": None}]}, tmp_path)
    assert sample.turns[0].text == "<image>What?" and [image.name for image in sample.images] == ["a.png"]
    both = [{"type": "image", "image": "b.png"}]
    row = {"messages": [{"role": "user", "content": both}, ANSWER], "images": ["a.png"]}
    assert 'files are named in parts of the turns and in "images": keep one' in refusal(row, tmp_path)


def test_one_mark_may_stand_for_several_pictures(tmp_path):
    row = {"image": ["a.png", "b.png"], "conversations": small_corpus.turns("<image>\nWhich?")}
    assert read(row, tmp_path).turns[0].text == "<image>\n<image>\nWhich?"


def test_marks_in_answers_are_words_where_questions_match(tmp_path):
    row = {"image": "a.png", "conversations": small_corpus.turns("<image>\nHow is a picture marked?", "With <image>, a clip with <video>.")}
    sample = read(row, tmp_path)
    assert "".join(turn.text for turn in sample.turns).count("<image>") == 1
    assert turns_of(sample)[1] == ("assistant", "With <image>, a clip with <video>.")
    drawn = read({"image": "a.png", "conversations": small_corpus.turns("Draw a cat.", "Here: <image>")}, tmp_path)
    assert drawn.turns[1].text == "Here: <image>"


def test_an_escape_makes_a_mark_a_word(tmp_path):
    row = {"image": "a.png", "conversations": small_corpus.turns("<image>\nWhat does the tag \\<image> do?", "Nothing.")}
    sample = read(row, tmp_path)
    assert turns_of(sample)[0] == ("user", "<image>\nWhat does the tag <image> do?") and sample.turns[0].text.count("<image>") == 1
    assert "or where the word is meant \\<image>" in refusal(row | {"conversations": small_corpus.turns("<image> <image>")}, tmp_path)


def test_captions(tmp_path):
    for key in ("caption", "text"):
        sample = read({"image": "a.jpg", key: "A <video> tag.", "url": "https://a.org/b.jpg", "similarity": 0.3}, tmp_path)
        assert turns_of(sample) == [("user", "<image>"), ("assistant", "A <video> tag.")] and not sample.clips
    sample = read({"videos": ["a.mp4"], "caption": "A ball."}, tmp_path, prompts=("Describe it.",))
    assert turns_of(sample) == [("user", "<video>\nDescribe it."), ("assistant", "A ball.")]
    assert '"caption" and "text": keep one' in refusal({"image": "a.jpg", "caption": "a", "text": "b"}, tmp_path)
    assert "empty_answer" in refusal({"image": "a.jpg", "caption": " "}, tmp_path)


def test_prompts_are_drawn_by_row_and_always_the_same(tmp_path):
    prompts = tuple(f"Prompt {number}." for number in range(4))
    reader = SampleReader(SourceSettings("rows", "jsonl", "rows.jsonl", str(tmp_path), prompts=prompts))
    row = {"image": "a.jpg", "caption": "A ball."}
    drawn = [reader.read(row, f"rows.jsonl:{number}").turns[0].text for number in range(200)]
    assert drawn == [reader.read(row, f"rows.jsonl:{number}").turns[0].text for number in range(200)]
    assert {text.removeprefix("<image>\n") for text in drawn} == set(prompts)


def test_texts_are_documents():
    sample = read({"text": "What <image> means.", "url": "https://a.org/b.html", "score": 3})
    assert sample.turns[0].role == DOCUMENT and turns_of(sample) == [(DOCUMENT, "What <image> means.")] and not sample.files


def test_pages_are_documents_with_pictures_between(tmp_path):
    row = {
        "images": [None, "a.jpg", None, "b.jpg"],
        "texts": ["One.", None, "Two <image>.", None],
        "metadata": "{}",
        "general_metadata": None,
    }
    sample = read(row, tmp_path)
    assert turns_of(sample) == [(DOCUMENT, "One.\n<image>\nTwo <image>.\n<image>")] and len(sample.images) == 2
    assert sample.turns[0].text.count("<image>") == 2
    assert "lists of equal length" in refusal({"images": ["a.jpg"], "texts": ["a", "b"]}, tmp_path)
    assert "nothing to train on was found" in refusal({"images": ["a.jpg", None], "texts": [None, ""]}, tmp_path)


def test_questions_by_a_mapping_of_columns(tmp_path):
    columns = {"question": "problem", "answer": "solution", "image": "picture"}
    row = {"problem": "How many?", "solution": 3, "picture": "a.png", "level": 2}
    assert turns_of(read(row, tmp_path, columns=columns)) == [("user", "<image>\nHow many?"), ("assistant", "3")]
    choices = {"question": "Which?", "answer": "B", "options": ["red", "blue"], "image": "a.png"}
    assert "the key 'options' belongs to the question: write {options} in `prompts`" in refusal(choices, tmp_path)
    prompts = ("{question}\n{options}\nAnswer with the letter.",)
    expected = "<image>\nWhich?\nA. red\nB. blue\nAnswer with the letter."
    assert turns_of(read(choices, tmp_path, prompts=prompts))[0] == ("user", expected)
    assert "the row has no column 'solution'" in refusal({"problem": "x"}, tmp_path, columns=columns)


@pytest.mark.parametrize(
    "value", [None, "", float("nan"), [], [None], ["", None], {"path": None, "bytes": None}, [{"path": None, "bytes": b""}]]
)
def test_values_that_say_nothing_are_no_media(value):
    assert not read({"conversations": small_corpus.turns("What?"), "image": value, "videos": value}).files


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"video": "a.mp4", "fps": 2.0}, 'unknown_key: rows.jsonl:1: "fps" or "timestamps" beside the file \'a.mp4\''),
        ({"fps": 2.0}, 'has "fps" and no clip'),
        ({"video": ["a.png", "b.png"], "fps": 0}, "frames a second are above 0"),
        ({"video": ["a.png", "b.png"], "fps": [1, 2]}, '"fps" has 2 values for 1 clips'),
        ({"video": ["a.png", "b.png"], "timestamps": [0.5]}, '"timestamps" has 1 times for 2 frames'),
        ({"video": ["a.png", "b.png"], "timestamps": [0, 1], "fps": 1}, '"fps" and "timestamps" of its frames: keep one'),
        ({"video": ["a.mp4", "b.png"]}, "is the picture b.png, not a clip"),
        ({"videos": ["a.mp4"], "video": "b.mp4"}, '"video" and "videos": keep one'),
    ],
)
def test_clips_that_are_refused(tmp_path, more, message):
    assert message in refusal({"conversations": small_corpus.turns("<video>")} | more, tmp_path)


def test_a_folder_of_frames_is_a_clip(tmp_path):
    for name in ("frame_10.png", "frame_2.png", "notes.txt"):
        small_corpus.write_image(tmp_path / "clip" / name, 32, 32) if name.endswith("png") else (tmp_path / "clip" / name).write_text("x")
    row = {"video": "clip", "conversations": small_corpus.turns("<video>")}
    sample = read(row | {"fps": 4}, tmp_path)
    assert [file.name for file in sample.clips[0].files] == ["clip/frame_2.png", "clip/frame_10.png"] and sample.clips[0].times == (
        0.0,
        0.25,
    )
    assert "nothing says when they are shown" in refusal(row, tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refusal(row | {"video": "empty"}, tmp_path, frame_rate=1.0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"problem": "x"}, "`columns` of the source names other columns"),
        ({"messages": [USER | {"tool_calls": [{"name": "a"}]}, ANSWER], "image": "a.png"}, "only an assistant calls tools"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, 'a tool call is an object with "name" and "arguments"'),
        ({"messages": [USER, ANSWER], "image": "a.png", "tools": "[{"}, '"tools" is not valid JSON'),
        ({"messages": [USER, ANSWER], "image": "a.png", "tools": "{}"}, '"tools" must be a list of objects'),
        ({"messages": [{"role": "user", "content": [3]}]}, "a part is a string or an object"),
        ({"conversations": small_corpus.turns("a\ufdd0b")}, "holds U+FDD0"),
        ({"question": "What?"}, 'of "question" and "answer" the row has one alone'),
    ],
)
def test_rows_that_are_refused(tmp_path, record, message):
    assert message in refusal(record, tmp_path)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"columns": {"quesstion": "q"}}, "columns.quesstion"),
        ({"prompts": ("{question",)}, "prompts[0]"),
        (
            {
                "prompts": (
                    "ok",
                    "{}",
                )
            },
            "prompts[1]",
        ),
        ({"frame_rate": -1.0}, "frame_rate"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, key):
    assert [name for name, _ in SourceSettings("rows", "jsonl", "rows.jsonl", **settings).problems()] == [key]
