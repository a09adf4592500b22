"""Responses that are kept, through OpenAI's own client: a chain that survives a change of target, and its pages."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, Seen, json_answer
from tests.ground.upstream import ScriptedUpstream

ENVIRON = {"KEY_A": "tw-a", "KEY_B": "tw-b"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
OUTPUT = [
    {"id": "rs_up", "type": "reasoning", "summary": []},
    {
        "id": "msg_up",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Passed.", "annotations": []}],
    },
]
NATIVE = {
    "id": "resp_upstream",
    "object": "response",
    "created_at": 1,
    "model": "native",
    "status": "completed",
    "output": OUTPUT,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "store": False,
    "usage": {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    },
}


def chat(seen: Seen) -> Answer:
    """Answer a chat: with a call of the tool until there is its result."""
    has_tools = bool(seen.json.get("tools")) and seen.json["messages"][-1]["role"] != "tool"
    message: dict[str, Any] = {"role": "assistant", "content": None if has_tools else "It snows."}
    message |= {"tool_calls": [CALL]} if has_tools else {}
    finish = "tool_calls" if has_tools else "stop"
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    head = {"id": "c-1", "model": "m", "created": 1}
    if not seen.json.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return json_answer(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
    delta = message | ({"tool_calls": [CALL | {"index": 0}]} if has_tools else {})
    chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": usage}
    event = f"data: {json.dumps(chunk)}\n\n".encode()
    return Answer(headers=(("content-type", "text/event-stream"),), chunks=(event, b"data: [DONE]\n\n"))


def native(seen: Seen) -> Answer:
    """Answer in Responses, under an id of the upstream's."""
    if not seen.json.get("stream"):
        return json_answer(NATIVE)
    events = [{"type": "response.created", "response": NATIVE | {"output": [], "status": "in_progress"}}]
    for index, item in enumerate(OUTPUT):
        events.append({"type": "response.output_item.added", "output_index": index, "item": item})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": NATIVE})
    lines = [
        f"event: {each['type']}\ndata: {json.dumps(each | {'sequence_number': number})}\n\n".encode()
        for number, each in enumerate(events)
    ]
    return Answer(headers=(("content-type", "text/event-stream"),), chunks=lines)


@asynccontextmanager
async def gateway_of(path: Path, **responses: Any) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    """Run a gateway with two keys, a model that speaks chat and one that speaks Responses."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/chat/completions", chat)
        upstream.on_path("/v1/responses", native)
        config = {
            "providers": {"up": {"type": "openai-compatible", "base_url": f"{upstream.url}/v1"}},
            "models": {
                "talks": {"provider": "up", "price": "free"},
                "native": {"provider": "up", "price": "free", "api": "responses"},
            },
            "keys": [{"name": name, "secret": f"env:KEY_{name.upper()}"} for name in ("a", "b")],
            "responses": responses,
        }
        async with running_gateway(config, path, environ=ENVIRON) as gateway:
            yield gateway, upstream


def client_of(gateway: RunningGateway, key: str = "tw-a") -> openai.AsyncOpenAI:
    """Make a client that asks once."""
    return openai.AsyncOpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)


async def answered(client: openai.AsyncOpenAI, *, stream: bool, **asked: Any) -> Any:
    """Create a response, and return it whole."""
    if not stream:
        return await client.responses.create(**asked)
    ids = set()
    async with client.responses.stream(**asked) as events:
        async for event in events:
            if hasattr(event, "response"):
                ids.add((event.response.id, event.response.previous_response_id))
        final = await events.get_final_response()
    assert ids == {(final.id, final.previous_response_id)}
    return final


@pytest.mark.parametrize("stream", [False, True])
async def test_chain_goes_on_at_another_target(tmp_path: Path, stream: bool) -> None:
    """A call of a tool, its result by the id alone, then another model: each is sent all that was said before."""
    async with gateway_of(tmp_path) as (gateway, upstream), client_of(gateway) as client:
        first = await answered(client, stream=stream, model="talks", input="Weather?", tools=[TOOL])
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "snow"}
        second = await answered(client, stream=stream, model="talks", input=[result], previous_response_id=first.id)
        third = await answered(client, stream=stream, model="native", input="Sure?", previous_response_id=second.id)
        await answered(client, stream=stream, model="talks", input="Really?", previous_response_id=third.id)
        assert (third.previous_response_id, third.output_text) == (second.id, "Passed.")
        assert third.id not in {"resp_upstream", second.id}
        *_, passed, last = upstream.seen
        assert [item.get("type") for item in passed.json["input"]][1:3] == ["function_call", "function_call_output"]
        assert "previous_response_id" not in passed.json
        assert "rs_up" not in last.body.decode()
        said = [(message["role"], message["content"]) for message in last.json["messages"]]
        assert said == [
            ("user", "Weather?"), ("assistant", None), ("tool", "snow"), ("assistant", "It snows."),
            ("user", "Sure?"), ("assistant", "Passed."), ("user", "Really?"),
        ]  # fmt: skip


async def test_kept_response_is_shown_listed_and_deleted(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as client:
        first = await client.responses.create(model="talks", input="One?")
        second = await client.responses.create(model="talks", input="Two?", previous_response_id=first.id)
        assert await client.responses.retrieve(second.id) == second
        assert second.store is True
        items = [item async for item in client.responses.input_items.list(second.id, order="asc", limit=1)]
        assert [(item.role, item.content[0].text) for item in items] == [
            ("user", "One?"), ("assistant", "It snows."), ("user", "Two?"),
        ]  # fmt: skip
        assert len({item.id for item in items}) == 3
        page = await client.responses.input_items.list(second.id, limit=2)
        assert ([item.id for item in page.data], page.has_more) == ([items[2].id, items[1].id], True)
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(second.id)
        for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_none"}):
            with pytest.raises(openai.BadRequestError, match=f"'{next(iter(wrong))}'"):
                await client.responses.input_items.list(second.id, **wrong)
        await client.responses.delete(first.id)
        for gone in (client.responses.retrieve(first.id), client.responses.delete(first.id)):
            with pytest.raises(openai.NotFoundError):
                await gone
        again = await client.responses.create(model="talks", input="Three?", previous_response_id=second.id)
        assert again.previous_response_id == second.id


async def test_response_of_another_key_is_as_an_unknown_one(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as mine, client_of(gateway, "tw-b") as other:
        response = await mine.responses.create(model="talks", input="One?")
        refusals = []
        for response_id in (response.id, "resp_unknown"):
            for asked in (
                other.responses.retrieve(response_id),
                other.responses.delete(response_id),
                other.responses.input_items.list(response_id),
                other.responses.cancel(response_id),
                other.responses.create(model="talks", input="Two?", previous_response_id=response_id),
            ):
                with pytest.raises(openai.NotFoundError) as caught:
                    await asked
                refusals.append(caught.value.body)
        assert refusals[:5] == refusals[5:]
        assert await mine.responses.retrieve(response.id)


@pytest.mark.parametrize("how", ["store: false", "keep: 0"])
async def test_nothing_is_kept_where_nothing_shall_be(tmp_path: Path, how: str) -> None:
    options = {"keep": 0} if how == "keep: 0" else {}
    async with gateway_of(tmp_path, **options) as (gateway, _), client_of(gateway) as client:
        response = await client.responses.create(model="talks", input="One?", store=how == "keep: 0")
        assert response.store is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.APIStatusError, match=r"send .* 'input'") as caught:
            await client.responses.create(model="talks", input="Two?", previous_response_id=response.id)
        assert caught.value.status_code == (400 if options else 404)
        assert caught.value.body["param"] == "previous_response_id"  # type: ignore[index]
        with sqlite3.connect(tmp_path / "state" / "responses.sqlite") as database:
            assert not database.execute("SELECT * FROM sqlite_master WHERE name = 'kept'").fetchall() or (
                database.execute("SELECT count(*) FROM kept").fetchone() == (0,)
            )


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_cannot_be_kept_is_given_and_says_so(tmp_path: Path, stream: bool) -> None:
    async with gateway_of(tmp_path, keep_mb=0.0001) as (gateway, _), client_of(gateway) as client:
        response = await answered(client, stream=stream, model="talks", input="One?")
        assert (response.output_text, response.store) == ("It snows.", False)


async def test_chain_survives_a_restart(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as client:
        response = await client.responses.create(model="talks", input="One?")
    async with gateway_of(tmp_path) as (gateway, upstream), client_of(gateway) as client:
        await client.responses.create(model="talks", input="Two?", previous_response_id=response.id)
        assert len(upstream.seen[0].json["messages"]) == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"talks","input":"x","previous_response_id":"a","previous_response_id":"b"}',
        b'{"model":"talks","input":"x","previous_response_id":7}',
        b'{"model":"talks","input":"x","previous_response_id":"a"',
        b'{"model":"talks","input":"x","previous_response_id":"\xff"}',
        b'{"model":"talks","input":"x","previous_response_id":"\\ud800"}',
        b'{"model":"talks","input":"x","previous\\u005fresponse_id":"a"}',
        b'["previous_response_id"]',
    ],
)
async def test_malformed_body_is_refused_as_ever(tmp_path: Path, body: bytes) -> None:
    async with gateway_of(tmp_path) as (gateway, _), httpx.AsyncClient() as client:
        headers = {"authorization": "Bearer tw-a", "content-type": "application/json"}
        answer = await client.post(f"{gateway.base_url}/responses", content=body, headers=headers)
        assert answer.status_code in {400, 404}
        assert answer.json()["error"]["message"]


async def test_tokens_of_a_call_that_goes_on_are_counted_with_what_is_kept(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as client, client_of(gateway, "tw-b") as other:
        first = await client.responses.create(model="talks", input="Tell me of snow. " * 100)
        count = client.responses.input_tokens.count
        alone = await count(model="talks", input="More.")
        both = await count(model="talks", input="More.", previous_response_id=first.id)
        assert both.input_tokens > alone.input_tokens + 300
        with pytest.raises(openai.NotFoundError):
            await other.responses.input_tokens.count(model="talks", input="More.", previous_response_id=first.id)


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"role": "nobody", "content": "x"}, "input[1].role"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[1]"),
    ],
)
async def test_a_refusal_counts_the_items_that_the_caller_sent(tmp_path: Path, item: Any, place: str) -> None:
    """By the endpoint that reads the body, and by the format that cannot say it."""
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as client:
        first = await client.responses.create(model="talks", input="One.")
        second = await client.responses.create(model="talks", input="Two.", previous_response_id=first.id)
        asked: Any = [{"role": "user", "content": "Three."}, item]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="talks", input=asked, previous_response_id=second.id)
        assert f"'{place}" in refused.value.message
        assert "input[5]" not in f"{refused.value.message} {refused.value.param}"


async def test_answers_of_a_crowd_are_each_kept(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (gateway, _), client_of(gateway) as client:
        made = await asyncio.gather(*(client.responses.create(model="talks", input=str(n)) for n in range(20)))
        for number, response in enumerate(made):
            page = await client.responses.input_items.list(response.id)
            assert page.data[0].content[0].text == str(number)  # type: ignore[union-attr]


async def test_address_without_an_answer_says_what_to_do(tmp_path: Path) -> None:
    """A method that is not taken is told those that are; what lies at one provider, and WebSocket, are named."""
    socket = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "a"}
    refusals: list[tuple[str, str, dict[str, str], int, str, str]] = [
        ("PUT", "/responses/resp_1", {}, 405, "DELETE, GET, HEAD", "does not take that method"),
        ("GET", "/responses/resp_1/cancel", {}, 405, "POST", "does not take that method"),
        ("PUT", "/responses/compact", {}, 405, "DELETE, GET, HEAD, POST", "does not take that method"),
        ("GET", "/responses", {}, 405, "POST", "Send a POST request"),
        ("GET", "/responses", socket, 405, "POST", "WebSocket is not spoken"),
        ("POST", "/responses/compact", {}, 400, "", "Nothing is compacted"),
        ("POST", "/conversations", {}, 400, "", "previous_response_id"),
        ("GET", "/conversations/conv_1/items", {}, 400, "", "previous_response_id"),
    ]
    async with gateway_of(tmp_path) as (gateway, _), httpx.AsyncClient() as client:
        for method, path, headers, status, allow, sentence in refusals:
            answer = await client.request(method, gateway.base_url + path, headers=headers)
            assert (answer.status_code, answer.headers.get("allow", "")) == (status, allow), path
            assert sentence in answer.json()["error"]["message"]
