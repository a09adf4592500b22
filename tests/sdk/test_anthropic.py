"""The ``openai`` client against an Anthropic target that plays exchanges written from Anthropic's documentation.

Through sockets on both sides: what the caller gets, what the provider got, and what is in the ledger and the metrics.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from openai import APIError, APIStatusError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.errors import MEANINGS, ErrorKind
from gateway.tariff import Usage
from gateway.types import LedgerEntry
from tests.contract.exchange import CREDENTIAL, ROOT, Exchange, UsagePart, load
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer
from tests.ground.upstream import ScriptedUpstream

EXCHANGES = {path.parent.name: load(path) for path in sorted((ROOT / "anthropic").glob("*/exchange.json"))}
_TOOLS = EXCHANGES["tool-use-stream"]
CLAUDE = {"type": "anthropic", "api_key": "env:CLAUDE", "always_stream": False}
"""A plain call is asked as one: ``tests/contract`` plays the others."""
PRICE = {"input": 1.0, "cached_input": 0.1, "cache_write": 1.25, "output": 5.0, "reasoning": 6.0}
"""USD per million tokens; each class has its own, so that none can stand in for another."""


class Ground(NamedTuple):
    """A gateway whose models are the exchanges, one each, so that no fault of one opens the breaker of another."""

    running: RunningGateway
    upstream: ScriptedUpstream
    client: OpenAI

    async def play(self, case: str, use: Callable[[dict[str, Any]], str]) -> LedgerEntry:
        """Have the upstream answer as in the exchange, make its request; ``use`` returns the request's id."""
        answer = _answer(EXCHANGES[case])
        self.upstream.then(*[answer] * (1 + _is_tried_again(answer)))
        call_id = await asyncio.to_thread(use, {**EXCHANGES[case].request, "model": case})
        await self.running.gateway.ledger.flush()
        found = await self.running.gateway.ledger.find(call_id)
        assert found is not None
        entry = found[1][-1]
        assert len(found[1]) == 1 + _is_tried_again(answer)
        assert found[0].cost_nano_usd == sum(each.cost_nano_usd for each in found[1])
        return entry


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run a gateway with one Anthropic provider, and make a client."""
    async with ScriptedUpstream() as upstream:
        config = {
            "providers": {"claude": {**CLAUDE, "base_url": upstream.url}},
            "models": {name: _model(exchange) for name, exchange in [*EXCHANGES.items(), ("helper", _TOOLS)]},
        }
        environ = {"CLAUDE": CREDENTIAL}
        async with running_gateway(config, tmp_path_factory.mktemp("gateway"), environ=environ) as running:
            with OpenAI(base_url=running.base_url, api_key="unused", max_retries=0) as client:
                yield Ground(running, upstream, client)


def _model(exchange: Exchange) -> dict[str, Any]:
    model: dict[str, Any] = {"provider": "claude", "upstream": exchange.target.upstream_model, "price": PRICE}
    if exchange.target.max_output_tokens:
        model["max_output_tokens"] = exchange.target.max_output_tokens
    return model


def _answer(exchange: Exchange) -> Answer:
    response = exchange.upstream_response
    return Answer(status=response.status, headers=tuple(response.headers.items()), chunks=(response.encode(),))


def _is_tried_again(answer: Answer) -> bool:
    """Whether the fault may be of the moment; a time-out has taken its time already."""
    return answer.status >= 500 and answer.status != 504


def _cases(*, stream: bool | None = None, ends_in: str) -> pytest.MarkDecorator:
    chosen = [
        name
        for name, exchange in EXCHANGES.items()
        if (stream is None or bool(exchange.request.get("stream")) == stream)
        and ends_in == ("answer" if exchange.answer.error is None else "break" if exchange.answer.stream else "error")
    ]
    assert chosen
    return pytest.mark.parametrize("case", chosen)


def _check_upstream(ground: Ground, case: str) -> None:
    """Check that the provider got the body, its version and our credential in its header, nothing of the caller's."""
    seen = ground.upstream.seen[-1]
    assert (seen.method, seen.path) == ("POST", EXCHANGES[case].upstream_request.path)
    assert seen.json == EXCHANGES[case].upstream_request.body
    assert seen.headers["x-api-key"] == CREDENTIAL
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in seen.headers
    assert not [name for name in seen.headers if name.startswith("x-stainless")]


def _cost_nano_usd(usage: Usage | UsagePart) -> int:
    """Price tokens by PRICE: a dollar a million is 1,000 nano-dollars a token."""
    return (
        usage.input_tokens * 1_000
        + usage.cached_input_tokens * 100
        + (usage.cache_write_tokens + usage.cache_write_1h_tokens) * 1_250
        + usage.output_tokens * 5_000
        + usage.reasoning_tokens * 6_000
    )


def _check_entry(ground: Ground, entry: LedgerEntry, case: str, outcome: str = "ok") -> None:
    expected = EXCHANGES[case].usage
    assert expected is not None
    if outcome == "cut":
        # Estimated from what had come: at least what the adapter itself saw, at most a token more.
        surplus = entry.usage.output_tokens - expected.output_tokens
        assert surplus in {0, 1}
        expected = msgspec.structs.replace(expected, output_tokens=entry.usage.output_tokens)
    assert entry.outcome == outcome
    assert entry.attempt_id == ground.upstream.seen[-1].attempt_id
    assert {name: getattr(entry.usage, name) for name in UsagePart.__struct_fields__} == {
        name: getattr(expected, name) for name in UsagePart.__struct_fields__
    }
    assert entry.cost_nano_usd == _cost_nano_usd(expected)
    assert entry.upstream_model == EXCHANGES[case].target.upstream_model
    metrics = ground.running.gateway.metrics.registry
    for token_class in ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning"):
        counted = metrics.get_sample_value("tollway_tokens_total", {"target": case, "class": token_class}) or 0
        assert counted == getattr(expected, f"{token_class}_tokens")
    assert metrics.get_sample_value("tollway_cost_nano_usd_total", {"target": case}) == entry.cost_nano_usd
    assert metrics.get_sample_value("tollway_attempts_total", {"target": case, "outcome": outcome}) == 1


@pytest.mark.asyncio(loop_scope="module")
@_cases(stream=False, ends_in="answer")
async def test_a_whole_answer(case: str, ground: Ground) -> None:
    """Text, tools, images, cache, thinking, refusal: a completion as the client types it, counted and priced right."""
    got: list[ChatCompletion] = []

    def use(request: dict[str, Any]) -> str:
        raw = ground.client.chat.completions.with_raw_response.create(**request)
        got.append(raw.parse())
        cost_nano_usd = round(float(raw.headers["x-tollway-cost-usd"]) * 1e9)
        expected = EXCHANGES[case].usage
        assert expected is not None
        assert cost_nano_usd == _cost_nano_usd(expected)
        return str(raw.headers["x-tollway-request-id"])

    entry = await ground.play(case, use)
    _check_upstream(ground, case)
    _check_entry(ground, entry, case)
    expected = EXCHANGES[case].answer.completion
    assert expected is not None
    (choice,) = got[0].choices
    assert (got[0].id, got[0].model) == (expected.id, expected.model)
    assert choice.message.model_dump(exclude_unset=True) == expected.message
    assert choice.finish_reason == expected.finish_reason
    assert got[0].usage is not None
    assert got[0].usage.model_dump(exclude_unset=True) == expected.usage


def _read(client: OpenAI, request: dict[str, Any], chunks: list[ChatCompletionChunk]) -> str:
    with client.chat.completions.create(**request) as stream:
        request_id = str(stream.response.headers["x-tollway-request-id"])
        try:
            for chunk in stream:
                chunks.append(chunk)  # noqa: PERF402 - what came before an error counts
        except APIError as error:
            error.add_note(request_id)
            raise
    return request_id


def _check_chunks(chunks: list[ChatCompletionChunk], case: str) -> None:
    expected = EXCHANGES[case].answer.stream
    assert expected is not None
    assert {(chunk.id, chunk.model) for chunk in chunks} == {(expected.id, expected.model)}
    choices = [choice for chunk in chunks for choice in chunk.choices]
    deltas = [choice.delta.model_dump(exclude_unset=True) for choice in choices]
    assert [delta for delta in deltas if delta] == expected.deltas
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == (
        [expected.finish_reason] if expected.finish_reason else []
    )
    usages = [chunk.usage.model_dump(exclude_unset=True) for chunk in chunks if chunk.usage]
    assert usages == ([expected.usage] if expected.usage else [])


@pytest.mark.asyncio(loop_scope="module")
@_cases(stream=True, ends_in="answer")
async def test_a_stream(case: str, ground: Ground) -> None:
    """The same in a stream: the deltas as the client types them, usage if it was asked for, counted in any case."""
    chunks: list[ChatCompletionChunk] = []
    entry = await ground.play(case, lambda request: _read(ground.client, request, chunks))
    _check_upstream(ground, case)
    _check_entry(ground, entry, case)
    _check_chunks(chunks, case)


@pytest.mark.asyncio(loop_scope="module")
@_cases(stream=True, ends_in="break")
async def test_a_stream_that_breaks(case: str, ground: Ground) -> None:
    """An error event or a cut in the middle raises in the client; what was written until then is counted, estimated."""
    chunks: list[ChatCompletionChunk] = []
    failed: list[APIError] = []

    def use(request: dict[str, Any]) -> str:
        with pytest.raises(APIError) as caught:
            _read(ground.client, request, chunks)
        failed.append(caught.value)
        return caught.value.__notes__[0]

    entry = await ground.play(case, use)
    _check_entry(ground, entry, case, outcome="cut")
    _check_chunks(chunks, case)
    expected = EXCHANGES[case].answer.error
    assert expected is not None
    assert entry.error_kind == expected.kind
    assert not isinstance(failed[0], APIStatusError)
    assert failed[0].code == MEANINGS[ErrorKind(expected.kind)].code
    assert expected.message in failed[0].message


@pytest.mark.asyncio(loop_scope="module")
@_cases(ends_in="error")
async def test_an_error(case: str, ground: Ground) -> None:
    """The caller's own mistake comes back with its status and words, ours or the provider's as a 503; none costs."""
    expected = EXCHANGES[case].answer.error
    assert expected is not None
    failed: list[APIStatusError] = []

    def use(request: dict[str, Any]) -> str:
        with pytest.raises(APIStatusError) as caught:
            ground.client.chat.completions.create(**request)
        failed.append(caught.value)
        return caught.value.response.headers["x-tollway-request-id"]

    entry = await ground.play(case, use)
    _check_upstream(ground, case)
    assert (entry.error_kind, entry.cost_nano_usd, entry.usage.output_tokens) == (expected.kind, 0, 0)
    assert entry.status in {EXCHANGES[case].upstream_response.status, 200}
    (error,) = failed
    # What is true of a model alone is told as the caller's own, for there is no other that could be asked.
    meaning = MEANINGS[ErrorKind(expected.kind)]
    if meaning.retryable and meaning.type != "invalid_request_error":
        assert (error.status_code, error.code) == (503, "no_target_available")
        assert expected.kind in error.message
        is_ours = expected.kind == "upstream_credentials" or entry.status == 404  # which no waiting mends
        wait_s = None if is_ours else str(round(expected.retry_after_s or 1))
        assert error.response.headers.get("retry-after") == wait_s
    else:
        assert error.status_code == expected.status
        assert expected.message in error.message


@pytest.mark.asyncio(loop_scope="module")
async def test_the_stream_helper_puts_tools_together(ground: Ground) -> None:
    """The client's own accumulation of a streamed answer with two tools gives both, with their arguments."""
    request = {**_TOOLS.request, "model": "helper"}
    del request["stream"]
    ground.upstream.then(_answer(_TOOLS))

    def use() -> ChatCompletion:
        with ground.client.chat.completions.stream(**request) as stream:
            return stream.get_final_completion()

    message = (await asyncio.to_thread(use)).choices[0].message
    assert message.content == "Okay, let's check."
    calls = [
        (call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"
    ]
    assert calls == [("get_weather", '{"location": "San Francisco, CA", "unit": "fahrenheit"}'), ("get_time", "{}")]
