"""Conversations to token ids and labels, in the reference's format.

Every turn is `<|im_start|>ROLE\\nTEXT<|im_end|>\\n`; an `<image>` mark in TEXT becomes `<img>`, n times `<IMG_CONTEXT>`, `</img>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.media import video
from data_pipelines.schema import NO_LABEL, ROLES, SampleError, Turn
from data_pipelines.text import video as video_text
from data_pipelines.text.tokenizers import Tokenizer

IMAGE_MARK = "<image>"
VIDEO_MARK = "<video>"


def encode(
    turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A whole conversation.

    Args:
      turns: the conversation; `<video>` marks are already expanded.
      tokens_per_image: visual tokens of each image, in the order of the `<image>` marks.
      tokenizer: gives ids to the text between marks.

    Returns:
      tokens [L], labels [L] (not shifted): the token where an assistant writes it (its `<|im_end|>` and newline included), else
      NO_LABEL. Turns with `is_input` and image tokens carry none.

    Raises:
      SampleError: "image_marks" when marks and images differ in number, "unknown_role", "empty" when there is no turn.
    """
    _check(turns, tokens_per_image)
    remaining = iter(tokens_per_image)
    tokens: list[int] = []
    labels: list[int] = []
    image_tokens = {tokenizer.special[name] for name in ("<img>", "<IMG_CONTEXT>", "</img>")}
    for turn in turns:
        answers = turn.role == "assistant" and not turn.is_input
        # Only an assistant turn is encoded in two parts: elsewhere a token may span the newline after the role.
        if turn.role == "assistant":
            opening, written = _opening(tokenizer), _text(turn.text, remaining, tokenizer)
        else:
            opening, written = [tokenizer.special["<|im_start|>"]], _text(f"{turn.role}\n{turn.text}", remaining, tokenizer)
        written = [*written, tokenizer.special["<|im_end|>"], *tokenizer.encode("\n")]
        tokens += opening + written
        labels += [NO_LABEL] * len(opening)
        labels += [token if answers and token not in image_tokens else NO_LABEL for token in written]
    return np.asarray(tokens, np.int32), np.asarray(labels, np.int32)


def encode_prompt(turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """[L] tokens of a conversation that waits for an answer: its turns, then `<|im_start|>assistant\\n`.

    Raises SampleError as `encode`, and "no_question" when the last turn is the assistant's.
    """
    if turns and turns[-1].role == "assistant":
        raise SampleError("no_question", "a prompt ends with a user's turn, not with the assistant's: leave the answer out")
    tokens, _ = encode(turns, tokens_per_image, tokenizer)
    return np.concatenate([tokens, np.asarray(_opening(tokenizer), np.int32)])


def expand_video(turns: Sequence[Turn], info: video.VideoInfo, indices: video.Indices) -> tuple[Turn, ...]:
    """The turns with the one `<video>` mark, and a newline that follows it, replaced by the clip's frames as `<image>` marks.

    Raises SampleError "video_marks" unless there is exactly one mark.
    """
    marks = sum(turn.text.count(VIDEO_MARK) for turn in turns)
    if marks != 1:
        raise SampleError("video_marks", f"the conversation has {marks} {VIDEO_MARK} marks for its one video; write exactly one")
    frames = video_text.prefix(info, indices) + "".join(map(video_text.mark, video.timestamps(info, indices)))
    return tuple(Turn(turn.role, _replace_mark(turn.text, frames), turn.is_input) for turn in turns)


def _replace_mark(text: str, frames: str) -> str:
    before, mark, after = text.partition(VIDEO_MARK)
    return before + frames + after.removeprefix("\n") if mark else text


def _check(turns: Sequence[Turn], tokens_per_image: Sequence[int]) -> None:
    if not turns:
        raise SampleError("empty", "the conversation has no turns")
    for number, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise SampleError("unknown_role", f"turn {number} has the role {turn.role!r}; roles are {', '.join(ROLES)}")
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks != len(tokens_per_image):
        raise SampleError(
            "image_marks", f"the conversation has {marks} {IMAGE_MARK} marks for {len(tokens_per_image)} images; write one for each"
        )


def _opening(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special["<|im_start|>"], *tokenizer.encode("assistant\n")]


def _text(text: str, tokens_per_image: Iterator[int], tokenizer: Tokenizer) -> list[int]:
    first, *others = text.split(IMAGE_MARK)
    tokens = tokenizer.encode(first)
    for part in others:
        pads = [tokenizer.special["<IMG_CONTEXT>"]] * next(tokens_per_image)
        tokens += [tokenizer.special["<img>"], *pads, tokenizer.special["</img>"], *tokenizer.encode(part)]
    return tokens
