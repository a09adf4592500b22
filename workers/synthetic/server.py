"""The synthetic engine's HTTP server: the part of vLLM's OpenAI-compatible API that clients and the gateway use.

Chat completions, completions (streamed and not) and embeddings, the model list, health, and metrics under vLLM's names.
Raw ASGI, so that under load the engine's figures are measured and not a framework's. What it cannot do (tools, schemas,
several choices) it ignores: it stands in for an engine's timing, not for its abilities.
"""

import asyncio
import math
import os
import random
import time
import uuid
from array import array
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import cache
from http import HTTPStatus
from itertools import chain
from typing import Any

import msgspec

from workers.config.synthetic import SyntheticSpec
from workers.engine import EngineFigures, Message, OpenEngine, Receive, Send
from workers.synthetic.engine import QueueFullError, Request, SyntheticEngine, TooLongError
from workers.synthetic.metrics import SyntheticMetrics


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_Prompt = str | list[str | int | list[int]] | None


class _Body(msgspec.Struct):
    """What is read of a request; every other member is accepted and has no effect."""

    model: str
    messages: list[_Message] | None = None
    prompt: _Prompt = None
    input: _Prompt = None
    encoding_format: str = "float"
    dimensions: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    ignore_eos: bool = False


class _RefusalError(Exception):
    """An answer other than 200, in OpenAI's error shape."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class _Call(msgspec.Struct, frozen=True):
    """One request, understood: how much it asks for and how its answer looks."""

    id: str
    model: str
    created: int
    chat: bool
    stream: bool
    include_usage: bool
    usage_in_chunks: bool
    prompt: list[str]
    output_tokens: int
    finish_reason: str


class SyntheticApp:
    """An ASGI app over one engine that serves a model under ``names``: its own, then its adapters'."""

    def __init__(self, names: Sequence[str], spec: SyntheticSpec, engine: SyntheticEngine) -> None:
        self._names = names
        self._spec = spec
        self._engine = engine
        self._metrics = SyntheticMetrics(names[0], engine)
        self._asked = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3 for ``http`` scopes."""
        # Serve's proxy leaves its route prefix in the path and names it in root_path.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            match scope["method"], path:
                case "POST", "/v1/chat/completions" | "/v1/completions":
                    call = _read_call(self._decode(await _body(receive)), path, self._spec.natural_tokens)
                    await self._unless_gone(self._produce(call, send), receive)
                case "POST", "/v1/embeddings":
                    await self._unless_gone(self._embed(self._decode(await _body(receive)), send), receive)
                case "GET", "/v1/models":
                    await _answer(send, 200, {"object": "list", "data": [self._card(name) for name in self._names]})
                case "GET", "/health":
                    await _respond(send, 200, b"text/plain", b"")
                case "GET", "/metrics":
                    await _respond(send, 200, b"text/plain; version=0.0.4", self._metrics.page())
                case method, _:
                    await _refuse(send, _RefusalError(404, f"There is no {method} {path} here.", "NotFoundError"))
        except _RefusalError as refusal:
            await _refuse(send, refusal)
        except QueueFullError:
            await _refuse(send, _RefusalError(503, "The queue is full.", "ServiceUnavailableError"))
        except TooLongError:
            await _refuse(send, _RefusalError(400, "The request is longer than the cache.", "BadRequestError"))

    def _decode(self, body: bytes) -> _Body:
        try:
            asked = msgspec.json.decode(body, type=_Body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _RefusalError(400, f"The body is not a request: {error}.", "BadRequestError") from error
        if asked.model not in self._names:
            raise _RefusalError(404, f"The model `{asked.model}` does not exist.", "NotFoundError")
        return asked

    def _card(self, name: str) -> dict[str, object]:
        card: dict[str, object] = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "tollway"}
        return card if name == self._names[0] else {**card, "parent": self._names[0]}

    async def _unless_gone(self, answer: Coroutine[Any, Any, None], receive: Receive) -> None:
        """Answer, unless the client leaves first: then the work ends at once and its slot is free."""
        work = asyncio.create_task(answer)
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, _RefusalError, QueueFullError, TooLongError):
                    await task

    def _fail_if_due(self) -> None:
        faults = self._spec.faults
        if self._asked == faults.crash_after_requests:
            os._exit(1)
        self._asked += 1
        if faults.fail_every and self._asked % faults.fail_every == 0:
            raise _RefusalError(500, "This request was to fail.", "InternalServerError")

    async def _produce(self, call: _Call, send: Send) -> None:
        self._fail_if_due()
        async with self._engine.request(call.prompt, call.output_tokens) as request:
            if call.stream:
                await self._stream(call, request, send)
            else:
                text = "".join([token async for token in self._tokens(request)])
                await _answer(send, 200, _whole(call, text, request), cut=self._is_cut(request))

    def _is_cut(self, request: Request) -> bool:
        limit = self._spec.faults.cut_after_tokens
        return limit is not None and limit < request.output_tokens

    async def _tokens(self, request: Request) -> AsyncIterator[str]:
        """Yield the tokens as far as they are to come; an answer that is to be cut ends here."""
        left = self._spec.faults.cut_after_tokens if self._is_cut(request) else request.output_tokens
        if left:
            async for text in self._engine.tokens(request):
                yield text
                left -= 1
                if not left:
                    return

    async def _stream(self, call: _Call, request: Request, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # A chunk is the same for every token but for the token, and is written once.
        before, after = _event(_chunk(call, _PLACE)).split(_encoded(_PLACE))
        taken = 0
        async for text in self._tokens(request):
            taken += 1
            if call.chat and taken == 1:
                await _send_event(send, _event(_chunk(call, "", role="assistant")))
            if call.usage_in_chunks:
                await _send_event(send, _event({**_chunk(call, text), "usage": _usage(request, taken)}))
            else:
                await _send_event(send, before + _encoded(text) + after)
        if self._is_cut(request):
            return  # without the answer's end, so the server closes the connection
        await _send_event(send, _event(_chunk(call, "", finish_reason=call.finish_reason)))
        if call.include_usage:
            usage = _usage(request, taken)
            await _send_event(send, _event({**_chunk(call, ""), "choices": [], "usage": usage}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _embed(self, asked: _Body, send: Send) -> None:
        """Answer a unit vector for each input: of the same words always the same one."""
        self._fail_if_due()
        inputs = _inputs(asked.input)
        if not inputs:
            raise _RefusalError(400, "`input` is missing or empty.", "BadRequestError")
        data: list[dict[str, object]] = []
        for index, words in enumerate(inputs):
            async with self._engine.request(words, 0) as request:
                await self._engine.read(request)
            numbers = _unit_vector(" ".join(words), asked.dimensions or self._spec.embedding_size)
            packed = b64encode(numbers.tobytes()).decode() if asked.encoding_format == "base64" else numbers.tolist()
            data.append({"object": "embedding", "index": index, "embedding": packed})
        count = sum(map(len, inputs))
        usage = {"prompt_tokens": count, "total_tokens": count}
        await _answer(send, 200, {"object": "list", "model": asked.model, "data": data, "usage": usage})


@asynccontextmanager
async def open_synthetic(name: str, spec: SyntheticSpec, also: Sequence[str] = ()) -> AsyncIterator[OpenEngine]:
    """Start the synthetic engine; it is always healthy. It answers to the names ``also`` too, as to LoRA adapters."""
    await asyncio.sleep(spec.start_s)

    async def check_health() -> None:
        return

    running = SyntheticEngine(spec)
    app = SyntheticApp((name, *also), spec, running)
    yield OpenEngine(app, check_health, lambda: EngineFigures(**asdict(running.figures())))


def _read_call(asked: _Body, path: str, natural_tokens: int) -> _Call:
    chat = path.endswith("/chat/completions")
    prompt = _words_of_messages(asked.messages or []) if chat else [*chain(*_inputs(asked.prompt))]
    if not prompt:
        raise _RefusalError(400, f"`{'messages' if chat else 'prompt'}` is missing or empty.", "BadRequestError")
    limit = asked.max_completion_tokens or asked.max_tokens or natural_tokens
    if limit < 1:
        raise _RefusalError(400, "`max_tokens` must be at least 1.", "BadRequestError")
    stops = not asked.ignore_eos and limit >= natural_tokens
    options = asked.stream_options or _StreamOptions()
    return _Call(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        model=asked.model,
        created=int(time.time()),
        chat=chat,
        stream=asked.stream,
        include_usage=options.include_usage,
        usage_in_chunks=options.include_usage and options.continuous_usage_stats,
        prompt=prompt,
        output_tokens=natural_tokens if stops else limit,
        finish_reason="stop" if stops else "length",
    )


# A word is a token: near enough for an engine whose text means nothing, and the same for every caller.
def _words(text: str) -> list[str]:
    return text.split() or [""]


def _words_of_messages(messages: list[_Message]) -> list[str]:
    words: list[str] = []
    for message in messages:
        parts = message.content if isinstance(message.content, list) else [_Part(message.content or "")]
        words += _words(" ".join(part.text for part in parts))
    return words


def _inputs(given: _Prompt) -> list[list[str]]:
    """Return the texts or token lists of a request, each as its tokens; empty when there is nothing."""
    if not given:
        return []
    if isinstance(given, str):
        return [_words(given)]
    if isinstance(given[0], int):
        return [list(map(str, given))]
    return [_words(one) if isinstance(one, str) else list(map(str, _listed(one))) or [""] for one in given]


def _listed(one: int | list[int]) -> list[int]:
    return [one] if isinstance(one, int) else one


def _unit_vector(text: str, size: int) -> "array[float]":
    draw = random.Random(text)  # noqa: S311 - decides no security
    numbers = [draw.gauss(0, 1) for _ in range(size)]
    length = math.hypot(*numbers)
    return array("f", [number / length for number in numbers])


def _usage(request: Request, output_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": request.prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": request.cached_tokens},
    }


def _whole(call: _Call, text: str, request: Request) -> dict[str, object]:
    said = {"message": {"role": "assistant", "content": text}} if call.chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": call.finish_reason}
    kind = "chat.completion" if call.chat else "text_completion"
    usage = _usage(request, call.output_tokens)
    head = {"id": call.id, "object": kind, "created": call.created, "model": call.model}
    return {**head, "choices": [choice], "usage": usage}


def _chunk(call: _Call, text: str, *, role: str | None = None, finish_reason: str | None = None) -> dict[str, object]:
    if not call.chat:
        said: dict[str, object] = {"text": text}
    elif finish_reason:
        said = {"delta": {}}
    else:
        said = {"delta": {"role": role, "content": text} if role else {"content": text}}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    return {"id": call.id, "object": kind, "created": call.created, "model": call.model, "choices": [choice]}


# Stands where a token is to be put; no name of a model has it.
_PLACE = "\0"


@cache
def _encoded(text: str) -> bytes:
    return msgspec.json.encode(text)


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


async def _send_event(send: Send, event: bytes) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusalError(400, "The body ended early.", "BadRequestError")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, refusal: _RefusalError) -> None:
    error = {"message": str(refusal), "type": refusal.kind, "param": None, "code": refusal.status}
    extra = [(b"retry-after", b"1")] if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else []
    await _answer(send, refusal.status, {"error": error}, extra)


async def _answer(
    send: Send, status: int, value: object, extra: Sequence[tuple[bytes, bytes]] = (), *, cut: bool = False
) -> None:
    await _respond(send, status, b"application/json", msgspec.json.encode(value), extra, cut=cut)


async def _respond(
    send: Send,
    status: int,
    content_type: bytes,
    body: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
    *,
    cut: bool = False,
) -> None:
    """Send a whole answer; one that is ``cut`` ends after its headers."""
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if not cut:
        await send({"type": "http.response.body", "body": body})
