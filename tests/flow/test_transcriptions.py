"""Transcripts go the way of chats: limits, fallback, ledger and metrics; billed by the length of the speech."""

import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.configs import one_model, two_models
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import error_answer, html_answer, json_answer
from tests.ground.speech import BOUNDARY, form, transcribe, wav
from tests.ground.upstream import ScriptedUpstream

PATH = "/v1/audio/transcriptions"
CONTENT_TYPE = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def config_of(url: str) -> dict[str, Any]:
    """Describe a model that costs $3.60 an hour of speech, a tenth of a cent a second."""
    config = one_model(url)
    config["models"]["scripted"]["price"] = {"audio_hour": 3.6}
    return config


async def _transcribe(running: RunningGateway, **fields: Any) -> tuple[int, bytes, dict[str, str], dict[str, Any]]:
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{running.url}{PATH}", data=io.BytesIO(form(**fields)), headers=CONTENT_TYPE) as answer:
            status, body = answer.status, await answer.read()
            headers = {name.lower(): value for name, value in answer.headers.items()}
        await running.gateway.ledger.flush()
        async with client.get(f"{running.base_url}/requests/{headers['x-tollway-request-id']}") as answer:
            return status, body, headers, await answer.json()


async def test_speech_is_billed_by_its_length(tmp_path: Path) -> None:
    """Header, ledger and Prometheus agree on what the upstream counted; a megabyte arrives as it was sent."""
    recording = wav(60)
    async with ScriptedUpstream() as upstream:
        upstream.on_path(PATH, transcribe)
        async with running_gateway(config_of(upstream.url), tmp_path) as running:
            status, body, headers, page = await _transcribe(running, file=recording)
            metrics = running.gateway.metrics.reading()().decode()
            (total,) = await running.totals()
    assert (status, json.loads(body)["text"]) == (200, f"{len(recording)} bytes")
    assert headers["x-tollway-cost-usd"] == "0.002000000"
    assert (total.audio_ms, total.input_tokens, total.cost_nano_usd) == (2000, 0, 2_000_000)
    assert page["considered"][0]["prediction"]["cost_nano_usd"]["p50"] == pytest.approx(60_000_000, rel=0.01)
    assert (page["operation"], page["ttft_ms"], page["tpot_ms"]) == ("transcriptions", None, None)
    assert page["attempts"][0]["usage"]["origin"] == "provider"
    assert 'tollway_audio_milliseconds_total{target="scripted"} 2000.0' in metrics
    assert upstream.seen[0].body == form(file=recording, model="scripted")


async def test_a_plain_text_is_billed_by_an_estimate(tmp_path: Path) -> None:
    """No count comes with it; a WAV file tells its length, and the ledger that it is an estimate."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path(PATH, transcribe)
        async with running_gateway(config_of(upstream.url), tmp_path) as running:
            _, body, headers, page = await _transcribe(running, file=wav(3), response_format="text")
    usage = page["attempts"][0]["usage"]
    assert (body, headers["content-type"]) == (f"{len(wav(3))} bytes\n".encode(), "text/plain; charset=utf-8")
    assert (usage["audio_ms"], usage["origin"]) == (pytest.approx(3000, abs=2), "estimated")
    assert float(headers["x-tollway-cost-usd"]) == pytest.approx(0.003, rel=0.01)


@pytest.mark.parametrize(
    "fault", [error_answer(500), error_answer(404, "404 page not found"), html_answer(), json_answer({"choices": []})]
)
async def test_the_next_target_transcribes_when_the_first_does_not(fault: Any, tmp_path: Path) -> None:
    """Whatever it does instead."""
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.then(fault)
        good.on_path(PATH, transcribe)
        async with running_gateway(two_models(bad.url, good.url), tmp_path) as running:
            status, _, headers, _ = await _transcribe(running)
    assert (status, headers["x-tollway-target"]) == (200, "dear")


async def test_a_recording_over_the_limit_is_refused(tmp_path: Path) -> None:
    """``server.max_body_mb`` holds for forms, too."""
    async with ScriptedUpstream() as upstream:
        config = {**config_of(upstream.url), "server": {"max_body_mb": 1}}
        async with running_gateway(config, tmp_path) as running:
            status, body, _, page = await _transcribe(running, file=bytes(2_000_000))
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert page["cost_usd"] == "0.000000000"
    assert upstream.seen == []


async def test_json_body_is_refused_for_a_transcription(tmp_path: Path) -> None:
    """A clear 400."""
    async with ScriptedUpstream() as upstream, running_gateway(config_of(upstream.url), tmp_path) as running:
        async with aiohttp.ClientSession() as client:
            async with client.post(f"{running.url}{PATH}", json={"model": "auto"}) as answer:
                assert answer.status == 400
                assert "multipart form" in (await answer.json())["error"]["message"]
