"""The HTTP side: /v1/chat/completions, /v1/models and /health in OpenAI's format."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from data_pipelines.schema import SampleError
from neo_jax.inference.answering import Answerer, Asked, Piece
from neo_jax.serving.batching import Batcher, Full, Job
from neo_jax.serving.requests import ChatRequest, RequestError, read_request

BODY_SECONDS = 60.0  # time limit for the body of a request
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service(NamedTuple):
    """What is served.

    Attributes:
      name: of the model.
      pictures: policy by which pictures are read.
      answerer, batcher: the model.
      max_tokens: largest number of tokens of an answer.
      max_bytes: largest size of a request.
      key: what `Authorization: Bearer KEY` must say; "": nothing.
    """

    name: str
    pictures: str
    answerer: Answerer
    batcher: Batcher
    max_tokens: int
    max_bytes: int
    key: str


def make_app(service: Service) -> web.Application:
    """Returns the application."""
    app = web.Application(client_max_size=service.max_bytes, middlewares=[_errors(service)])
    began = int(time.time())
    model = {"id": service.name, "object": "model", "created": began, "owned_by": "neo_jax"}

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [model]})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def chat(request: web.Request) -> web.StreamResponse:
        return await _chat(service, request)

    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def _chat(service: Service, request: web.Request) -> web.StreamResponse:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.json()
    except TimeoutError as error:
        raise RequestError(f"the body did not come within {BODY_SECONDS:.0f} s", status=408) from error
    except (ValueError, LookupError, RecursionError) as error:
        raise RequestError(f"the body is not JSON ({error})") from error
    asked = read_request(body, service.name, service.pictures)
    job = Job(await asyncio.to_thread(_prompt, service, asked))
    try:
        service.batcher.add(job)
    except Full as error:
        raise RequestError("too many requests wait: try again later", status=429) from error
    try:
        return await (_streamed(service, request, asked, job) if asked.stream else _whole(service, job))
    finally:
        job.wanted = False  # a client that is gone does not hold up the others


def _prompt(service: Service, asked: ChatRequest) -> Asked:
    """Builds the prompt. Raises RequestError if it cannot be read, or is too long with its answer."""
    if asked.max_tokens > service.max_tokens:
        raise RequestError(f"max_tokens is {asked.max_tokens:,}, this server gives at most {service.max_tokens:,}", "max_tokens")
    try:
        document = service.answerer.document(asked.conversation, asked.max_tokens or 1, asked.sampling.seed)
    except SampleError as error:
        raise RequestError(f"{error} ({error.reason})", "messages") from error
    room = min(service.max_tokens, service.answerer.limits.context - len(document.tokens))
    return Asked(document, asked.sampling, asked.max_tokens or room, asked.stops)


async def _pieces(job: Job) -> AsyncIterator[Piece]:
    while True:
        piece = await job.pieces.get()
        if isinstance(piece, Exception):
            raise RequestError("the answer could not be written: the server's log says why", status=500) from piece
        yield piece
        if piece.ended:
            return


async def _whole(service: Service, job: Job) -> web.Response:
    pieces = [piece async for piece in _pieces(job)]
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
    choice = {"index": 0, "message": message, "finish_reason": pieces[-1].ended, "logprobs": None}
    return web.json_response(_answer(service, "chat.completion", [choice]) | {"usage": _usage(job, pieces[-1])})


async def _streamed(service: Service, request: web.Request, asked: ChatRequest, job: Job) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    answer = _answer(service, "chat.completion.chunk", [])

    async def send(value: Any) -> None:
        await response.write(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode())

    def chunk(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return answer | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    try:
        await response.prepare(request)
        await send(chunk({"role": "assistant", "content": ""}, None))
        async for piece in _pieces(job):
            if piece.text:
                await send(chunk({"content": piece.text}, None))
            if piece.ended:
                await send(chunk({}, piece.ended))
                if asked.with_usage:
                    await send(answer | {"usage": _usage(job, piece)})
        await send("[DONE]")
    except RequestError as error:
        await send(_error(error))
    except ConnectionError:
        pass  # the client is gone
    return response


def _answer(service: Service, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": service.name, "choices": choices}


def _usage(job: Job, last: Piece) -> dict[str, int]:
    prompt = len(job.asked.document.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": last.tokens, "total_tokens": prompt + last.tokens}


def _error(error: RequestError) -> dict[str, Any]:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": error.parameter or None, "code": None}}


def _errors(service: Service) -> Any:
    """Returns what checks the key, and answers refused requests in OpenAI's format."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if (
                service.key
                and request.path != "/health"
                and not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), service.key.encode())
            ):
                raise RequestError("the key is missing or wrong", status=401)
            return await handler(request)
        except RequestError as error:
            return web.json_response(_error(error), status=error.status)
        except web.HTTPRequestEntityTooLarge:
            return web.json_response(_error(RequestError(f"the request has more than {service.max_bytes:,} bytes")), status=413)
        except web.HTTPException as answer:
            return web.json_response(_error(RequestError(answer.reason, status=answer.status)), status=answer.status)

    return middleware
