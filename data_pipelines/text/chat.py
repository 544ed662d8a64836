"""Converts conversations to token ids and labels, in the reference's format.

Every turn is `<|im_start|>ROLE\\nTEXT<|im_end|>\\n`; an `<image>` mark in TEXT becomes `<img>`, n times `<IMG_CONTEXT>`, `</img>`.
A text that is not a conversation (role DOCUMENT) is `TEXT<|endoftext|>`, as Qwen3 separates its texts; if the tokenizer lacks that token,
`<|im_end|>` is used.
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

_ROLES = frozenset((*ROLES, DOCUMENT))


def encode(
    turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Encodes a whole conversation.

    Args:
      turns: the conversation; `<video>` marks are already expanded.
      tokens_per_image: number of visual tokens of each image, in the order of the `<image>` marks.
      tokenizer: tokenizer that encodes the text between marks.

    Returns:
      tokens [L], labels [L] (not shifted). A label is the token itself in an assistant's turn (including its `<|im_end|>` and newline) or in
      a document, else NO_LABEL. Turns with `is_input` and image tokens have no labels.

    Raises:
      SampleError: "image_marks" if marks and images differ in number, "unknown_role", "empty" if there is no turn.
    """
    tokens: list[int] = []
    labels: list[int] = []
    image_tokens = _image_tokens(tokenizer)
    for opening, written, learned in _encoded(turns, tokens_per_image, tokenizer):
        tokens += opening + written
        labels += [NO_LABEL] * len(opening)
        labels += [token if learned and token not in image_tokens else NO_LABEL for token in written]
    return np.asarray(tokens, np.int32), np.asarray(labels, np.int32)


def count(turns: Sequence[Turn], images: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns the number of tokens of a conversation without visual tokens, and how many of them have a label. Errors as `encode`.

    Visual tokens are spliced in between pieces of text, so their number does not change the text's tokens. The two brackets of each of the
    `images` images are counted.
    """
    image_tokens = _image_tokens(tokenizer)
    tokens = labels = 0
    for opening, written, learned in _encoded(turns, [0] * images, tokenizer):
        tokens += len(opening) + len(written)
        if learned:
            labels += len(written) - sum(map(written.count, image_tokens))
    return tokens, labels


def encode_prompt(turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Returns [L] the tokens of a prompt: the turns of a conversation, then `<|im_start|>assistant\\n`.

    Raises SampleError as `encode`, and "no_question" if the last turn is the assistant's.
    """
    if turns and turns[-1].role == "assistant":
        raise SampleError("no_question", "a prompt ends with a user's turn, not with the assistant's: leave the answer out")
    tokens, _ = encode(turns, tokens_per_image, tokenizer)
    return np.concatenate([tokens, np.asarray(_opening(tokenizer), np.int32)])


def expand_clips(turns: Sequence[Turn], clips: Sequence[tuple[video.VideoInfo, video.Indices]]) -> tuple[Turn, ...]:
    """Replaces each `<video>` mark, and a newline that follows it, by the text of its clip's frames with `<image>` marks.

    Args:
      clips: header of each clip and indices of its shown frames, in the order of the marks.

    Raises SampleError "video_marks" unless there is one mark for each clip.
    """
    marks = sum(turn.text.count(VIDEO_MARK) for turn in turns)
    if marks != len(clips):
        raise SampleError("video_marks", f"the conversation has {marks} {VIDEO_MARK} marks for {len(clips)} clips; write one for each")
    remaining = iter(clips)
    return tuple(Turn(turn.role, _with_frames(turn.text, remaining), turn.is_input) for turn in turns)


def around_clips(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], list[str]]:
    """Splits a conversation at its clips, whose frames are not chosen yet, to count its text tokens.

    Returns:
      Two values. The first is the turns with each clip replaced by one `<image>` mark and the newline after its last frame. The second is, for
      each clip, the text before its first frame, back to the previous mark or the start of the turn, without the clip's own prefix sentence.
      `encode` of the first counts the tokens of each such text alone; replace that count by the number of tokens of text and prefix together.
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
    """Returns the id of the token that ends a document."""
    return tokenizer.special.get("<|endoftext|>", tokenizer.special["<|im_end|>"])


def _with_frames(text: str, clips: Iterator[tuple[video.VideoInfo, video.Indices]]) -> str:
    first, *others = text.split(VIDEO_MARK)
    for part in others:
        info, indices = next(clips)
        frames = video_text.prefix(info, indices) + "".join(map(video_text.mark, video.timestamps(info, indices)))
        first += frames + part.removeprefix("\n")
    return first


def _encoded(turns: Sequence[Turn], tokens_per_image: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int], bool]]:
    """Yields the tokens of each turn in two parts: the opening, which has no labels, and what is written; and whether the latter is learned."""
    _check(turns, tokens_per_image)
    remaining = iter(tokens_per_image)
    start = tokenizer.special["<|im_start|>"]
    for turn in turns:
        learned = turn.role in ("assistant", DOCUMENT) and not turn.is_input
        # Only an assistant turn is encoded in two parts: elsewhere a token may span the newline after the role.
        if turn.role == DOCUMENT:
            yield [], [*_text(turn.text, remaining, tokenizer), end_of_text(tokenizer)], learned
        elif turn.role == "assistant":
            yield _opening(tokenizer), [*_text(turn.text, remaining, tokenizer), *_ending(tokenizer)], learned
        else:
            yield [start], [*_text(f"{turn.role}\n{turn.text}", remaining, tokenizer), *_ending(tokenizer)], learned


def _image_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(tokenizer.special[name] for name in ("<img>", "<IMG_CONTEXT>", "</img>"))


def _check(turns: Sequence[Turn], tokens_per_image: Sequence[int]) -> None:
    if not turns:
        raise SampleError("empty", "the conversation has no turns")
    for number, turn in enumerate(turns):
        if turn.role not in _ROLES:
            raise SampleError("unknown_role", f"turn {number} has the role {turn.role!r}; roles are {', '.join(ROLES)}")
    marks = sum([turn.text.count(IMAGE_MARK) for turn in turns])
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
