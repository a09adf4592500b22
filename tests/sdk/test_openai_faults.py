"""What goes wrong reaches the official ``openai`` client as its own exceptions, and its retries and timeouts work."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from openai import (
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
    RateLimitError,
)

from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, Seen, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S
from tests.sdk.suite import ASK

T = TypeVar("T")
KEYS = {"ALL": "k-all", "FEW": "k-few", "ONE": "k-one"}


def config(url: str) -> dict[str, Any]:
    """One model; a key for all of it, one for none of it, and one for one request a minute."""
    keys = [
        {"name": "all", "secret": "env:ALL"},
        {"name": "few", "secret": "env:FEW", "routes": ["auto"]},
        {"name": "one", "secret": "env:ONE", "requests_per_minute": 1},
    ]
    return {**one_model(url), "keys": keys}


async def blocking(running: RunningGateway, use: Callable[[OpenAI], T], key: str = "k-all", **settings: Any) -> T:
    """Use the blocking client in a thread."""

    def work() -> T:
        with OpenAI(base_url=running.base_url, api_key=key, **{"max_retries": 0, **settings}) as client:
            return use(client)

    return await asyncio.to_thread(work)


def ask(client: OpenAI) -> str:
    """Ask without a stream."""
    return client.chat.completions.create(model="auto", messages=ASK).choices[0].message.content or ""


def read(client: OpenAI) -> str:
    """Ask for a stream, and read it to its end."""
    with client.chat.completions.create(model="auto", messages=ASK, stream=True) as stream:
        return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def error_of(use: Callable[[OpenAI], object]) -> Callable[[OpenAI], APIError]:
    """Expect an exception and return it."""

    def work(client: OpenAI) -> APIError:
        with pytest.raises(APIError) as caught:
            use(client)
        return caught.value

    return work


@pytest.mark.parametrize("use", [ask, read])
async def test_errors_about_keys_are_the_clients_own_classes(
    use: Callable[[OpenAI], str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """401, 403, 404 and 429 raise the class that an app already catches, with code, request id and Retry-After."""

    def directly(client: OpenAI) -> None:
        client.chat.completions.create(model="scripted", messages=ASK)

    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        wrong = await blocking(running, error_of(use), key="k-wrong")
        denied = await blocking(running, error_of(directly), key="k-few")
        assert await blocking(running, use, key="k-few") == " w0 w1 w2 w3 w4"
        await blocking(running, use, key="k-one")
        limited = await blocking(running, error_of(use), key="k-one")
    assert isinstance(wrong, AuthenticationError)
    assert wrong.code == "invalid_api_key"
    assert (wrong.request_id or "").startswith("req_")
    assert isinstance(denied, PermissionDeniedError)
    assert denied.code == "model_not_allowed"
    assert isinstance(limited, RateLimitError)
    assert limited.code == "rate_limit_exceeded"
    assert 1 <= int(limited.response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("use", [ask, read])
async def test_an_upstreams_word_on_the_request_is_passed_on(
    use: Callable[[OpenAI], str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A 400 of the upstream about the request is a BadRequestError with its message."""
    upstream.then(error_answer(400, "temperature must be positive"))
    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        error = await blocking(running, error_of(use))
    assert isinstance(error, BadRequestError)
    assert "temperature must be positive" in error.message


@pytest.mark.slow
async def test_missing_target_is_a_503_that_the_client_retries_on_retry_after(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """An upstream that asks for three seconds of peace: a 503 at once; with a retry, the answer after those."""
    upstream.then(error_answer(429, retry_after_s=3))
    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        error = await blocking(running, error_of(ask))
        assert isinstance(error, InternalServerError)
        assert (error.status_code, error.code) == (503, "no_target_available")
        assert error.response.headers["retry-after"] == "3"
        begun_s = asyncio.get_running_loop().time()
        assert await blocking(running, read, max_retries=1) == " w0 w1 w2 w3 w4"
        # The client's own first pause is at most half a second.
        assert asyncio.get_running_loop().time() - begun_s > 0.8
    assert len(upstream.seen) == 2, "the breaker keeps what cannot be answered away from the upstream"


@pytest.mark.parametrize("fault", ["error event", "cut"])
async def test_a_stream_that_breaks_raises_in_the_middle(
    fault: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What came before the fault is there; then the client raises, and does not take the answer for whole."""
    if fault == "error event":
        upstream.model.error_after, upstream.model.tpot_s = 3, 0.02
    else:
        # The role and three tokens.
        upstream.then(lambda seen: replace(upstream.model.answer(seen), cut_after=4))
    got: list[str] = []

    def use(client: OpenAI) -> None:
        with client.chat.completions.create(model="auto", messages=ASK, stream=True) as stream:
            got.extend(choice.delta.content or "" for chunk in stream for choice in chunk.choices)

    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        error = await blocking(running, error_of(use))
    assert not isinstance(error, APIStatusError)
    assert error.type == "upstream_error"
    assert error.code == ("upstream_error" if fault == "error event" else "upstream_cut")


async def test_asynchronous_client_sees_the_same_errors(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The pieces before the fault arrive, then APIError."""
    upstream.model.error_after, upstream.model.tpot_s = 3, 0.02
    got: list[str] = []

    async def read_to_the_end(client: AsyncOpenAI) -> None:
        async with await client.chat.completions.create(model="auto", messages=ASK, stream=True) as stream:
            async for chunk in stream:
                got.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

    async with (
        running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running,
        AsyncOpenAI(base_url=running.base_url, api_key="k-all", max_retries=0) as client,
    ):
        with pytest.raises(APIError):
            await read_to_the_end(client)
    assert got == [" w0", " w1", " w2"]


@pytest.mark.parametrize("use", [ask, read])
@pytest.mark.slow
async def test_the_clients_timeout_frees_the_upstream(
    use: Callable[[OpenAI], str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A client that waits no longer raises its own timeout, and the upstream is let go."""
    upstream.then(Answer(raw=b"", stall_after=0))
    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        error = await blocking(running, error_of(use), timeout=2)
        await asyncio.wait_for(upstream.seen[0].ended.wait(), SOON_S)
        assert [row.outcome for row in await running.totals()] == ["cancelled"]
    assert isinstance(error, APITimeoutError)


async def test_a_stream_closed_early_frees_the_upstream(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """After ``close`` the upstream is let go; what was sent is in the ledger as cancelled."""
    upstream.model.tokens, upstream.model.tpot_s = 10_000, 0.01

    def use(client: OpenAI) -> None:
        stream = client.chat.completions.create(model="auto", messages=ASK, stream=True)
        while not next(stream).choices[0].delta.content:
            pass
        stream.close()

    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        await blocking(running, use)
        await asyncio.wait_for(upstream.seen[0].ended.wait(), SOON_S)
        (row,) = await running.totals()
    assert upstream.seen[0].disconnected_at_s is not None
    assert row.outcome == "cancelled"
    assert row.output_tokens >= 1


async def test_a_stream_that_was_read_to_its_end_marker_is_whole(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The client hangs up at ``[DONE]``; that is no cancellation, even if the upstream's body has not ended by then."""

    def without_end(seen: Seen) -> Answer:
        whole = upstream.model.answer(seen)
        chunks = tuple(whole.chunks)
        return replace(whole, chunks=chunks, stall_after=len(chunks))

    upstream.then(without_end)
    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:

        def use(client: OpenAI) -> str:
            with client.chat.completions.create(model="auto", messages=ASK, stream=True) as stream:
                request_id = stream.response.headers["x-tollway-request-id"]
                assert "".join(c.delta.content or "" for chunk in stream for c in chunk.choices) == " w0 w1 w2 w3 w4"
            return request_id

        request_id = await blocking(running, use)
        await asyncio.wait_for(upstream.seen[0].ended.wait(), SOON_S)
        (row,) = await running.totals()
        found = await running.gateway.ledger.find(request_id)
    assert (row.outcome, row.input_tokens, row.output_tokens) == ("ok", 7, 5)
    assert found is not None
    assert (found[0].outcome, found[0].status) == ("ok", 200)


async def test_unknown_members_reach_the_upstream(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """``extra_body`` and every sampling member arrive as they were sent."""
    sent: dict[str, Any] = {"seed": 7, "stop": ["x"], "logit_bias": {"42": -1}, "top_p": 0.5, "user": "u"}

    def use(client: OpenAI) -> None:
        client.chat.completions.create(model="auto", messages=ASK, extra_body={"top_k": 5, "new": {"a": [1]}}, **sent)

    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        await blocking(running, use)
    assert upstream.seen[0].json == {
        "model": "scripted",
        "messages": list(ASK),
        **sent,
        "top_k": 5,
        "new": {"a": [1]},
    }


async def test_a_missing_path_is_the_clients_own_error(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """An endpoint that does not exist here raises NotFoundError, in OpenAI's shape."""

    def use(client: OpenAI) -> None:
        client.moderations.create(input="text")

    async with running_gateway(config(upstream.url), tmp_path, environ=KEYS) as running:
        error = await blocking(running, error_of(use))
    assert isinstance(error, NotFoundError)
    assert error.code == "not_found"
