"""The scripted upstream: what the other tests rely on it to do and to write down."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.builders import build_call, build_upstream_request, build_view, chat_body
from tests.ground.in_memory import InMemoryTransport
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, error_answer, play
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

URL = "http://upstream.test"


async def ask(upstream: ScriptedUpstream, *, path: str = "/v1/chat/completions", **members: Any) -> tuple[int, bytes]:
    """Ask over the in-memory transport and read to the end."""
    transport = InMemoryTransport({URL: upstream.serve})
    request = build_upstream_request(f"{URL}{path}", body=chat_body(**members))
    received = bytearray()
    async with transport.send(request, connect_timeout_s=SOON_S) as answer:
        while data := await answer.read():
            received += data
    return answer.status, bytes(received)


def events(body: bytes) -> list[Any]:
    """Parse a stream; ``[DONE]`` stays a string."""
    data = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def usages(body: bytes) -> list[int]:
    """List the completion tokens of each usage in a stream, in order."""
    return [item["usage"]["completion_tokens"] for item in events(body) if item != "[DONE]" and item.get("usage")]


async def test_stream_has_the_shape_of_openais() -> None:
    """Role, content, finish reason, usage when asked, ``[DONE]``; the model is echoed; usage is exact."""
    upstream = ScriptedUpstream()
    members: dict[str, Any] = {
        "model": "m",
        "stream": True,
        "n": 2,
        "max_tokens": 3,
        "stream_options": {"include_usage": True},
    }
    _status, body = await ask(upstream, **members)
    *chunks, usage, done = events(body)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    assert {chunk["model"] for chunk in chunks} == {"m"}
    for index in range(2):
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == " w0 w1 w2"
        assert mine[-1]["finish_reason"] == "length"
    await upstream.seen[0].ended.wait()
    assert upstream.seen[0].tokens_written == 6


@pytest.mark.parametrize(("path", "key"), [("/v1/chat/completions", "message"), ("/v1/completions", "text")])
async def test_whole_answer_has_the_shape_of_openais(path: str, key: str) -> None:
    """Without ``stream`` there is one object, with usage."""
    _status, body = await ask(ScriptedUpstream(), path=path, model="m")
    value = json.loads(body)
    text = value["choices"][0][key]
    assert (text["content"] if key == "message" else text) == " w0 w1 w2 w3 w4"
    assert value["usage"]["completion_tokens"] == 5
    assert value["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("lie", "told"), [("exact", [5]), ("wrong", [1005]), ("none", []), ("in_content_chunk", [5]), ("twice", [3, 5])]
)
async def test_usage_lies_as_scripted(lie: Any, told: list[int]) -> None:
    """Each way of lying about usage looks as described."""
    upstream = ScriptedUpstream(ScriptedModel(usage=lie))
    _status, body = await ask(upstream, stream=True, stream_options={"include_usage": True})
    assert usages(body) == told


async def test_stream_can_end_badly() -> None:
    """It can leave out ``[DONE]`` or report an error in mid-stream."""
    _status, body = await ask(ScriptedUpstream(ScriptedModel(sends_done=False)), stream=True)
    assert events(body)[-1] != "[DONE]"
    _status, body = await ask(ScriptedUpstream(ScriptedModel(error_after=2)), stream=True)
    assert "error" in events(body)[-1]


async def test_scripts_are_chosen_by_order_path_and_model() -> None:
    """Order first, then path, then model, then the healthy model."""
    upstream = ScriptedUpstream().then(error_answer(429, retry_after_s=3))
    upstream.on_path("/v1/completions", error_answer(500))
    upstream.on_model("bad", lambda seen: error_answer(401 if seen.attempt_id is None else 200))
    assert (await ask(upstream))[0] == 429
    assert (await ask(upstream, path="/v1/completions"))[0] == 500
    assert (await ask(upstream, model="bad"))[0] == 401
    assert (await ask(upstream))[0] == 200


async def test_events_are_replayed_in_anthropics_shape() -> None:
    """An event is named after its type."""
    upstream = ScriptedUpstream().then(play([{"type": "ping"}, b"raw\n\n"]))
    assert await ask(upstream) == (200, b'event: ping\ndata: {"type": "ping"}\n\nraw\n\n')


def test_speed_follows_the_model_while_a_stream_is_under_way() -> None:
    """TTFT and TPOT are exact in virtual time; a model that slows down does so at once."""
    model = ScriptedModel(tokens=11, ttft_s=0.5, tpot_s=0.02)

    async def measure() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        upstream = ScriptedUpstream(model)
        begun_s = loop.time()
        await ask(upstream, stream=True)
        steady_s = loop.time() - begun_s
        loop.call_later(0.6001, setattr, model, "tpot_s", 1.0)  # after token 6 of 11
        begun_s = loop.time()
        await ask(upstream, stream=True)
        return steady_s, loop.time() - begun_s

    steady_s, slowed_s = run_virtual(measure())
    assert steady_s == pytest.approx(0.7)
    assert slowed_s == pytest.approx(0.5 + 6 * 0.02 + 4 * 1.0)


async def test_client_that_leaves_is_noticed_without_a_write(upstream: ScriptedUpstream) -> None:
    """Over a socket too, while the upstream is silent."""
    upstream.then(Answer(raw=b"", stall_after=0))
    _reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.rpartition(":")[2]))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-tollway-attempt-id: att_1\r\ncontent-length: 0\r\n\r\n")
    seen = await upstream.arrived()
    writer.close()
    await writer.wait_closed()
    await seen.ended.wait()
    assert seen.attempt_id == "att_1"
    assert seen.disconnected_at_s is not None


async def test_process_prints_its_address_and_logs(tmp_path: Path) -> None:
    """As a process it serves the model and writes one line at a request's start and one at its end."""
    log = tmp_path / "log.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.ground.upstream", "--log", str(log), "--tokens", "3"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    port = int((await process.stdout.readline()).decode().rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = chat_body()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nx-tollway-attempt-id: att_9\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b'"total_tokens": 5}}')
    writer.close()
    await writer.wait_closed()
    process.terminate()
    await process.wait()
    start, end = (json.loads(line) for line in log.read_text().splitlines())
    assert (start["event"], start["attempt_id"], start["tokens_written"]) == ("start", "att_9", 0)
    assert (end["event"], end["attempt_id"], end["tokens_written"], end["completed"]) == ("end", "att_9", 3, True)


def test_builders_take_any_field() -> None:
    """Defaults are sensible and every field can be given."""
    assert build_view(share=0.5).share == 0.5
    call = build_call(id="req_7")
    assert (call.id, call.envelope.members["model"]) == ("req_7", b'"auto"')
    assert replace(Answer(), status=404).status == 404
