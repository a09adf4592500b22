"""The gateway before a real vLLM replica: the official client's suite, callers who leave, what is written down."""

import http.client
import json
from contextlib import closing
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.engine.conftest import Running
from tests.engine.test_worker import STORY, gauge, leave, wait_for_one, wait_for_tokens
from tests.ground.totals import totals_of
from tests.sdk.suite import CASES, NAMES, Case, Endpoint, clients


@pytest.mark.parametrize("case", CASES, ids=NAMES)
async def test_the_official_client_works_unchanged(case: Case, running: Running) -> None:
    """Every case of the suite, with nothing changed but ``base_url``."""
    async with clients(Endpoint(f"{running.gateway}/v1", running.route)) as play:
        await play(case)


def test_features_of_vllm_alone_pass_through(running: Running) -> None:
    """A choice, a regular expression and vLLM's own sampling members reach the engine as written."""
    with openai.OpenAI(base_url=f"{running.gateway}/v1", api_key="-", max_retries=0, timeout=120) as client:
        chosen = client.chat.completions.create(
            model=running.route,
            messages=[{"role": "user", "content": "Is the sky blue?"}],
            extra_body={"structured_outputs": {"choice": ["yes", "no"]}, "top_k": 5, "min_p": 0.1},
        )
        matched = client.chat.completions.create(
            model=running.route,
            messages=[{"role": "user", "content": "Name a year."}],
            extra_body={"structured_outputs": {"regex": "[12][0-9]{3}"}},
        )
    assert chosen.choices[0].message.content in {"yes", "no"}
    assert (matched.choices[0].message.content or "").isdigit()


@pytest.mark.parametrize("when", ["before the first byte", "in the answer"])
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_caller_who_leaves_frees_the_replica_at_once(running: Running, stream: bool, when: str) -> None:
    """Seen in vLLM's own metrics; nothing is left in flight at the gateway either."""
    body = {"model": running.route, "messages": STORY, "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    with closing(http.client.HTTPConnection(urlsplit(running.gateway).netloc, timeout=60)) as caller:
        caller.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        if when == "in the answer" and stream:
            answer = caller.getresponse()
            assert answer.readline().startswith(b"data: ")
            answer.close()
        wait_for_one(running)
        if when == "in the answer" and not stream:
            wait_for_tokens(running, 3)
        leave(running, caller)
    metrics = httpx2.get(f"{running.gateway}/metrics").text
    assert f'tollway_in_flight_requests{{target="{running.model}"}} 0.0' in metrics


def test_the_ledger_counts_what_the_engine_counts(running: Running) -> None:
    """One known run: the engine's own counters of tokens are those of the ledger, and each call explains itself."""
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = [gauge(running, name) for name in names]
    with openai.OpenAI(base_url=f"{running.gateway}/v1", api_key="-", max_retries=0, timeout=120) as client:
        raws = [
            client.chat.completions.with_raw_response.create(
                model=running.route, messages=STORY, max_tokens=12, stream=stream, extra_body={"ignore_eos": True}
            )
            for stream in (False, True)
        ]
        for raw in raws:
            assert raw.http_response.read()
    engine = [int(gauge(running, name) - then) for name, then in zip(names, before, strict=True)]
    told = [httpx2.get(f"{running.gateway}/v1/requests/{raw.headers['x-tollway-request-id']}").json() for raw in raws]
    usages = [call["attempts"][0]["usage"] for call in told]
    read = ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    assert sum(usage[name] for usage in usages for name in read) == engine[0]
    assert sum(usage["output_tokens"] for usage in usages) == engine[1] == 24
    for call in told:
        attempt = call["attempts"][0]
        assert call["outcome"] == "ok"
        assert attempt["usage"]["origin"] == "engine"
        assert attempt["ttft_ms"] > 0
        assert attempt["tpot_ms"] > 0, "a call without a stream is measured too: replicas are always streamed"
        assert attempt["cost_origin"] == "estimated"
        seconds = attempt["duration_ms"] / 1e3
        assert attempt["cost_nano_usd"] == pytest.approx(0.08 / 3600 * 1e9 * seconds, rel=0.05)
    store = Store(sqlite_url(running.state / "ledger.sqlite"))
    store.open()
    try:
        totals = {(row.target_id, row.outcome): row for row in totals_of(store)}
    finally:
        store.close()
    assert (running.model, "ok") in totals
