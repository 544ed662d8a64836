"""Writes tool calls as text in the format of Qwen3's chat template (in the tokenizer_config.json of its checkpoints).

A call is JSON in `<tool_call>` within the assistant's turn. A tool's answer is in `<tool_response>` within a user's turn, which has all
consecutive answers. The tools are described at the end of the system prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import SampleError, Turn
from data_pipelines.sources.dialects.values import is_empty, read_text
from data_pipelines.sources.json_text import read_json

CALL_ROLES = ("function_call", "tool_call")
ANSWER_ROLES = ("tool", "function", "observation", "tool_response", "function_response", "ipython")

_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def system_text(prompt: str, tools: Any, key: str) -> str:
    """Returns the system prompt with the descriptions of a row's tools. Raises SampleError "bad_record".

    `tools` is a list of objects, or its JSON text.
    """
    if isinstance(tools, str):
        tools = _parse(tools, '"tools"', key)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise SampleError("bad_record", f'{key}: "tools" must be a list of objects that describe functions, or its JSON')
    described = _BEFORE + "".join(f"\n{_dump(tool)}" for tool in tools) + _AFTER
    return f"{prompt}\n\n{described}" if prompt else described


def calls_text(text: str, calls: Any, where: str) -> str:
    """Returns the text of an assistant's turn followed by its calls. Raises SampleError "bad_record".

    `calls` is a list in the format of OpenAI's API, or of {"name", "arguments"}, or its JSON text.
    """
    calls = _parse(calls, '"tool_calls"', where) if isinstance(calls, str) else calls
    if not isinstance(calls, list) or not calls:
        raise SampleError("bad_record", f'{where}: "tool_calls" must be a list of calls')
    return "\n".join([*([text] if text else []), *(call_text(call, where) for call in calls)])


def call_text(call: Any, where: str) -> str:
    """Returns the text of one call: {"name", "arguments"}, or an object with that under "function", or its JSON.

    Raises SampleError "bad_record".
    """
    call = _parse(call, "the tool call", where) if isinstance(call, str) else call
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise SampleError("bad_record", f'{where}: a tool call is an object with "name" and "arguments"')
    arguments = inner.get("arguments", inner.get("parameters"))
    if isinstance(arguments, str):
        arguments = _parse(arguments, "the arguments of a tool call", where)
    name = read_text(inner["name"], "the name of a tool", where)
    return f"<tool_call>\n{_dump({'name': name, 'arguments': {} if is_empty(arguments) else arguments})}\n</tool_call>"


def join_answers(turns: Sequence[tuple[Turn, bool]]) -> tuple[Turn, ...]:
    """Returns the turns, with consecutive answers of tools (marked True) joined to one turn of the user."""
    joined: list[Turn] = []
    open_answer = False
    for turn, is_answer in turns:
        text = f"<tool_response>\n{turn.text}\n</tool_response>" if is_answer else turn.text
        if is_answer and open_answer:
            joined[-1] = Turn("user", f"{joined[-1].text}\n{text}")
        else:
            joined.append(Turn("user", text) if is_answer else turn)
        open_answer = is_answer
    return tuple(joined)


def _parse(text: str, what: str, where: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise SampleError("bad_record", f"{where}: {what} is not valid JSON ({error})") from error


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
