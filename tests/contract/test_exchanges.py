"""Every adapter, held to every exchange of its provider: one suite for all of them."""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.types import MessageCreateParams
from openai.types import CreateEmbeddingResponse, EmbeddingCreateParams
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from gateway.clock import SystemClock
from gateway.credentials.registry import signers
from gateway.errors import UpstreamError
from gateway.formats.base import Decoder
from gateway.providers.registry import ADAPTERS
from gateway.transport.http1 import HttpTransport
from gateway.types import Operation
from tests.contract.exchange import ATTEMPT_ID, BASE_URL, CREDENTIAL, ROOT, ErrorPart, Exchange, load

SIGNERS = signers(SystemClock(), HttpTransport())
PATHS = sorted(ROOT.glob("*/*/exchange.json"))


def _name(path: Path) -> str:
    return f"{path.parent.parent.name}-{path.parent.name}"


def _only(
    operation: Operation | None = "chat", *, stream: bool | None = None, failed: bool = False
) -> pytest.MarkDecorator:
    """Parametrise over the exchanges with an answer of one kind."""
    cases = [(path, load(path)) for path in PATHS]
    chosen = [
        pytest.param(exchange, id=_name(path))
        for path, exchange in cases
        if (exchange.upstream_response.status != 200) == failed
        and operation in {None, exchange.operation}
        and (stream is None or (exchange.upstream_response.events is not None) == stream)
    ]
    return pytest.mark.parametrize("exchange", chosen)


def _one_byte_each(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def _whole(data: bytes) -> Iterator[bytes]:
    return iter((data,))


def _at_random(data: bytes) -> Iterator[bytes]:
    dice = random.Random(len(data))
    at = 0
    while at < len(data):
        size = dice.randint(1, 90)
        yield data[at : at + size]
        at += size


CHUNKINGS: list[Callable[[bytes], Iterator[bytes]]] = [_one_byte_each, _whole, _at_random]
chunkings = pytest.mark.parametrize("chunking", CHUNKINGS)


def _play(decoder: Decoder, data: bytes, chunking: Callable[[bytes], Iterator[bytes]]) -> tuple[bytes, Any]:
    """Feed everything, as the relay does; return what the caller got and the error it ended with."""
    got = b""
    fed = 0
    events = 0
    try:
        for chunk in chunking(data):
            fed += len(chunk)
            got += decoder.feed(chunk)
            assert decoder.content_events >= events, "content events never shrink"
            events = decoder.content_events
        got += decoder.finish()
    except UpstreamError as error:
        assert fed == len(data), "the exchange goes on behind the error, and that part would never be played"
        return got, error
    return got, None


def _parse_sse(data: bytes) -> list[Any]:
    text = data.decode()
    assert text == "" or text.endswith("\n\n"), "a caller's stream consists of whole events"
    events = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def _check_error(error: UpstreamError | None, expected: ErrorPart | None) -> None:
    if expected is None:
        assert error is None
        return
    assert error is not None
    assert (error.kind.value, error.status, error.message) == (expected.kind, expected.status, expected.message)
    assert error.retry_after_s == expected.retry_after_s


def _check_usage(exchange: Exchange, decoder: Decoder) -> None:
    expected = msgspec.structs.asdict(exchange.usage) if exchange.usage else None
    assert (msgspec.structs.asdict(decoder.usage) if decoder.usage else None) == expected


def _force(value: Any) -> None:
    """Walk a validated value: pydantic validates an ``Iterable`` only when it is read."""
    if isinstance(value, Mapping):
        for member in value.values():
            _force(member)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in value:
            _force(item)


# Kept, because lazy validators crash once their adapter is gone.
_MESSAGE_CREATE_PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def _is_anthropic_request(body: bytes) -> None:
    _force(_MESSAGE_CREATE_PARAMS.validate_python(json.loads(body)))


_EMBEDDING_CREATE_PARAMS: TypeAdapter[Any] = TypeAdapter(EmbeddingCreateParams)


def _is_embeddings_request(body: bytes) -> None:
    _EMBEDDING_CREATE_PARAMS.validate_python(json.loads(body))  # read lazily, the first kind of array hides the others


REQUEST_SHAPES: dict[tuple[str, str], Callable[[bytes], None]] = {
    ("anthropic", "chat"): _is_anthropic_request,
    ("openai", "embeddings"): _is_embeddings_request,
}
"""Per adapter and operation, a check of an upstream body against the types of the provider's own SDK."""


@pytest.mark.parametrize("path", [pytest.param(path, id=_name(path)) for path in PATHS])
def test_exchange_says_where_it_comes_from_and_stands_alone(path: Path) -> None:
    """Each file names its source, and its folder holds nothing that no test would play."""
    assert load(path).source.startswith(("written from documentation, not recorded: https://", "recorded "))
    assert [file.name for file in path.parent.iterdir()] == ["exchange.json"]


def test_every_adapter_has_exchanges() -> None:
    """No adapter goes untested."""
    assert {load(path).build_target().adapter for path in PATHS} >= {"anthropic", "openai", "vllm"}


@pytest.mark.parametrize("path", [pytest.param(path, id=_name(path)) for path in PATHS])
async def test_request(path: Path) -> None:
    """The provider gets the expected body, in its own SDK's shape, with our credential and attempt id and no other."""
    exchange = load(path)
    target = exchange.build_target()
    adapter = ADAPTERS[target.adapter]
    assert adapter.refuses(exchange.call()) is None
    unsigned = adapter.prepare(exchange.call())(target, ATTEMPT_ID)
    assert not any(CREDENTIAL in value for _, value in unsigned.headers), "to sign is no affair of a format"
    assert target.credential is not None
    request = await SIGNERS[target.signer].sign(unsigned, target.credential)
    assert request.method == "POST"
    assert request.url == BASE_URL + exchange.upstream_request.path
    assert json.loads(request.body) == exchange.upstream_request.body
    if (target.adapter, exchange.operation) in REQUEST_SHAPES:
        REQUEST_SHAPES[target.adapter, exchange.operation](request.body)
    headers = dict(request.headers)
    assert len(headers) == len(request.headers), "no header twice"
    assert headers["x-tollway-attempt-id"] == ATTEMPT_ID
    assert headers["content-type"] == "application/json"
    assert sum(CREDENTIAL in value for value in headers.values()) == 1


@_only(stream=True)
@chunkings
def test_streamed_answer(exchange: Exchange, chunking: Callable[[bytes], Iterator[bytes]]) -> None:
    """A caller who streams gets the expected deltas in OpenAI's shape, whatever the chunking, and is billed right."""
    target = exchange.build_target()
    decoder = ADAPTERS[target.adapter].decoder(exchange.call(), target)
    got, error = _play(decoder, exchange.upstream_response.encode(), chunking)
    _check_error(error, exchange.answer.error)
    _check_usage(exchange, decoder)
    assert decoder.content_type == "text/event-stream; charset=utf-8"
    events = _parse_sse(got)
    expected = exchange.answer.stream
    if expected is None:
        assert events == []
        return
    finished = expected.finish_reason is not None
    assert decoder.complete is finished
    assert (events[-1] == "[DONE]") is finished
    chunks = [event for event in events if event != "[DONE]"]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert (chunk["id"], chunk["model"]) == (expected.id, expected.model)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    deltas = [choice["delta"] for choice in choices if choice["delta"]]
    assert deltas == expected.deltas
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == (
        [expected.finish_reason] if finished else []
    )
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == ([expected.usage] if expected.usage else [])
    if expected.usage:
        assert chunks[-1]["choices"] == []


@_only(stream=True)
@chunkings
def test_assembled_answer(exchange: Exchange, chunking: Callable[[bytes], Iterator[bytes]]) -> None:
    """A caller who does not stream gets the same answer in one piece when we stream upstream to measure."""
    target = exchange.build_target(always_stream=True)
    adapter = ADAPTERS[target.adapter]
    call = exchange.call(stream=False, stream_options=None)
    assert json.loads(adapter.prepare(call)(target, ATTEMPT_ID).body) == exchange.upstream_request.body
    decoder = adapter.decoder(call, target)
    data = exchange.upstream_response.encode()
    got, error = _play(decoder, data, chunking)
    _check_error(error, exchange.answer.error)
    _check_usage(exchange, decoder)
    assert decoder.content_type == "application/json"
    expected = exchange.answer.stream
    if expected is None or expected.finish_reason is None:
        assert got == b""
        return
    assert decoder.complete
    completion = json.loads(got)
    ChatCompletion.model_validate(completion, strict=True)
    assert (completion["id"], completion["model"]) == (expected.id, expected.model)
    choice = completion["choices"][0]
    assert choice["finish_reason"] == expected.finish_reason
    message = choice["message"]
    for member in ("content", "reasoning_content", "refusal"):
        assert (message.get(member) or "") == "".join(delta.get(member) or "" for delta in expected.deltas)
    arguments: dict[int, str] = {}
    for delta in expected.deltas:
        for part in delta.get("tool_calls", ()):
            arguments[part["index"]] = arguments.get(part["index"], "") + part["function"]["arguments"]
    calls = message.get("tool_calls", [])
    assert {index: call["function"]["arguments"] for index, call in enumerate(calls)} == arguments
    if expected.usage:
        assert completion["usage"] == expected.usage


@_only(stream=False)
@chunkings
def test_whole_answer(exchange: Exchange, chunking: Callable[[bytes], Iterator[bytes]]) -> None:
    """A caller who does not stream gets one chat completion, whatever the chunking, and is billed right."""
    target = exchange.build_target()
    decoder = ADAPTERS[target.adapter].decoder(exchange.call(), target)
    got, error = _play(decoder, exchange.upstream_response.encode(), chunking)
    _check_error(error, exchange.answer.error)
    _check_usage(exchange, decoder)
    assert decoder.content_type == "application/json"
    assert decoder.complete
    expected = exchange.answer.completion
    assert expected is not None
    completion = json.loads(got)
    ChatCompletion.model_validate(completion, strict=True)
    assert completion["object"] == "chat.completion"
    assert completion["created"] > 0
    assert (completion["id"], completion["model"]) == (expected.id, expected.model)
    assert completion.get("usage") == expected.usage
    (choice,) = completion["choices"]
    assert (choice["index"], choice["message"]) == (0, expected.message)
    assert choice["finish_reason"] == expected.finish_reason


@_only(stream=False)
def test_whole_answer_that_ends_in_the_middle(exchange: Exchange) -> None:
    """Half a body is a cut answer, never a success."""
    target = exchange.build_target()
    decoder = ADAPTERS[target.adapter].decoder(exchange.call(), target)
    data = exchange.upstream_response.encode()
    got, error = _play(decoder, data[: len(data) // 2], _whole)
    assert (got, decoder.complete) == (b"", False)
    assert error is not None
    assert error.kind.value == "upstream_cut"


@_only("embeddings")
@chunkings
def test_embeddings(exchange: Exchange, chunking: Callable[[bytes], Iterator[bytes]]) -> None:
    """A caller gets the upstream's own bytes, whatever the chunking, in the SDK's shape, and is billed right."""
    target = exchange.build_target()
    decoder = ADAPTERS[target.adapter].decoder(exchange.call(), target)
    data = exchange.upstream_response.encode()
    got, error = _play(decoder, data, chunking)
    assert (got, error, decoder.complete) == (data, None, True)
    _check_usage(exchange, decoder)
    assert decoder.content_type == "application/json"
    assert json.loads(got) == exchange.answer.embeddings
    for each in json.loads(got)["data"]:  # the SDK itself takes base64 beside its own type
        assert isinstance(each["embedding"], str | list)
    floats = json.loads(got)
    floats["data"] = [each | {"embedding": [0.5]} for each in floats["data"]]
    CreateEmbeddingResponse.model_validate(floats, strict=True)


@_only("embeddings")
def test_embeddings_that_end_in_the_middle(exchange: Exchange) -> None:
    """Half a body is never a success."""
    target = exchange.build_target()
    decoder = ADAPTERS[target.adapter].decoder(exchange.call(), target)
    data = exchange.upstream_response.encode()
    got, error = _play(decoder, data[: len(data) // 2], _whole)
    assert (got, decoder.complete) == (b"", False)
    assert error is not None
    assert error.meaning.retryable


@_only(None, failed=True)
def test_failure(exchange: Exchange) -> None:
    """An error answer is classified by whose fault it is, with the provider's words only for the caller's own."""
    target = exchange.build_target()
    response = exchange.upstream_response
    adapter = ADAPTERS[target.adapter]
    error = adapter.failure(response.status, response.headers, response.encode(), exchange.operation)
    _check_error(error, exchange.answer.error)
    assert error.upstream_status == response.status
