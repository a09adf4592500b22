"""Nothing sent, nothing billed; and what is sent twice is two attempts with two ids, two rows and one answer."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.ground.configs import one_model, two_models
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

SHORT, LONG = "hello " * 10, "word " * 2_000_000
"""The long one is more than the buffers on the way to an upstream hold."""


@asynccontextmanager
async def silent_port() -> AsyncIterator[str]:
    """Listen with the queue full: the next connection's SYN gets no reply."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _connection in range(2)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in waiting:
            connection.close()


@asynccontextmanager
async def deaf_server(scheme: str) -> AsyncIterator[str]:
    """Take connections, read nothing from them and say nothing."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"


UNSENT: dict[str, tuple[Callable[[], AbstractAsyncContextManager[str]], str]] = {
    "connecting": (silent_port, SHORT),
    "in the TLS handshake": (lambda: deaf_server("https"), SHORT),
    "writing the body": (lambda: deaf_server("http"), LONG),
}
"""Where a request is when its caller or its time leaves it, and what it says."""


def body_of(text: str, *, stream: bool = True) -> io.BytesIO:
    """Write a request that could be billed for much."""
    messages = [{"role": "user", "content": text}]
    return io.BytesIO(json.dumps({"model": "auto", "messages": messages, "stream": stream}).encode())


@pytest.mark.parametrize("place", UNSENT)
async def test_request_that_its_caller_left_unsent_costs_nothing(place: str, tmp_path: Path) -> None:
    """The row is there, with outcome ``cancelled`` and no tokens."""
    listening, text = UNSENT[place]
    async with listening() as url:
        config = one_model(url) | {"timeouts": {"connect_s": 60, "first_token_s": 60}}
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            asking = asyncio.ensure_future(client.post(f"{running.base_url}/chat/completions", data=body_of(text)))
            await until(lambda: running.gateway.pool.in_flight() == {"scripted": 1})
            asking.cancel()
            await until(lambda: running.gateway.pool.in_flight() == {"scripted": 0})
            (row,) = await running.totals()
    assert (row.outcome, row.attempts, row.input_tokens, row.cost_nano_usd) == ("cancelled", 1, 0, 0)


@pytest.mark.parametrize("place", UNSENT)
async def test_request_whose_time_ran_out_unsent_costs_nothing(place: str, tmp_path: Path) -> None:
    """A limit that passes is no more than a caller who leaves."""
    listening, text = UNSENT[place]
    async with listening() as url:
        config = one_model(url) | {"timeouts": {"connect_s": 60, "first_token_s": 0.5}}
        async with (
            running_gateway(config, tmp_path) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.base_url}/chat/completions", data=body_of(text)) as answer,
        ):
            assert answer.status == 503
            (row,) = await running.totals()
    assert (row.outcome, row.attempts, row.input_tokens, row.cost_nano_usd) == ("timeout", 1, 0, 0)


async def test_request_that_its_caller_left_sent_is_billed(tmp_path: Path) -> None:
    """What an upstream has whole it may work on, though it has said nothing yet."""
    async with ScriptedUpstream() as upstream:
        upstream.then(Answer(first_byte_delay_s=60.0))
        async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
            asking = asyncio.ensure_future(client.post(f"{running.base_url}/chat/completions", data=body_of(LONG)))
            await upstream.arrived()
            asking.cancel()
            await until(lambda: running.gateway.pool.in_flight() == {"scripted": 0})
            (row,) = await running.totals()
    assert row.outcome == "cancelled"
    assert row.input_tokens > 1_000_000
    assert row.cost_nano_usd > 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
async def test_request_sent_twice_is_two_attempts(reset: bool, stream: bool, tmp_path: Path) -> None:
    """A kept connection was lost: the same target answers on a fresh one, and the caller does not notice."""
    async with ScriptedUpstream() as upstream, ScriptedUpstream() as other:
        async with running_gateway(two_models(upstream.url, other.url), tmp_path) as running:
            async with aiohttp.ClientSession() as client:
                url = f"{running.base_url}/chat/completions"
                async with client.post(url, data=body_of(SHORT, stream=stream)) as answer:
                    await answer.read()
                upstream.then(Answer(hang_up=True, reset=reset))
                async with client.post(url, data=body_of(SHORT, stream=stream)) as answer:
                    assert answer.status == 200
                    assert b" w4" in await answer.read()
                    assert answer.headers["x-tollway-target"] == "cheap"
                    assert "fallback" not in answer.headers["x-tollway-reason"]
                    call_id = answer.headers["x-tollway-request-id"]
            assert running.gateway.pool.breaker_states()["cheap"] == "closed"
            await running.gateway.ledger.flush()
            found = await running.gateway.ledger.find(call_id)
    assert found is not None
    record, attempts = found
    assert [each.attempt_id for each in attempts] == [seen.attempt_id for seen in upstream.seen[1:]]
    assert len({each.attempt_id for each in attempts}) == 2
    assert [(each.outcome, each.error_kind) for each in attempts] == [("failed", "stale_connection"), ("ok", None)]
    assert (attempts[0].cost_nano_usd, attempts[0].usage.input_tokens) == (0, 0)
    assert record.cost_nano_usd == attempts[1].cost_nano_usd > 0
    assert record.attempt_ids == tuple(each.attempt_id for each in attempts)
    assert not other.seen


@pytest.mark.parametrize(
    ("then", "kind"),
    [(Answer(hang_up=True), "upstream_cut"), (error_answer(500), "upstream_error")],
    ids=["lost again", "refused"],
)
async def test_failure_on_the_fresh_connection_is_the_targets_own(then: Answer, kind: str, tmp_path: Path) -> None:
    """It is tried there no third time; the next target answers, and the caller reads of one failure."""
    async with ScriptedUpstream() as upstream, ScriptedUpstream() as other:
        async with running_gateway(two_models(upstream.url, other.url), tmp_path) as running:
            async with aiohttp.ClientSession() as client:
                url = f"{running.base_url}/chat/completions"
                async with client.post(url, data=body_of(SHORT)) as answer:
                    await answer.read()
                upstream.then(Answer(hang_up=True), then)
                async with client.post(url, data=body_of(SHORT)) as answer:
                    assert answer.headers["x-tollway-target"] == "dear"
                    assert answer.headers["x-tollway-reason"] == f"fallback: cheap {kind}"
    assert len(upstream.seen) == 3
