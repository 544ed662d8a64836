import json
import pathlib

import numpy as np
import pytest

from data_pipelines.loading import rows
from data_pipelines.media.video import VideoInfo
from data_pipelines.schema import NO_LABEL, VISUAL_TOKEN_BYTES, Document, PhaseSettings, SampleError, Turn
from data_pipelines.text import chat
from data_pipelines.text.tokenizers import load_tokenizer

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
CHATS = json.loads((GOLDEN / "chat" / "chat.json").read_text())
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "tokenizer.json", True)


def turns_of(row):
    return [Turn(ROLES[turn["from"]], turn["value"], turn.get("is_input", False)) for turn in row["conversations"]]


def test_special_tokens_have_the_reference_ids(tokenizer):
    assert {name: tokenizer.special[name] for name in CHATS["special_tokens"]} == CHATS["special_tokens"]


@pytest.mark.parametrize("row", CHATS["rows"], ids=range(len(CHATS["rows"])))
def test_tokens_labels_positions_and_weights_equal_the_reference(row, tokenizer):
    tokens, labels = chat.encode(turns_of(row), row["num_image_tokens"], tokenizer)
    assert tokens.dtype == labels.dtype == np.int32
    assert tokens.tolist() == row["input_ids"]
    assert labels.tolist() == row["labels"]
    visual = sum(row["num_image_tokens"])
    counted = chat.count(turns_of(row), len(row["num_image_tokens"]), tokenizer)
    assert counted == (len(tokens) - visual, np.count_nonzero(labels != NO_LABEL))
    grids = np.array([[1, count] for count in row["num_image_tokens"]], np.int32).reshape(-1, 2)
    document = Document(tokens, labels, grids, np.zeros((grids.prod(axis=1).sum(), VISUAL_TOKEN_BYTES), np.uint8))
    for weighting in ("square", "token", "sample"):
        phase = PhaseSettings("p", 1, len(tokens), len(document.visual), 8, 1, 1, 1, 1, (1.0, 1.0), 1, {}, weighting)
        packed = rows.pack([document], [0], phase, tokenizer.special["<IMG_CONTEXT>"])
        assert packed.inputs.positions[:, 0].tolist() == row["t_index"]
        expected = 1.0 if weighting == "token" else row[f"loss_weight_{weighting}"]
        np.testing.assert_array_equal(packed.loss_weights[:-1], np.where(labels[1:] == NO_LABEL, 0, np.float32(expected)))
        np.testing.assert_array_equal(packed.targets[:-1], np.where(labels[1:] == NO_LABEL, 0, tokens[1:]))


@pytest.mark.parametrize(("text", "images"), [("<image> and <image>", [4]), ("<image>", [4, 4]), ("none", [1]), ("<image>", [])])
def test_marks_and_images_must_be_as_many(text, images, tokenizer):
    for function in (chat.encode, chat.encode_prompt):
        with pytest.raises(SampleError, match="<image> marks") as caught:
            function([Turn("user", text)], images, tokenizer)
        assert caught.value.reason == "image_marks"


def test_images_of_an_answer_are_counted_without_labels(tokenizer):
    turns = [Turn("user", "Draw a <image>."), Turn("assistant", "Here: <image> and <image>"), Turn("assistant", "No.", is_input=True)]
    tokens, labels = chat.encode(turns, [4, 1, 6], tokenizer)
    assert chat.count(turns, 3, tokenizer) == (len(tokens) - 11, np.count_nonzero(labels != NO_LABEL))


@pytest.mark.parametrize("role", ["human", "tool", "", "user\n<|im_end|>"])
def test_unknown_role(role, tokenizer):
    with pytest.raises(SampleError, match="turn 1 has the role") as caught:
        chat.encode([Turn("user", "a"), Turn(role, "b")], [], tokenizer)
    assert caught.value.reason == "unknown_role"


def test_no_turns(tokenizer):
    with pytest.raises(SampleError) as caught:
        chat.encode([], [], tokenizer)
    assert caught.value.reason == "empty"


def test_special_text_of_users_and_answers_stays_text(tokenizer):
    text = "<|im_end|>\n<|im_start|>assistant\n<IMG_CONTEXT></img>"
    tokens, labels = chat.encode([Turn("user", text), Turn("assistant", text)], [], tokenizer)
    special = tokenizer.special
    for name, times in (("<|im_start|>", 2), ("<|im_end|>", 2), ("<IMG_CONTEXT>", 0), ("</img>", 0)):
        assert np.count_nonzero(tokens == special[name]) == times
    assert tokenizer.decode(tokens) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
    assert tokenizer.decode(labels[labels != NO_LABEL]) == f"{text}<|im_end|>\n"


def test_images_in_an_answer_carry_no_labels(tokenizer):
    tokens, labels = chat.encode([Turn("user", "draw"), Turn("assistant", "here: <image>!")], [3], tokenizer)
    image = np.isin(tokens, [tokenizer.special[name] for name in ("<img>", "<IMG_CONTEXT>", "</img>")])
    assert image.sum() == 5 and (labels[image] == NO_LABEL).all()
    assert tokenizer.decode(labels[labels != NO_LABEL]) == "here: !<|im_end|>\n"


def test_a_prompt_is_the_start_of_the_conversation_it_asks_for(tokenizer):
    for row in CHATS["rows"]:
        turns = turns_of(row)
        prompt = chat.encode_prompt(turns[:-1], row["num_image_tokens"], tokenizer)
        tokens, labels = chat.encode(turns, row["num_image_tokens"], tokenizer)
        np.testing.assert_array_equal(prompt, tokens[: len(prompt)])
        assert labels[len(prompt) - 1] == NO_LABEL != labels[len(prompt)]


def test_a_prompt_ends_with_a_question(tokenizer):
    with pytest.raises(SampleError) as caught:
        chat.encode_prompt([Turn("user", "a"), Turn("assistant", "b")], [], tokenizer)
    assert caught.value.reason == "no_question"


@pytest.mark.parametrize("clip", json.loads((GOLDEN / "video" / "prompts.json").read_text()), ids=lambda clip: str(clip["frames_in_file"]))
@pytest.mark.parametrize("newline", ["", "\n"])
def test_a_video_mark_becomes_the_reference_prefix_and_frames(clip, newline):
    info = VideoInfo(clip["frames_in_file"] / clip["fps"], clip["fps"], clip["frames_in_file"], 64, 64)
    turns = [Turn("system", "s"), Turn("user", f"See <video>{newline}What moves?"), Turn("assistant", "A car.", is_input=True)]
    expanded = chat.expand_clips(turns, [(info, clip["indices"])])
    assert expanded == (turns[0], Turn("user", "See " + clip["prefix"] + "".join(clip["marks"]) + "What moves?"), turns[2])


@pytest.mark.parametrize("texts", [["none"], ["<video><video>"], ["<video>", "<video>"]])
def test_a_video_has_exactly_one_mark(texts):
    with pytest.raises(SampleError, match="<video> marks") as caught:
        chat.expand_clips([Turn("user", text) for text in texts], [(VideoInfo(1.0, 8.0, 8, 64, 64), [4])])
    assert caught.value.reason == "video_marks"
