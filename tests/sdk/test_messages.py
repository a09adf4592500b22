"""Anthropic's Messages as callers speak it, towards an upstream of the same dialect: bytes up, bytes down, counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import anthropic
import pytest
import pytest_asyncio

from gateway.formats.anthropic.written import UNSIGNED
from gateway.types import CallRecord, LedgerEntry
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, json_answer, play
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICE = {"input": 1.0, "cached_input": 0.1, "cache_write": 1.25, "output": 5.0}
"""USD per million tokens: a dollar a million is 1,000 nano-dollars a token."""
ASKED: dict[str, Any] = {
    "model": "claude",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Grüße"}]}],
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "not_invented_yet": {"a": [1.0, None]},
}
USAGE = {"input_tokens": 10, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200, "output_tokens": 1}
COST_NANO_USD = 10 * 1_000 + 1_000 * 100 + 200 * 1_250 + 20 * 5_000
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Hallo", "citations": None}, {"type": "invented", "x": 1}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {**USAGE, "output_tokens": 20, "server_tool_use": None},
    "container": {"id": "c"},
}


def _event(name: str, **members: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | members)}\n\n".encode()


_START = _event("message_start", message={**MESSAGE, "content": [], "stop_reason": None, "usage": USAGE})
_PING = _event("ping")
_TEXT = [
    _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hal"}),
    _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo ü"}),
    _event("content_block_stop", index=0),
]
_UNKNOWN = [
    _event("content_block_start", index=1, content_block={"type": "invented", "x": 1}),
    _event("content_block_delta", index=1, delta={"type": "invented_delta", "y": 2}),
    _event("content_block_stop", index=1),
    _event("invented_event", z=3),
]
_END = [
    _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 20}),
    _event("message_stop"),
]
STREAM = b"".join([_START, _PING, *_TEXT, *_UNKNOWN, *_END])


class Ground(NamedTuple):
    """A gateway in front of one Anthropic upstream."""

    running: RunningGateway
    upstream: ScriptedUpstream
    client: anthropic.AsyncAnthropic
    session: aiohttp.ClientSession

    async def post(self, body: Any, path: str = "/v1/messages", **headers: str) -> tuple[int, Any, bytes]:
        """Post a body as it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.running.url + path, data=data, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def record(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]]:
        """Return what the ledger has of a call."""
        await self.running.gateway.ledger.flush()
        found = await self.running.gateway.ledger.find(call_id)
        assert found is not None
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="ground")
async def run_ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run the gateway and make the clients."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        far = {"type": "anthropic", "base_url": upstream.url, "api_key": "env:KEY"}
        model = {"provider": "far", "upstream": "claude-x", "price": PRICE}
        config = {
            "providers": {"far": far, "beta": {**far, "headers": {"anthropic-beta": "configured"}}},
            "models": {
                "claude": model,
                "small": {**model, "max_output_tokens": 16},
                "beta": {**model, "provider": "beta"},
            },
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "theirs"}) as running:
            async with anthropic.AsyncAnthropic(base_url=running.url, api_key="unused", max_retries=0) as client:
                yield Ground(running, upstream, client, session)


async def test_callers_own_bytes_go_up_with_version_and_betas(ground: Ground) -> None:
    """But for the model's name nothing changes, unknown members included; the whole answer comes down untouched."""
    body = json.dumps(MESSAGE, indent=1).encode()
    answer = Answer(headers=(("content-type", "application/json"),), chunks=(body,), framing="content-length")
    ground.upstream.then(answer)
    asked = json.dumps(ASKED, indent=2)
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "one-2025-01-01,two", "x-api-key": "mine"}
    status, got, data = await ground.post(asked.encode(), "/v1/messages?beta=true", **headers)
    assert (status, data) == (200, body)
    seen = ground.upstream.seen[-1]
    assert seen.body.decode() == asked.replace('"claude"', '"claude-x"')
    assert (seen.headers["anthropic-beta"], seen.headers["x-api-key"]) == ("one-2025-01-01,two", "theirs")
    assert got["x-tollway-cost-usd"] == f"0.{COST_NANO_USD:09d}"
    assert got["request-id"] == got["x-tollway-request-id"]


async def test_streamed_bytes_come_down_untouched_and_counted(ground: Ground) -> None:
    """Unknown blocks, deltas and events pass; the ledger has every class of tokens, and the time of the first."""
    pieces = [STREAM[at : at + 7] for at in range(0, len(STREAM), 7)]
    ground.upstream.then(play(STREAM), Answer(headers=(("content-type", "text/event-stream"),), chunks=pieces))
    for _ in range(2):
        status, got, data = await ground.post({**ASKED, "stream": True})
        assert (status, data.partition(b": x-tollway-cost-usd")[0]) == (200, STREAM)
        _, (entry,) = await ground.record(got["x-tollway-request-id"])
        assert (entry.cost_nano_usd, entry.cost_origin) == (COST_NANO_USD, "provider")
        assert entry.ttft_ms is not None


async def test_betas_of_several_lines_go_up_together(ground: Ground) -> None:
    ground.upstream.then(json_answer(MESSAGE))
    headers = [("anthropic-beta", "one,two"), ("x-api-key", "mine"), ("anthropic-beta", "three")]
    async with ground.session.post(f"{ground.running.url}/v1/messages", json=ASKED, headers=headers) as answer:
        assert answer.status == 200
    assert ground.upstream.seen[-1].headers["anthropic-beta"] == "one,two, three"


async def test_official_client_streams_with_betas(ground: Ground) -> None:
    """The SDK's stream helper reads the same events."""
    ground.upstream.then(play(b"".join([_START, _PING, *_TEXT, *_END])))
    asked = {name: ASKED[name] for name in ("model", "max_tokens", "messages")}
    async with ground.client.beta.messages.stream(**asked, betas=["one"]) as stream:
        message = await stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 20)
    assert ground.upstream.seen[-1].headers["anthropic-beta"] == "one"


async def test_configured_beta_comes_on_top_of_the_callers(ground: Ground) -> None:
    """Neither takes the other's place."""
    ground.upstream.then(json_answer(MESSAGE), json_answer(MESSAGE))
    await ground.post({**ASKED, "model": "beta"}, **{"anthropic-beta": "one"})
    assert ground.upstream.seen[-1].headers["anthropic-beta"] == "one,configured"
    await ground.post({**ASKED, "model": "beta"})
    assert ground.upstream.seen[-1].headers["anthropic-beta"] == "configured"


async def test_limit_above_the_targets_is_lowered(ground: Ground) -> None:
    """Agents ask for 32,000 tokens whatever the model; that rules none out."""
    ground.upstream.then(json_answer(MESSAGE))
    status, got, _ = await ground.post({**ASKED, "model": "small"})
    assert (status, ground.upstream.seen[-1].json["max_tokens"]) == (200, 16)
    record, _ = await ground.record(got["request-id"])
    assert record.left_out == ("max_tokens",)


_CITED = {
    "type": "char_location",
    "cited_text": "ü",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
}
_SEARCH = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "ü"}}
RICH: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "hm ü", "signature": "EqQB"},
    {"type": "redacted_thinking", "data": "Eu8B"},
    _SEARCH,
    {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
    {"type": "text", "text": "Hallo", "citations": [_CITED]},
    {"type": "tool_use", "id": "t1", "name": "look", "input": {"n": 1.5, "deep": {"a": []}}},
    {"type": "tool_use", "id": "t2", "name": "rest", "input": {}},
]


def _block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    begun = _event("content_block_start", index=index, content_block=start)
    pieces = [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return [begun, *pieces, _event("content_block_stop", index=index)]


def _pieces(kind: str, name: str, *texts: str) -> list[dict[str, str]]:
    return [{"type": kind, name: text} for text in texts]


RICH_EVENTS = [
    *_block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        *_pieces("thinking_delta", "thinking", "hm ", "ü"),
        *_pieces("signature_delta", "signature", "EqQB"),
    ),
    *_block(1, RICH[1]),
    *_block(2, {**_SEARCH, "input": {}}, *_pieces("input_json_delta", "partial_json", "", '{"query"', ': "ü"}')),
    *_block(3, RICH[3]),
    *_block(
        4,
        {"type": "text", "text": "", "citations": []},
        {"type": "citations_delta", "citation": _CITED},
        *_pieces("text_delta", "text", "Hal", "lo"),
    ),
    *_block(
        5,
        {**RICH[5], "input": {}},
        *_pieces("input_json_delta", "partial_json", '{"n": 1.5, ', '"deep": {"a": []}}'),
    ),
    *_block(6, RICH[6]),
]


@pytest.mark.parametrize(
    ("reason", "sequence"), [("tool_use", None), ("stop_sequence", "END"), ("pause_turn", None), ("refusal", None)]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_answer_in_the_other_framing_keeps_all_of_it(
    stream: bool, reason: str, sequence: str | None, ground: Ground
) -> None:
    """JSON for a stream becomes events, a stream for a plain call one message: signatures, server tools, reasons."""
    asked = {name: ASKED[name] for name in ("model", "max_tokens", "messages")}
    ends = {"stop_reason": reason, "stop_sequence": sequence}
    usage = {**USAGE, "output_tokens": 20, "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}}
    if stream:
        ground.upstream.then(json_answer({**MESSAGE, "content": RICH, **ends, "usage": usage}))
        async with ground.client.messages.stream(**asked) as running:
            message: Any = await running.get_final_message()
    else:
        end = [_event("message_delta", delta=ends, usage=usage), _END[1]]
        ground.upstream.then(play(b"".join([_START, *RICH_EVENTS, *end])))
        message = await ground.client.messages.create(**asked)
    dumped = message.model_dump(mode="json", exclude_unset=True)
    assert [{name: block[name] for name in each} for block, each in zip(dumped["content"], RICH, strict=True)] == RICH
    assert (message.id, message.stop_reason, message.stop_sequence) == ("msg_1", reason, sequence)
    got = message.usage
    assert (got.input_tokens, got.cache_read_input_tokens, got.output_tokens) == (10, 1000, 20)
    assert got.server_tool_use.web_search_requests == 1


async def test_call_cut_by_the_limit_is_a_message(ground: Ground) -> None:
    """Put together from a stream, it has an empty input."""
    cut = _block(0, {**RICH[5], "input": {}}, *_pieces("input_json_delta", "partial_json", '{"n":'))
    end = [_event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 20}), _END[1]]
    ground.upstream.then(play(b"".join([_START, *cut, *end])))
    status, _, data = await ground.post(ASKED)
    assert (status, json.loads(data)["content"]) == (200, [{**RICH[5], "input": {}}])


_SECOND = [
    _event("content_block_start", index=1, content_block={"type": "text", "text": None}),
    _event("content_block_delta", index=1, delta={"type": "text_delta", "text": "x"}),
    _event("content_block_stop", index=1),
]
_BROKEN = b"event: content_block_start\ndata: {broken\n\n"


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        ([*_TEXT, *_SECOND, *_END], [*_TEXT, *_SECOND, *_END]),
        ([*_TEXT[:2], _BROKEN, *_TEXT[2:], *_END], [*_TEXT, *_END]),
        ([*_TEXT, _BROKEN, *_SECOND[1:], *_END], None),
        ([*_TEXT, _BROKEN, _SECOND[2], *_END], None),
    ],
)
async def test_unreadable_event_passes_or_ends_the_stream(
    events: list[bytes], kept: list[bytes] | None, ground: Ground
) -> None:
    """A client cannot add to a block that never began."""
    ground.upstream.then(play(b"".join([_START, *events])))
    _, _, data = await ground.post({**ASKED, "stream": True})
    if kept is None:
        assert b"event: error" in data
        assert b"message_stop" not in data
    else:
        assert data.partition(b": x-tollway-cost-usd")[0] == b"".join([_START, *kept])


async def test_thinking_without_a_signature_stays_behind(ground: Ground) -> None:
    """What another model thought in an earlier turn is legal history: Anthropic gets the turn without it."""
    ground.upstream.then(json_answer(MESSAGE))
    mine = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
    unsigned = {"type": "thinking", "thinking": f"about {UNSIGNED}", "signature": UNSIGNED}
    quoting = {"type": "text", "text": f'"signature": "{UNSIGNED}"'}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [unsigned]},
        {"role": "assistant", "content": [unsigned, mine, quoting]},
        {"role": "user", "content": json.dumps(UNSIGNED)},
    ]
    await ground.post({**ASKED, "messages": turns})
    sent = ground.upstream.seen[-1].json["messages"]
    assert sent == [turns[0], {"role": "assistant", "content": [mine, quoting]}, turns[3]]


@pytest.mark.parametrize(
    ("body", "status", "kind", "place"),
    [
        (b"{", 400, "invalid_request_error", "not JSON"),
        ({**ASKED, "max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"model": "claude", "messages": [ASKED["messages"][0]]}, 400, "invalid_request_error", "max_tokens"),
        ({**ASKED, "messages": []}, 400, "invalid_request_error", "messages"),
        ({**ASKED, "messages": [{"role": "tool", "content": ""}]}, 400, "invalid_request_error", "messages[0].role"),
        ({**ASKED, "messages": [{"role": "user"}]}, 400, "invalid_request_error", "messages[0].content"),
        ({**ASKED, "messages": [{"role": "user", "content": 3}]}, 400, "invalid_request_error", "messages[0].content"),
        ({**ASKED, "messages": [{"role": "user", "content": [{}]}]}, 400, "invalid_request_error", "content[0]"),
        ({**ASKED, "stream": "yes"}, 400, "invalid_request_error", "stream"),
        ({**ASKED, "model": "claud"}, 404, "not_found_error", "Did you mean 'claude'"),
    ],
)
async def test_bad_body_is_refused_in_anthropics_shape(
    body: Any, status: int, kind: str, place: str, ground: Ground
) -> None:
    """With the member's place and the request's id."""
    got, headers, data = await ground.post(body)
    answer = json.loads(data)
    assert (got, answer["type"], answer["error"]["type"]) == (status, "error", kind)
    assert place in answer["error"]["message"]
    assert answer["request_id"] == headers["request-id"]


_LONG = b"x-long: " + b"a" * 33_000


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/messages/batches HTTP/1.1\r\nhost: localhost", 404),
        (b"POST /v1/messages/ HTTP/1.1\r\nhost: localhost", 404),
        (b"POST http://localhost/v1/messages/batches HTTP/1.1\r\nhost: localhost", 404),
        (b"POST /v1/other HTTP/1.1\r\nhost: localhost\r\nAnthropic-Version: 2023-06-01", 404),
        (b"DELETE /v1/models HTTP/1.1\r\nhost: localhost\r\nanthropic-version: 2023-06-01", 405),
        (b"GET /v1/messages HTTP/1.1\r\nhost: localhost", 405),
        (b"GET /v1/messages/count_tokens HTTP/1.1\r\nhost: localhost", 405),
        (b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip", 415),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nexpect: much", 417),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n" + _LONG, 431),
        (b"POST /v1/other HTTP/1.1\r\nhost: localhost\r\nanthropic-version: 2023-06-01\r\n" + _LONG, 431),
        (b"POST /v1/messages HTTP/1.1\r\nno host: localhost", 400),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nhost: b", 400),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nno size", 400),
        (b"POST /v1/messages HTTP/1.2\r\nhost: localhost", 505),
    ],
)
async def test_refusal_before_the_endpoint_is_in_anthropics_shape(head: bytes, status: int, ground: Ground) -> None:
    """By the path or by the version, with the request's id, however little of the head could be read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.running.port)
    writer.write(head + b"\r\nconnection: close\r\n\r\n")
    answer, _, body = (await asyncio.wait_for(reader.read(-1), SOON_S)).partition(b"\r\n\r\n")
    writer.close()
    said = json.loads(body)
    assert answer.split()[1] == b"%d" % status
    assert said["type"] == "error"
    assert f"\r\nrequest-id: {said['request_id']}".encode() in answer
    assert said["request_id"].startswith("req_")


async def test_refusal_of_openais_path_keeps_openais_shape(ground: Ground) -> None:
    for path in ("/v1/messagesque", "/v1/chat/completions/x"):
        status, _, data = await ground.post(ASKED, path)
        assert (status, list(json.loads(data))) == (404, ["error"])


async def test_large_body_is_read_by_its_outline(ground: Ground) -> None:
    """Claude Code's first request has 78 KB; its text counts as much as in a small one."""
    ground.upstream.then(json_answer(MESSAGE))
    text = "wörter \\ " * 20_000
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 300_000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}, image]}
    _, got, _ = await ground.post({**ASKED, "messages": [{"role": "user", "content": [result]}]})
    record, _ = await ground.record(got["x-tollway-request-id"])
    assert 50_000 + 1_000 <= record.input_tokens_estimate <= 50_000 + 1_100


async def test_error_in_mid_stream_is_an_error_event_and_no_end(ground: Ground) -> None:
    """The provider's overload behind content reaches the caller in his dialect; before content it is another try."""
    overloaded = _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    ground.upstream.then(play(b"".join([_START, *_TEXT[:2], overloaded])))
    status, _, data = await ground.post({**ASKED, "stream": True})
    assert (status, b"message_stop" in data) == (200, False)
    assert data.endswith(b"\n\n")
    last = data.rstrip().rpartition(b"\n\n")[2].decode()
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["type"] == "overloaded_error"


async def test_stop_reason_without_message_stop_ends_the_stream(ground: Ground) -> None:
    """Some proxies leave the last event out; the caller gets it. Without a reason the answer was cut."""
    ground.upstream.then(play(b"".join([_START, *_TEXT, _END[0]])), play(b"".join([_START, *_TEXT])))
    _, _, data = await ground.post({**ASKED, "stream": True})
    assert data.count(b"event: message_stop") == 1
    _, _, data = await ground.post({**ASKED, "stream": True})
    assert b"event: message_stop" not in data
    assert b"event: error" in data


async def test_wrong_method_is_refused_in_anthropics_shape(ground: Ground) -> None:
    """Like every other error of this path."""
    async with ground.session.get(ground.running.url + "/v1/messages") as answer:
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (await answer.json())["type"] == "error"
