"""Conversations to token ids and labels, in the reference's format.

Every turn is `<|im_start|>ROLE\\nTEXT<|im_end|>\\n`; an `<image>` mark in TEXT becomes `<img>`, n times `<IMG_CONTEXT>`, `</img>`.
A text that is no conversation (role DOCUMENT) is `TEXT<|endoftext|>`, as Qwen3 separates its texts; `<|im_end|>` where a tokenizer has no
such token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.media import video
from data_pipelines.schema import DOCUMENT, NO_LABEL, ROLES, SampleError, Turn
from data_pipelines.text import video as video_text
from data_pipelines.text.marks import IMAGE_MARK, VIDEO_MARK, words
from data_pipelines.text.tokenizers import Tokenizer


def encode(
    turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A whole conversation.

    Args:
      turns: the conversation; `<video>` marks are already expanded.
      tokens_per_image: visual tokens of each image, in the order of the `<image>` marks.
      tokenizer: gives ids to the text between marks.

    Returns:
      tokens [L], labels [L] (not shifted): the token where an assistant writes it (its `<|im_end|>` and newline included) or a document
      has it, else NO_LABEL. Turns with `is_input` and image tokens carry none.

    Raises:
      SampleError: "image_marks" when marks and images differ in number, "unknown_role", "empty" when there is no turn.
    """
    _check(turns, tokens_per_image)
    remaining = iter(tokens_per_image)
    tokens: list[int] = []
    labels: list[int] = []
    image_tokens = {tokenizer.special[name] for name in ("<img>", "<IMG_CONTEXT>", "</img>")}
    for turn in turns:
        learned = turn.role in ("assistant", DOCUMENT) and not turn.is_input
        # Only an assistant turn is encoded in two parts: elsewhere a token may span the newline after the role.
        if turn.role == DOCUMENT:
            opening, written = [], [*_text(turn.text, remaining, tokenizer), end_of_text(tokenizer)]
        elif turn.role == "assistant":
            opening, written = _opening(tokenizer), [*_text(turn.text, remaining, tokenizer), *_ending(tokenizer)]
        else:
            opening = [tokenizer.special["<|im_start|>"]]
            written = [*_text(f"{turn.role}\n{turn.text}", remaining, tokenizer), *_ending(tokenizer)]
        tokens += opening + written
        labels += [NO_LABEL] * len(opening)
        labels += [token if learned and token not in image_tokens else NO_LABEL for token in written]
    return np.asarray(tokens, np.int32), np.asarray(labels, np.int32)


def encode_prompt(turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """[L] tokens of a conversation that waits for an answer: its turns, then `<|im_start|>assistant\\n`.

    Raises SampleError as `encode`, and "no_question" when the last turn is the assistant's.
    """
    if turns and turns[-1].role == "assistant":
        raise SampleError("no_question", "a prompt ends with a user's turn, not with the assistant's: leave the answer out")
    tokens, _ = encode(turns, tokens_per_image, tokenizer)
    return np.concatenate([tokens, np.asarray(_opening(tokenizer), np.int32)])


def expand_clips(turns: Sequence[Turn], clips: Sequence[tuple[video.VideoInfo, video.Indices]]) -> tuple[Turn, ...]:
    """The turns with each `<video>` mark, and a newline that follows it, replaced by its clip's frames as `<image>` marks.

    Args:
      clips: what is known of each clip, and the frames of it that are shown, in the order of the marks.

    Raises SampleError "video_marks" unless there is one mark for each clip.
    """
    marks = sum(turn.text.count(VIDEO_MARK) for turn in turns)
    if marks != len(clips):
        raise SampleError("video_marks", f"the conversation has {marks} {VIDEO_MARK} marks for {len(clips)} clips; write one for each")
    remaining = iter(clips)
    return tuple(Turn(turn.role, _with_frames(turn.text, remaining), turn.is_input) for turn in turns)


def around_clips(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], list[str]]:
    """A conversation taken apart at its clips, whose frames are not chosen yet.

    Returns:
      the turns with one `<image>` mark in place of each clip and what stands behind its last frame; and for each clip the text of the piece
      that leads to its first frame, without the clip's own prefix. `encode` counts the tokens of the former with those of the latter by
      themselves; they are to be replaced by the tokens of the latter and the prefix together.
    """
    without, before = [], []
    for turn in turns:
        text, *others = turn.text.split(VIDEO_MARK)
        opening = "" if turn.role in ("assistant", DOCUMENT) else f"{turn.role}\n"
        for part in others:
            before.append(words((opening + text).split(IMAGE_MARK)[-1]))
            text += f"{IMAGE_MARK}\n{part.removeprefix('\n')}"
        without.append(Turn(turn.role, text, turn.is_input))
    return tuple(without), before


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that ends a document."""
    return tokenizer.special.get("<|endoftext|>", tokenizer.special["<|im_end|>"])


def _with_frames(text: str, clips: Iterator[tuple[video.VideoInfo, video.Indices]]) -> str:
    first, *others = text.split(VIDEO_MARK)
    for part in others:
        info, indices = next(clips)
        frames = video_text.prefix(info, indices) + "".join(map(video_text.mark, video.timestamps(info, indices)))
        first += frames + part.removeprefix("\n")
    return first


def _check(turns: Sequence[Turn], tokens_per_image: Sequence[int]) -> None:
    if not turns:
        raise SampleError("empty", "the conversation has no turns")
    for number, turn in enumerate(turns):
        if turn.role not in (*ROLES, DOCUMENT):
            raise SampleError("unknown_role", f"turn {number} has the role {turn.role!r}; roles are {', '.join(ROLES)}")
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if marks != len(tokens_per_image):
        raise SampleError(
            "image_marks", f"the conversation has {marks} {IMAGE_MARK} marks for {len(tokens_per_image)} images; write one for each"
        )


def _opening(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special["<|im_start|>"], *tokenizer.encode("assistant\n")]


def _ending(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special["<|im_end|>"], *tokenizer.encode("\n")]


def _text(text: str, tokens_per_image: Iterator[int], tokenizer: Tokenizer) -> list[int]:
    first, *others = text.split(IMAGE_MARK)
    tokens = tokenizer.encode(words(first))
    for part in others:
        pads = [tokenizer.special["<IMG_CONTEXT>"]] * next(tokens_per_image)
        tokens += [tokenizer.special["<img>"], *pads, tokenizer.special["</img>"], *tokenizer.encode(words(part))]
    return tokens
