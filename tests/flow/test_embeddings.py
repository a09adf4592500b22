"""Embeddings go the way of chats: keys, limits, policy, fallback, ledger, metrics; without a token of output."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.targets import breaker
from tests.ground.configs import compatible, one_model, two_models
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, Chunk, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

INPUT = {"model": "auto", "input": ["one two three", "four"]}
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "m"}
FAULTS = {
    "hangs up": Answer(hang_up=True),
    "500": error_answer(500),
    "429": error_answer(429, retry_after_s=7),
    "no such path": error_answer(404, "404 page not found"),
    "no embedding model": error_answer(403, "You are not allowed to generate embeddings from this model"),
    "a chat instead": json_answer({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}),
    "half an answer": Answer(chunks=(b'{"data":[{"embedding":[0.5,',), framing="close"),
}


async def _embed(
    client: aiohttp.ClientSession, running: RunningGateway, **members: Any
) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with client.post(f"{running.base_url}/embeddings", json={**INPUT, **members}) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, json.loads(await answer.read()), headers


async def _page(client: aiohttp.ClientSession, running: RunningGateway, headers: dict[str, str]) -> dict[str, Any]:
    await running.gateway.ledger.flush()
    async with client.get(f"{running.base_url}/requests/{headers['x-tollway-request-id']}") as answer:
        page: dict[str, Any] = await answer.json()
        return page


async def test_cost_of_an_embedding_is_the_same_everywhere(tmp_path: Path) -> None:
    """Header, page, ledger and Prometheus: the upstream's own count, at the price of input, and no token of output."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        async with aiohttp.ClientSession() as client:
            status, body, headers = await _embed(client, running, dimensions=2)
            page = await _page(client, running, headers)
            async with client.get(f"{running.url}/metrics") as answer:
                metrics = await answer.text()
        (total,) = await running.totals()
    assert (status, body["usage"]["prompt_tokens"]) == (200, 4)
    assert [len(each["embedding"]) for each in body["data"]] == [2, 2]
    assert headers["x-tollway-cost-usd"] == "0.000004000"
    assert (total.outcome, total.input_tokens, total.output_tokens, total.cost_nano_usd) == ("ok", 4, 0, 4000)
    assert (page["operation"], page["stream"], page["cost_usd"]) == ("embeddings", False, "0.000004000")
    assert (page["ttft_ms"], page["tpot_ms"]) == (None, None)
    assert page["attempts"][0]["usage"]["origin"] == "provider"
    assert page["considered"][0]["prediction"]["output_tokens"]["p50"] == 0
    assert 'tollway_tokens_total{class="input",target="scripted"} 4.0' in metrics
    assert 'tollway_requests_total{outcome="ok",route="auto",status="200"} 1.0' in metrics
    assert 'tollway_request_duration_seconds_count{route="auto"} 1.0' in metrics
    for without in ("ttft", "tpot", "itl"):
        assert f'tollway_{without}_seconds_count{{target="scripted"}} 0.0' in metrics


async def test_an_upstream_that_does_not_count_is_estimated(tmp_path: Path) -> None:
    """Four bytes a token and at least one a text, and the ledger says that it is an estimate."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        upstream.model.usage = "none"
        async with aiohttp.ClientSession() as client:
            _, body, headers = await _embed(client, running)
            page = await _page(client, running, headers)
    assert "usage" not in body
    usage = page["attempts"][0]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["origin"]) == (5, 0, "estimated")  # 17 bytes


async def test_bytes_of_embeddings_stay_as_they_are_both_ways(tmp_path: Path) -> None:
    """Only ``model`` changes on the way up; an answer is the upstream's own, down to its spaces."""
    sent = b'{ "input":[[1, 2],[3]],"encoding_format":"base64", "model" : "auto","user":"u","x":{"y":[1]} }'
    answer_bytes = b'{"data": [ {"embedding":"AAAAPw==","index":0} ],\n "usage":{"total_tokens":3} }'
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        upstream.then(Answer(chunks=(answer_bytes[:20], answer_bytes[20:])))
        async with aiohttp.ClientSession() as client:
            async with client.post(f"{running.base_url}/embeddings", data=sent) as answer:
                assert await answer.read() == answer_bytes
    (seen,) = upstream.seen
    assert (seen.path, seen.body) == ("/v1/embeddings", sent.replace(b'"auto"', b'"scripted"'))


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_next_target_embeds_when_the_first_does_not(fault: str, tmp_path: Path) -> None:
    """Whatever the first one does instead; the caller gets the second one's vectors, and is told why."""
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.then(FAULTS[fault])
        async with running_gateway(two_models(bad.url, good.url), tmp_path) as running:
            async with aiohttp.ClientSession() as client:
                status, body, headers = await _embed(client, running)
    assert (status, len(body["data"]), headers["x-tollway-target"]) == (200, 2, "dear")
    assert headers["x-tollway-reason"].startswith("fallback: cheap ")


async def test_a_model_that_is_known_to_chat_only_is_not_asked(tmp_path: Path) -> None:
    """It drops out with a reason; one of which nothing is known is tried; and where none is left it is a 400."""
    async with ScriptedUpstream() as chats, ScriptedUpstream() as unknown:
        config = two_models(chats.url, unknown.url)
        config["models"]["cheap"]["capabilities"] = ["chat", "completions", "tools"]
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            status, _, headers = await _embed(client, running)
            page = await _page(client, running, headers)
            refused, body, _ = await _embed(client, running, model="cheap")
    assert (status, headers["x-tollway-target"]) == (200, "dear")
    assert page["dropped"] == [{"target_id": "cheap", "filter": "capability", "reason": "no embeddings"}]
    assert (refused, body["error"]["code"]) == (400, "unsupported")
    assert "cheap: no embeddings" in body["error"]["message"]
    assert chats.seen == []


async def test_a_model_that_only_embeds_is_not_asked_to_chat(tmp_path: Path) -> None:
    """The same the other way round."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["models"]["scripted"]["capabilities"] = ["embeddings"]
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            chat = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
            async with client.post(f"{running.base_url}/chat/completions", json=chat) as answer:
                assert (answer.status, "no chat" in await answer.text()) == (400, True)
            assert (await _embed(client, running))[0] == 200
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("fault", ["no such path", "no embedding model"])
async def test_asking_a_chat_model_to_embed_does_not_close_it_to_chats(fault: str, tmp_path: Path) -> None:
    """Its capabilities are not known, so it is asked, and says no: a clear 400, and no mark against its health."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/embeddings", FAULTS[fault])
        async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
            for _ in range(12):
                status, body, _ = await _embed(client, running)
                assert (status, body["error"]["type"], body["error"]["code"]) == (
                    400, "invalid_request_error", "unsupported",
                )  # fmt: skip
                assert "scripted: upstream_unsupported" in body["error"]["message"]
            assert set(running.gateway.pool.breaker_states().values()) == {"closed"}
            chat = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
            async with client.post(f"{running.base_url}/chat/completions", json=chat) as answer:
                assert answer.status == 200
        totals = {(each.outcome, each.attempts, each.cost_nano_usd > 0) for each in await running.totals()}
    assert totals == {("refused", 12, False), ("ok", 1, True)}


async def test_a_target_that_fails_to_embed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failures in a row open the breaker, as for chats."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE_S", 30.0)  # the other two come within it on any machine
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/embeddings", error_answer(503))
        async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
            statuses = [(await _embed(client, running))[0] for _ in range(5)]
    assert statuses == [503] * 5
    assert len(upstream.seen) == 3


async def test_keys_and_limits_hold_for_embeddings(tmp_path: Path) -> None:
    """No key, no vectors; three a minute are three a minute, refused ones too; and a key's routes are its routes."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [{"name": "app", "secret": "env:KEY", "requests_per_minute": 3, "routes": ["auto"]}]
        async with running_gateway(config, tmp_path, environ={"KEY": "k"}) as running:
            async with aiohttp.ClientSession() as client:
                assert (await _embed(client, running))[0] == 401
            async with aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client:
                assert (await _embed(client, running, model="scripted"))[0] == 403
                assert [(await _embed(client, running))[0] for _ in range(3)] == [200, 200, 429]
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [["a"], "b"]}, "input"),
        ({"stream": True}, "stream"),
        ({"encoding_format": "bytes"}, "encoding_format"),
        ({"model": ""}, "model"),
    ],
)
async def test_malformed_embeddings_request_is_refused_here(
    members: dict[str, Any], param: str, tmp_path: Path
) -> None:
    """A 400 that names the member, and nothing goes upstream."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        async with aiohttp.ClientSession() as client:
            status, body, _ = await _embed(client, running, **members)
    assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", param)
    assert upstream.seen == []


async def test_member_that_only_the_model_can_judge_is_passed_on(tmp_path: Path) -> None:
    """An empty text, too many dimensions: the upstream's own words and status."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        upstream.then(error_answer(422, "This model supports at most 384 dimensions."))
        async with aiohttp.ClientSession() as client:
            status, body, _ = await _embed(client, running, input="", dimensions=4096)
    assert (status, body["error"]["message"]) == (422, "This model supports at most 384 dimensions.")


@pytest.mark.slow
async def test_own_hardware_is_paid_by_its_time_and_predicted_from_it(tmp_path: Path) -> None:
    """At $3600 an hour a second is a dollar; and what was measured is what the next call is predicted to take."""
    vectors = json.dumps(VECTORS).encode()
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/embeddings", Answer(chunks=(Chunk(vectors, delay_s=1.0),), framing="content-length"))
        config = {
            "providers": {"own": {"type": "vllm", "base_url": f"{upstream.url}/v1"}},
            "models": {"bge": {"provider": "own", "hardware": {"name": "gpu", "usd_per_hour": 3600}}},
            "routes": {"auto": {"models": ["bge"]}},
        }
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            pages = [await _page(client, running, (await _embed(client, running))[2]) for _ in range(2)]
    costs = [float(page["cost_usd"]) for page in pages]
    predicted = pages[1]["considered"][0]["prediction"]
    assert all(cost >= 1.0 for cost in costs)
    assert costs[0] == pytest.approx(pages[0]["attempts"][0]["duration_ms"] / 1e3, rel=0.05)
    assert predicted["ttft_ms"]["p50"] == pytest.approx(pages[0]["attempts"][0]["duration_ms"], rel=0.05)
    assert predicted["cost_nano_usd"]["p50"] == pytest.approx(costs[0] * 1e9, rel=0.05)
    assert [page["attempts"][0]["ttft_ms"] for page in pages] == [None, None]


@pytest.mark.slow
async def test_faster_target_of_two_is_learnt(tmp_path: Path) -> None:
    """With ``objective: latency`` the time to the vectors is what counts."""
    vectors = json.dumps(VECTORS).encode()
    async with ScriptedUpstream() as slow, ScriptedUpstream() as fast:
        slow.on_path("/v1/embeddings", Answer(chunks=(Chunk(vectors, delay_s=1.5),), framing="content-length"))
        config = two_models(slow.url, fast.url, objective="latency")
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            targets = [(await _embed(client, running))[2]["x-tollway-target"] for _ in range(6)]
    assert set(targets[:2]) == {"cheap", "dear"}
    assert targets[2:] == ["dear"] * 4


async def test_chats_and_embeddings_do_not_mix_up_what_is_predicted(tmp_path: Path) -> None:
    """After many embeddings a chat at the same target is still predicted to answer as long as chats do."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens = 40
        config = {
            "providers": {"upstream": compatible(upstream.url)},
            "models": {"both": {"provider": "upstream", "price": {"input": 1.0, "output": 2.0}}},
        }
        chat = {"model": "both", "messages": [{"role": "user", "content": "hi"}]}
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:

            async def ask() -> dict[str, str]:
                async with client.post(f"{running.base_url}/chat/completions", json=chat) as answer:
                    assert answer.status == 200
                    return {name.lower(): value for name, value in answer.headers.items()}

            await ask()
            await asyncio.gather(*[_embed(client, running, model="both") for _ in range(80)])
            page = await _page(client, running, await ask())
    assert page["considered"][0]["prediction"]["output_tokens"]["p50"] == pytest.approx(40, rel=0.05)
