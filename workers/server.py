"""The synthetic engine's HTTP face: the part of vLLM's OpenAI-compatible server that clients and the gateway use.

Chat completions and completions (streamed and not), the model list, health, and metrics under vLLM's names. Raw ASGI,
so that under load the engine's figures are measured and not a framework's. What it cannot do (tools, schemas, several
choices) it ignores: it stands in for an engine's timing, not for its abilities.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from workers.engine import Message, OpenEngine, Receive, Send
from workers.figures import read_figures
from workers.synthetic_engine import NATURAL_LENGTH, QueueFullError, SyntheticEngine
from workers.synthetic_spec import SyntheticSpec
from workers.synthetic_engine import NATURAL_LENGTH, QueueFullError, SyntheticEngine
from workers.synthetic_spec import SyntheticSpec


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    """What is read of a request; every other member is accepted and has no effect."""

    model: str
    messages: list[msgspec.Raw] | None = None
    prompt: str | list[msgspec.Raw] | None = None
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
    prompt_tokens: int
    output_tokens: int
    finish_reason: str


class SyntheticApp:
    """An ASGI app over one engine that serves one model called ``name``."""

    def __init__(self, name: str, engine: SyntheticEngine) -> None:
        self._name = name
        self._engine = engine
        self.registry = CollectorRegistry()
        """What ``/metrics`` says."""
        self._gauge("vllm:num_requests_running", "Requests that produce tokens.", lambda: engine.running)
        self._gauge("vllm:num_requests_waiting", "Requests that wait for a slot.", lambda: engine.waiting)
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens read.")
        self._output_tokens = self._counter("vllm:generation_tokens", "Tokens produced.")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3 for ``http`` scopes."""
        # Serve's proxy leaves its route prefix in the path and names it in root_path.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            match scope["method"], path:
                case "POST", "/v1/chat/completions" | "/v1/completions":
                    await self._complete(_read_call(await _body(receive), self._name, path), receive, send)
                case "GET", "/v1/models":
                    card = {"id": self._name, "object": "model", "created": int(time.time()), "owned_by": "tollway"}
                    await _answer(send, 200, {"object": "list", "data": [card]})
                case "GET", "/health":
                    await _respond(send, 200, b"text/plain", b"")
                case "GET", "/metrics":
                    await _respond(send, 200, b"text/plain; version=0.0.4", generate_latest(self.registry))
                case method, _:
                    await _refuse(send, _RefusalError(404, f"There is no {method} {path} here.", "NotFoundError"))
        except _RefusalError as refusal:
            await _refuse(send, refusal)

    def _gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        Gauge(name, meaning, ["model_name"], registry=self.registry).labels(self._name).set_function(value)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ["model_name"], registry=self.registry).labels(self._name)

    async def _complete(self, call: _Call, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first: then the work ends at once and its slot is free."""
        work = asyncio.create_task(self._produce(call, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, _RefusalError):
                    await task

    async def _produce(self, call: _Call, send: Send) -> None:
        try:
            async with self._engine.slot():
                self._prompt_tokens.inc(call.prompt_tokens)
                if call.stream:
                    await self._stream(call, send)
                else:
                    text = "".join([token async for token in self._tokens(call)])
                    await _answer(send, 200, _whole(call, text))
        except QueueFullError:
            raise _RefusalError(503, "The queue is full.", "ServiceUnavailableError") from None

    async def _stream(self, call: _Call, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = True
        async for token in self._tokens(call):
            if call.chat and first:
                await _event(send, _chunk(call, "", role="assistant"))
            first = False
            await _event(send, _chunk(call, token))
        await _event(send, _chunk(call, "", finish_reason=call.finish_reason))
        if call.include_usage:
            await _event(send, {**_chunk(call, ""), "choices": [], "usage": _usage(call)})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _tokens(self, call: _Call) -> AsyncIterator[str]:
        async for token in self._engine.tokens(call.output_tokens):
            self._output_tokens.inc()
            yield token


@asynccontextmanager
async def open_synthetic(name: str, spec: SyntheticSpec) -> AsyncIterator[OpenEngine]:
    """Start the synthetic engine; it is ready at once and always healthy."""

    async def check_health() -> None:
        return

    app = SyntheticApp(name, SyntheticEngine(spec))
    yield OpenEngine(app, check_health, lambda: read_figures(app.registry))


def _read_call(body: bytes, name: str, path: str) -> _Call:
    try:
        asked = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _RefusalError(400, f"The body is not a request: {error}.", "BadRequestError") from error
    if asked.model != name:
        raise _RefusalError(404, f"The model `{asked.model}` does not exist.", "NotFoundError")
    chat = path.endswith("/chat/completions")
    prompt = asked.messages if chat else asked.prompt
    if not prompt:
        raise _RefusalError(400, f"`{'messages' if chat else 'prompt'}` is missing or empty.", "BadRequestError")
    limit = asked.max_completion_tokens or asked.max_tokens or NATURAL_LENGTH
    if limit < 1:
        raise _RefusalError(400, "`max_tokens` must be at least 1.", "BadRequestError")
    stops = not asked.ignore_eos and limit >= NATURAL_LENGTH
    return _Call(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        model=name,
        created=int(time.time()),
        chat=chat,
        stream=asked.stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        # A word is a token: near enough for an engine whose text means nothing, and the same for every caller.
        prompt_tokens=max(
            1, len(prompt.split()) if isinstance(prompt, str) else sum(len(bytes(p).split()) for p in prompt)
        ),
        output_tokens=NATURAL_LENGTH if stops else limit,
        finish_reason="stop" if stops else "length",
    )


def _usage(call: _Call) -> dict[str, int]:
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.output_tokens,
        "total_tokens": call.prompt_tokens + call.output_tokens,
    }


def _whole(call: _Call, text: str) -> dict[str, object]:
    said = {"message": {"role": "assistant", "content": text}} if call.chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": call.finish_reason}
    kind = "chat.completion" if call.chat else "text_completion"
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "choices": [choice],
        "usage": _usage(call),
    }


def _chunk(call: _Call, text: str, *, role: str | None = None, finish_reason: str | None = None) -> dict[str, object]:
    if call.chat:
        said: dict[str, object] = {"delta": {"role": role, "content": text} if role else {"content": text}}
    else:
        said = {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    return {"id": call.id, "object": kind, "created": call.created, "model": call.model, "choices": [choice]}


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


async def _event(send: Send, value: object) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + msgspec.json.encode(value) + b"\n\n", "more_body": True}
    )


async def _refuse(send: Send, refusal: _RefusalError) -> None:
    error = {"message": str(refusal), "type": refusal.kind, "param": None, "code": refusal.status}
    extra = [(b"retry-after", b"1")] if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else []
    await _answer(send, refusal.status, {"error": error}, extra)


async def _answer(send: Send, status: int, value: object, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    await _respond(send, status, b"application/json", msgspec.json.encode(value), extra)


async def _respond(
    send: Send, status: int, content_type: bytes, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
