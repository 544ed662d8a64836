"""Requests in the format of OpenAI's chat completions: what they ask for, or why they are refused."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import Clip, Media, Sample, SampleError, Turn
from data_pipelines.sources.dialects.files import read_file
from data_pipelines.text.marks import IMAGE_MARK, VIDEO_MARK, as_words
from neo_jax.inference.sampling import Sampling

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
WITHOUT_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "verbosity"}
NOTHING = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False, "tools": [], "tool_choice": "none", "logit_bias": {}}
READ = {"model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop"}
READ |= {"max_tokens", "max_completion_tokens", "response_format"}
MOST_STOPS = 16


class RequestError(ValueError):
    """A request that is refused.

    Attributes:
      status: of the HTTP answer.
      parameter: the key that is to blame; "" if none is.
    """

    def __init__(self, message: str, parameter: str = "", status: int = 400):
        super().__init__(message)
        self.parameter, self.status = parameter, status


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """What a request asks for.

    Attributes:
      conversation: its last turn is the user's.
      sampling: how tokens are chosen; greedy without a temperature.
      max_tokens: most tokens of the answer; 0: as many as the server gives.
      stops: texts before which the answer ends.
      stream: whether the answer comes in pieces.
      with_usage: whether a last piece counts the tokens.
    """

    conversation: Sample
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...]
    stream: bool
    with_usage: bool


def read_request(body: Any, model: str, pictures: str) -> ChatRequest:
    """Reads a request.

    Args:
      body: the JSON value.
      model: name of the model that is served.
      pictures: policy by which pictures are read.

    Raises:
      RequestError: it asks for something that is not there.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    for name, value in body.items():
        if name in READ | WITHOUT_EFFECT or value is None:
            continue
        if name not in NOTHING:
            raise RequestError(f"{name!r} is no parameter of this server", name)
        if value != NOTHING[name] and not (name == "tool_choice" and value == "auto"):
            raise RequestError(f"{name} = {value!r:.80} is not supported: leave it out", name)
    if body.get("model") != model:
        raise RequestError(f"there is no model {body.get('model')!r:.80}; this server has {model!r}", "model", 404)
    if body.get("response_format") not in (None, {"type": "text"}):
        raise RequestError("only the response_format text is supported", "response_format")
    options = {} if body.get("stream_options") is None else body["stream_options"]
    if not isinstance(options, dict):
        raise RequestError(f"stream_options is {options!r:.80}, must be an object", "stream_options")
    return ChatRequest(
        read_messages(body.get("messages"), pictures),
        _sampling(body),
        _whole(body, "max_completion_tokens", 1) or _whole(body, "max_tokens", 1) or 0,
        _stops(body.get("stop")),
        _flag(body, "stream"),
        _flag(options, "include_usage"),
    )


def read_messages(messages: Any, pictures: str) -> Sample:
    """Returns the conversation of a list of messages. Raises RequestError."""
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list with at least one message", "messages")
    turns, images, clips = [], [], []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message["role"] not in ROLES:
            raise RequestError(f"{place} must have a role: one of {', '.join(ROLES)}", "messages")
        text = ""
        for part in _parts(message.get("content"), place):
            kind = part.get("type")
            if kind == "text" and isinstance(part.get("text"), str):
                text += as_words(part["text"])
            elif kind == "image_url":
                images.append(_file(part, kind, place, pictures))
                text += f"{IMAGE_MARK}\n"
            elif kind == "video_url":
                clips.append(Clip((_file(part, kind, place, pictures),)))
                text += f"{VIDEO_MARK}\n"
            else:
                raise RequestError(f"{place} has a part of type {kind!r:.40}: text, image_url and video_url are supported", "messages")
        turns.append(Turn(ROLES[message["role"]], text))
    if turns[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    return Sample("the request", tuple(turns), tuple(images), tuple(clips))


def _parts(content: Any, place: str) -> Sequence[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise RequestError(f"{place}.content must be a text or a list of parts", "messages")


def _file(part: Mapping[str, Any], kind: str, place: str, pictures: str) -> Media:
    value = part.get(kind)
    address = value.get("url") if isinstance(value, dict) else value
    if not isinstance(address, str) or not address.startswith("data:"):
        raise RequestError(
            f"{place}: {kind} must be a data URL (data:...;base64,...): this server fetches nothing and opens no files", "messages"
        )
    try:
        file = read_file(address, kind, place)
    except SampleError as error:
        raise RequestError(str(error), "messages") from error
    return Media(f"{place}, {kind}", data=file.data, pictures=pictures)


def _sampling(body: Mapping[str, Any]) -> Sampling:
    seed = _whole(body, "seed", 0)
    sampling = Sampling(
        temperature=_number(body, "temperature", 0.0),
        top_k=max(0, _whole(body, "top_k", -1) or 0),
        top_p=_number(body, "top_p", 1.0),
        repetition_penalty=_number(body, "repetition_penalty", 1.0),
        seed=random.getrandbits(31) if seed is None else seed % (1 << 31),
    )
    for name, problem in sampling.problems():
        raise RequestError(f"{name} {problem}", name)
    return sampling


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RequestError(f"{name} is {value!r:.80}, must be a number", name)
    try:
        return float(value)
    except OverflowError as error:
        raise RequestError(f"{name} is {value!r:.80}, too large a number", name) from error


def _whole(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RequestError(f"{name} is {value!r:.80}, must be a whole number of at least {least}", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise RequestError(f"{name} is {value!r:.80}, must be true or false", name)
    return bool(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise RequestError(f"stop is {value!r:.80}, must be a text or a list of at most {MOST_STOPS} texts, none of them empty", "stop")
    return tuple(stops)
