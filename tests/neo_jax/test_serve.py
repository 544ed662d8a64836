"""The server, asked by OpenAI's client: answers are those of chat, streamed or not, alone or beside others; what it refuses."""

import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import openai
import pytest
from aiohttp import web
from PIL import Image

from neo_jax import chat
from neo_jax.exit_codes import DONE
from neo_jax.inference.answering import Piece
from neo_jax.serve import Flags
from neo_jax.serving.app import Service, make_app
from neo_jax.serving.batching import Batcher, Job
from neo_jax.serving.requests import RequestError, read_request
from neo_jax.sharding import make_mesh
from neo_jax.training.step import TrainState
from tests.neo_jax.saved_run import saved_run
from tests.neo_jax.test_chat import small_config

ROOT = pathlib.Path(__file__).parents[2]
KEY = "a key of the tests"


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 10, 10)).save(file, "PNG")
    return file.getvalue()


def address(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def question(text: str, *shades: int) -> list[dict]:
    images = [{"type": "image_url", "image_url": {"url": address(picture(shade))}} for shade in shades]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def louder(state: TrainState) -> TrainState:
    """The state with larger weights: answers differ by question."""
    return dataclasses.replace(state, trainable={name: value if "norm" in name else 6 * value for name, value in state.trainable.items()})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A small NEO of large random parameters."""
    return saved_run(tmp_path_factory.mktemp("serve") / "run", small_config(), change=louder)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """Address of a server of the small model, in a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "key").write_text(KEY + "\n")
    flags = [f"--checkpoint={run}", "--port=0", "--model=tiny", "--max-tokens=16", "--max-megabytes=1", f"--key-file={folder / 'key'}"]
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, "-m", "neo_jax.serve", *flags], cwd=ROOT, stderr=errors, env=os.environ)
    try:
        while not (found := re.search(r"at (http://127\.0\.0\.1:\d+)/v1", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == DONE, log.read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0)


def ask(client, messages, **others) -> str:
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, **others).choices[0].message.content


def test_an_answer_about_a_picture_is_streamed(client, run, tmp_path, capsys):
    """The text, whole and in pieces, is that of chat."""
    (tmp_path / "a.png").write_bytes(picture(200))
    assert chat.main([f"--checkpoint={run}", f"--image={tmp_path / 'a.png'}", "What is it?", "--max-tokens=6"]) == DONE
    said = capsys.readouterr().out.removesuffix("\n")
    answer = client.chat.completions.create(model="tiny", messages=question("What is it?", 200), max_tokens=6)
    assert answer.choices[0].message.content == said and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 6 and answer.usage.prompt_tokens > 10
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(model="tiny", messages=question("What is it?", 200), max_tokens=6, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said and len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason == "length" and last.usage == answer.usage and last.choices == []


def test_ten_at_a_time_are_answered_as_one_by_one(client):
    asked = [question("word " * (1 + 7 * (number % 4)), *([20 * number] * (number % 3))) for number in range(10)]
    alone = [ask(client, messages) for messages in asked]
    assert len(set(alone)) > 2
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        assert list(threads.map(lambda messages: ask(client, messages), asked)) == alone


def test_sampling_stops_and_conversations(client):
    messages = question("What?", 90)
    drawn = [ask(client, messages, temperature=1.5, seed=3, extra_body={"top_k": 40, "repetition_penalty": 1.2}) for _ in range(2)]
    assert drawn[0] == drawn[1] != ask(client, messages)
    whole = ask(client, messages)
    stop = whole[len(whole) // 2 :][:2]
    cut = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)] and cut.choices[0].finish_reason == "stop"
    longer = [
        {"role": "system", "content": "Be short."},
        *messages,
        {"role": "assistant", "content": whole},
        {"role": "user", "content": "Why?"},
    ]
    assert ask(client, longer) != whole
    assert [model.id for model in client.models.list()] == ["tiny"]


REFUSED = [
    ({"model": "other"}, 404, "there is no model 'other'; this server has 'tiny'"),
    ({"max_tokens": 17}, 400, "max_tokens is 17, this server gives at most 16"),
    ({"messages": question("word " * 500)}, 400, "it needs 1014 of context"),
    ({"n": 2}, 400, "n = 2 is not supported"),
    ({"tools": [{"type": "function"}]}, 400, "tools = "),
    ({"best_of": 2}, 400, "'best_of' is no parameter of this server"),
    ({"temperature": "hot"}, 400, "temperature is 'hot', must be a number"),
    ({"top_p": 0}, 400, "top_p is 0.0, must be above 0"),
    ({"seed": -1}, 400, "seed is -1, must be a whole number of at least 0"),
    ({"stop": [""]}, 400, "stop is [''], must be a text or a list"),
    ({"stop": False}, 400, "stop is False, must be a text or a list"),
    ({"top_k": 1 << 31}, 400, "top_k is 2147483648, must be at least 0 and at most"),
    ({"temperature": int("9" * 400)}, 400, "too large a number"),
    ({"stream_options": 3}, 400, "stream_options is 3, must be an object"),
    ({"response_format": False}, 400, "response_format"),
    ({"messages": [{"role": [], "content": "x"}]}, 400, "messages[0] must have a role"),
    ({"stream": 1.5}, 400, "stream is 1.5, must be true or false"),
    ({"messages": []}, 400, "must be a list with at least one message"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0] must have a role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last message must be the user's"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "must be a text or a list of parts"),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, "a part of type 'audio'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]}]}, 400, "fetches nothing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}]}]}, 400, "base64"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address(b"no picture")}}]}]},
        400,
        "not an image",
    ),
    ({"messages": question("x" * (2 << 20))}, 413, "more than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("change", "status", "message"), REFUSED)
def test_what_is_refused(client, change, status, message):
    asked = {"model": "tiny", "messages": question("What?"), "max_tokens": 2} | change
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(**{name: asked.pop(name) for name in ("model", "messages")}, extra_body=asked)
    assert error.value.status_code == status and message in error.value.body["message"]


def test_a_request_that_fails_does_not_harm_others(monkeypatch):
    """A batch that cannot be answered is answered one by one."""

    class Failing:
        def write(self, asked):
            if any(each == "bad" for each in asked):
                raise ValueError("of the test")
            yield from (Piece(number, f"{each}!", "stop", 1) for number, each in enumerate(asked))

    async def ask() -> list:
        batcher = Batcher(Failing(), make_mesh(devices=jax.devices()[:1]), 1 << 20, 10)
        jobs = [Job(each) for each in ("a", "bad", "b")]
        for job in jobs:
            batcher.add(job)
        given = [await job.pieces.get() for job in jobs]
        batcher.close()
        return given

    monkeypatch.setattr(Job, "tokens", 1)
    first, failed, last = asyncio.run(ask())
    assert (first.text, last.text) == ("a!", "b!") and isinstance(failed, ValueError)


def test_requests_that_are_none(server):
    def status(path: str, data: bytes | None = None, key: str = KEY, kind: str = "application/json") -> tuple[int, dict]:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
        try:
            with urllib.request.urlopen(urllib.request.Request(server + path, data, headers)) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    code, body = status("/v1/chat/completions", b"{")
    assert code == 400 and "is not JSON" in body["error"]["message"]
    assert status("/v1/chat/completions", b"[" * 100_000)[0] == 400
    assert status("/v1/chat/completions", b"{}", kind="application/json; charset=foo")[0] == 400
    assert status("/v1/chat/completions", b"3")[1]["error"]["message"] == "the body must be a JSON object"
    assert status("/v1/completions", b"{}")[0] == 404
    assert status("/v1/chat/completions")[0] == 405
    code, body = status("/v1/models", key="wrong")
    assert code == 401 and body["error"]["message"] == "the key is missing or wrong"
    assert status("/health", key="") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "place", ["file:///etc/hostname", "/etc/hostname", "http://127.0.0.1/a.png", "DATA:,a", "ftp://x/a", {"a": 1}, None]
)
@pytest.mark.parametrize("kind", ["image_url", "video_url"])
def test_no_file_is_opened_and_no_address_fetched(place, kind):
    messages = [{"role": "user", "content": [{"type": kind, kind: {"url": place}}]}]
    with pytest.raises(RequestError, match="must be a data URL"):
        read_request({"model": "m", "messages": messages}, "m", "reference")


def test_the_server_is_for_this_machine_unless_asked():
    assert Flags(checkpoint="a").host == "127.0.0.1" and Flags(checkpoint="a").key_file == ""


@contextlib.asynccontextmanager
async def small_server(monkeypatch):
    """Host and port of a server that has no model and the key KEY."""
    monkeypatch.setattr("neo_jax.serving.app.BODY_SECONDS", 0.2)
    runner = web.AppRunner(make_app(Service("m", "reference", None, None, 1, 1 << 20, KEY)), lingering_time=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("key", "status"), [(KEY.encode(), 408), (b"\xff\xfe", 401), (b"", 401)])
def test_a_body_that_does_not_come_and_strange_keys(monkeypatch, key, status):
    """The key is asked for before anything of the body is read."""

    async def ask() -> bytes:
        async with small_server(monkeypatch) as place:
            reader, writer = await asyncio.open_connection(*place)
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
            writer.write(head + b"Authorization: Bearer " + key + b"\r\n\r\n{")
            line = await asyncio.wait_for(reader.readline(), 10)
            writer.close()
            return line

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 %d" % status)


def test_what_a_request_asks_for():
    body = {"model": "m", "messages": [{"role": "developer", "content": "Say <image>."}, *question("a<video>b", 1)], "user": "u", "n": 1}
    asked = read_request(body, "m", "reference")
    assert [turn.role for turn in asked.conversation.turns] == ["system", "user"] and len(asked.conversation.images) == 1
    assert asked.conversation.turns[1].text.startswith("<image>\n") and asked.conversation.images[0].pictures == "reference"
    assert "<image>" not in asked.conversation.turns[0].text  # words stay words
    assert asked.sampling.temperature == 0 and asked.max_tokens == 0 and not asked.stream
    clip = [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": address(b"x", "video/mp4")}}]}]
    assert len(read_request(body | {"messages": clip}, "m", "reference").conversation.clips) == 1
    with pytest.raises(RequestError, match="response_format"):
        read_request(body | {"response_format": {"type": "json_object"}}, "m", "reference")
