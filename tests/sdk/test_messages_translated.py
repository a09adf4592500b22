"""Anthropic's Messages as its SDK speaks them, towards an OpenAI-compatible upstream: events, tools, usage, errors."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import anthropic
import pytest
import pytest_asyncio

from gateway.formats.anthropic.written import UNSIGNED
from tests.ground.chunks import COST_NANO_USD, PRICE, USAGE, chunk
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, error_answer, json_answer, play
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: dict[str, Any] = {"model": "own", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"name": "look", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}]


def _function(index: int, arguments: str, call_id: str | None = None) -> dict[str, Any]:
    named = {} if call_id is None else {"id": call_id, "type": "function"}
    function = {"arguments": arguments} | ({} if call_id is None else {"name": "look"})
    return {"tool_calls": [{"index": index, **named, "function": function}]}


_DONE = [chunk(), b"data: [DONE]\n\n"]
_ROLE = chunk({"role": "assistant", "content": ""})
TEXT = [_ROLE, *[chunk({"content": word}) for word in ("Grüße, ", "你好 ", "👋")], chunk({}, "stop"), *_DONE]
CALLS = [
    _ROLE,
    chunk({"reasoning_content": "Let me "}),
    chunk({"reasoning_content": "look."}),
    chunk({"content": "I look."}),
    chunk(_function(0, "", "functions.look:0")),
    chunk(_function(0, '{"n"')),
    chunk(_function(0, ": 1}")),
    chunk(_function(1, '{"n": 2}', "functions.look:1")),
    chunk({}, "tool_calls"),
    *_DONE,
]
CONTENT = [
    {"type": "thinking", "thinking": "Let me look.", "signature": UNSIGNED},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "functions_2e_look_3a_0", "name": "look", "input": {"n": 1}},
    {"type": "tool_use", "id": "functions_2e_look_3a_1", "name": "look", "input": {"n": 2}},
]


class Ground(NamedTuple):
    """A gateway in front of one compatible upstream."""

    running: RunningGateway
    upstream: ScriptedUpstream
    client: anthropic.AsyncAnthropic
    session: aiohttp.ClientSession

    async def events(self, *, at_a_time: int | None = None, chunks: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
        """Return the events of a stream, which the upstream sends in pieces of so many bytes."""
        body = b"".join(chunks)
        pieces = [body[at : at + at_a_time] for at in range(0, len(body), at_a_time)] if at_a_time else chunks
        self.upstream.then(Answer(headers=(("content-type", "text/event-stream"),), chunks=pieces))
        asked = json.dumps({**ASKED, "stream": True, "tools": TOOLS, "stop_sequences": ["END"]})
        async with self.session.post(f"{self.running.url}/v1/messages", data=asked) as answer:
            assert answer.status == 200
            text = (await answer.read()).decode()
        found = []
        for event in text.split("\n\n"):
            if event.startswith("event: "):
                name, data = event.removeprefix("event: ").split("\ndata: ")
                found.append((name, json.loads(data)))
                assert found[-1][1]["type"] == name
        return found

    def broken(self, answer: Answer) -> str:
        """Return a model of its own that answers so: what fails here closes no other test's target."""
        name = uuid4().hex
        self.upstream.on_model(name, answer)
        return f"broken/{name}"

    async def explained(self, call_id: str) -> Any:
        """Return what GET /v1/requests/{id} says."""
        async with self.session.get(f"{self.running.url}/v1/requests/{call_id}") as answer:
            return await answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="ground")
async def run_ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run the gateway and make the clients."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        own = {"type": "vllm", "base_url": f"{upstream.url}/v1"}
        far = {"type": "anthropic", "base_url": upstream.url, "api_key": "env:KEY"}
        config = {
            "providers": {"own": own, "far": far},
            "models": {
                "own": {"provider": "own", "upstream": "m", "price": PRICE},
                "tight": {"provider": "own", "price": PRICE, "context": 100},
                "broken/*": {"provider": "own", "price": PRICE},
                "tighter": {"provider": "own", "price": PRICE, "context": 50},
                "claude": {"provider": "far", "price": PRICE},
            },
            "routes": {"auto": {"models": ["own", "claude"]}, "narrow": {"models": ["tight", "tighter"]}},
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "theirs"}) as running:
            async with anthropic.AsyncAnthropic(base_url=running.url, api_key="unused", max_retries=0) as client:
                yield Ground(running, upstream, client, session)


def _kept(message: Any) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_none=True) for block in message.content]


async def test_official_client_streams_text(ground: Ground) -> None:
    """Characters of any length, the reason, and usage in Anthropic's counting, billed as it is."""
    ground.upstream.then(play(b"".join(TEXT)))
    async with ground.client.messages.stream(**ASKED) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert "".join(texts) == "Grüße, 你好 👋"
    assert (message.id, message.model, message.stop_reason) == ("msg_chatcmpl-1", "m", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (10, 1000, 20)
    explained = await ground.explained(stream.response.headers["request-id"])
    assert explained["cost_nano_usd"] == COST_NANO_USD


@pytest.mark.parametrize("stream", [True, False])
async def test_official_client_gets_thinking_and_parallel_tools(stream: bool, ground: Ground) -> None:
    """Ids as Anthropic takes them, arguments as objects; sent back, the engine gets its own ids again."""
    ground.upstream.then(play(b"".join(CALLS)))
    if stream:
        async with ground.client.messages.stream(**ASKED, tools=TOOLS) as running:
            message: Any = await running.get_final_message()
    else:
        message = await ground.client.messages.create(**ASKED, tools=TOOLS)
    assert _kept(message) == CONTENT
    assert message.stop_reason == "tool_use"
    results = [{"type": "tool_result", "tool_use_id": each["id"], "content": "7"} for each in CONTENT[2:]]
    history = [
        *ASKED["messages"],
        {"role": "assistant", "content": [each.model_dump() | {"not_invented_yet": None} for each in message.content]},
        {"role": "user", "content": results},
    ]
    ground.upstream.then(play(b"".join(TEXT)))
    answer = await ground.client.messages.create(**{**ASKED, "messages": history}, tools=TOOLS)
    assert _kept(answer) == [{"type": "text", "text": "Grüße, 你好 👋"}]
    sent = ground.upstream.seen[-1].json["messages"]
    assert sent[1]["reasoning"] == "Let me look."
    assert [each["id"] for each in sent[1]["tool_calls"]] == ["functions.look:0", "functions.look:1"]
    assert [each["tool_call_id"] for each in sent[2:]] == ["functions.look:0", "functions.look:1"]


def _check_grammar(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Blocks come one after another, numbered, each begun and ended; nothing comes behind the end."""
    names = [name for name, _ in events if name != "ping"]
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    open_block, count = None, 0
    for name, data in events:
        if name == "content_block_start":
            assert (open_block, data["index"]) == (None, count)
            open_block, count = data["index"], count + 1
        elif name == "content_block_delta":
            assert data["index"] == open_block
        elif name == "content_block_stop":
            assert data["index"] == open_block
            open_block = None
    assert open_block is None


@pytest.mark.parametrize("at_a_time", [1, 13, None, 100_000])
@pytest.mark.parametrize("chunks", [TEXT, CALLS])
async def test_events_follow_the_grammar_however_the_stream_is_cut(
    chunks: list[bytes], at_a_time: int | None, ground: Ground
) -> None:
    """Tokens that arrive together may leave as one delta; put together they say the same."""
    events = await ground.events(at_a_time=at_a_time, chunks=chunks)
    _check_grammar(events)
    deltas = [data["delta"] for name, data in events if name == "content_block_delta"]
    pieces = ("text", "thinking", "partial_json")
    together = "".join(delta[name] for delta in deltas for name in pieces if name in delta)
    assert together == ("Grüße, 你好 👋" if chunks is TEXT else 'Let me look.I look.{"n": 1}{"n": 2}')
    usage = events[-2][1]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (10, 1000, 20)


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (chunk({}, "length"), "max_tokens", None),
        (chunk({}, "content_filter"), "refusal", None),
        (chunk({}, "stop", stop_reason="END"), "stop_sequence", "END"),
        (chunk({}, "stop", stop_reason="<|end|>"), "end_turn", None),
        (chunk({}, "stop", stop_reason=2), "end_turn", None),
        (chunk({}, "tool_calls"), "end_turn", None),
        (chunk(_function(0, "{}", "c"), "tool_calls"), "tool_use", None),
        (chunk(_function(0, "{}", "c"), "tool_calls", stop_reason="END"), "tool_use", None),
        (chunk(_function(0, "{}", "c"), "stop", stop_reason="END"), "tool_use", None),
        (chunk({"function_call": {"name": "look", "arguments": "{}"}}, "function_call"), "tool_use", None),
    ],
)
async def test_stop_reason_is_anthropics(last: bytes, reason: str, sequence: str | None, ground: Ground) -> None:
    """VLLM says what stopped it, which may be the model's own mark; tools are run only behind ``tool_use``."""
    events = await ground.events(chunks=[_ROLE, chunk({"content": "a"}), last, *_DONE])
    assert events[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


async def test_tool_call_behind_finish_reason_stop_is_tool_use(ground: Ground) -> None:
    """A forced call ends in ``stop`` at OpenAI; a client of Anthropic's runs tools only behind ``tool_use``."""
    events = await ground.events(chunks=[_ROLE, chunk(_function(0, "{}", "c")), chunk({}, "stop"), *_DONE])
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"


async def test_stop_sequence_within_arguments_runs_no_tool(ground: Ground) -> None:
    """The call is not whole, so the reason is the sequence, streamed or not, and the answer no error."""
    cut = [_ROLE, chunk(_function(0, '{"n": "', "c")), chunk({}, "stop", stop_reason="END"), *_DONE]
    ended = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    events = await ground.events(chunks=cut)
    assert events[-2][1]["delta"] == ended
    ground.upstream.then(play(b"".join(cut)))
    message = await ground.client.messages.create(**ASKED, stop_sequences=["END"], tools=TOOLS)
    assert [message.content[0].to_dict()["input"], message.stop_reason, message.stop_sequence] == [{}, *ended.values()]


async def test_answer_in_one_piece_becomes_events(ground: Ground) -> None:
    """A server that does not stream, and reasoning in vLLM's newer member."""
    message = {"role": "assistant", "content": "a", "reasoning": "hm"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    ground.upstream.then(json_answer({"id": "1", "model": "m", "choices": [choice], "usage": USAGE}))
    async with ground.client.messages.stream(**ASKED) as stream:
        got = await stream.get_final_message()
    assert [block.type for block in got.content] == ["thinking", "text"]


async def test_cut_stream_ends_in_an_error_event(ground: Ground) -> None:
    """Never as if it were whole."""
    events = await ground.events(chunks=[_ROLE, chunk({"content": "a"})])
    assert events[-1][0] == "error"
    assert "message_stop" not in [name for name, _ in events]


_LOOKS = [_function(index, f'{{"n":{index}}}', f"c{index}") for index in range(3)]
_BLANK, _THOUGHT = {"content": "\n"}, {"reasoning_content": "\n"}


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([_function(0, "", "c0"), _function(1, "", "c1"), _function(0, '{"n":0}'), _function(1, '{"n":1}')], "01"),
        (
            [
                *(_function(index, '{"n"', f"c{index}") for index in range(3)),
                *(_function(index, f":{index}}}") for index in (2, 0, 1)),
            ],
            "012",
        ),
        ([*_LOOKS, _function(0, ""), _function(1, "\n")], "012"),
        ([_function(0, "", "c0"), _BLANK, _function(0, '{"n":0}'), _LOOKS[1]], "0b1"),
        ([_function(0, '{"n"', "c0"), _THOUGHT, _BLANK, _function(0, ":0}"), _LOOKS[1]], "0tb1"),
        ([_LOOKS[0], _BLANK, _LOOKS[1]], "0b1"),
        ([_function(0, "", "c0"), _LOOKS[1], _BLANK], "-1b"),
        ([{"function_call": {"name": "look", "arguments": ""}}, {"function_call": {"arguments": '{"n":0}'}}], "0"),
    ],
)
async def test_calls_become_one_block_after_another(deltas: list[Any], expected: str, ground: Ground) -> None:
    """In whatever order their pieces come. Expected: a number is a call's, ``b`` a blank, ``t`` a thought."""
    events = await ground.events(chunks=[*map(chunk, deltas), chunk({}, "tool_calls"), *_DONE])
    _check_grammar(events)
    blocks = {data["index"]: "" for name, data in events if name == "content_block_start"}
    for name, data in events:
        if name == "content_block_delta" and data["delta"]["type"] != "signature_delta":
            blocks[data["index"]] += data["delta"][data["delta"]["type"].replace("input_json", "partial_json")[:-6]]
    is_text = {"b": "\n", "t": "\n", "-": ""}
    assert list(blocks.values()) == [is_text.get(each, f'{{"n":{each}}}') for each in expected]


@pytest.mark.parametrize(
    ("calls", "stream"),
    [([*map(chunk, _LOOKS), chunk(_function(0, "{}"))], True), ([chunk(_function(0, "[1", "c"))], False)],
)
async def test_call_that_messages_cannot_hold_is_no_answer(calls: list[bytes], stream: bool, ground: Ground) -> None:
    """A call that was complete takes no more, and an ``input`` is an object; another target may do better."""
    broken = ground.broken(play(b"".join([_ROLE, *calls, chunk({}, "tool_calls"), *_DONE])))
    with pytest.raises(anthropic.InternalServerError):
        answer: Any = await ground.client.messages.create(**{**ASKED, "model": broken}, tools=TOOLS, stream=stream)
        async for _ in answer:
            pass


@pytest.mark.parametrize(
    ("name", "finish", "status"), [("look", ["a"], 200), ("look", {}, 200), ("look", 7, 200), ("\ud800", "stop", 503)]
)
async def test_odd_member_of_an_answer_is_no_fault_of_ours(name: str, finish: Any, status: int, ground: Ground) -> None:
    """A reason to end that is none is an ordinary end; what UTF-8 cannot hold is no answer."""
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a", "tool_calls": [call]}}
    broken = ground.broken(json_answer({"id": "1", "choices": [choice | {"finish_reason": finish}]}))
    asked = json.dumps({**ASKED, "model": broken, "tools": TOOLS})
    async with ground.session.post(f"{ground.running.url}/v1/messages", data=asked) as answer:
        assert answer.status == status, await answer.text()


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_tokens"), ("content_filter", "refusal")])
@pytest.mark.parametrize("stream", [True, False])
async def test_answer_cut_within_a_call_is_an_answer(stream: bool, finish: str, reason: str, ground: Ground) -> None:
    """It is billed, and nothing is asked for again."""
    cut = [_ROLE, chunk({"content": "a"}), _LOOKS[0], _function(1, '{"n":', "c1")]
    cut = [each if isinstance(each, bytes) else chunk(each) for each in cut]
    ground.upstream.then(play(b"".join([*cut, chunk({}, finish), *_DONE])))
    raw = await ground.client.messages.with_raw_response.create(**ASKED, tools=TOOLS, stream=stream)
    answer: Any = await raw.parse()
    if stream:
        assert [event async for event in answer][-2].delta.stop_reason == reason
    else:
        assert (answer.stop_reason, [each.input for each in answer.content[1:]]) == (reason, [{"n": 0}, {}])
    assert (await ground.explained(raw.headers["request-id"]))["cost_nano_usd"] == COST_NANO_USD


@pytest.mark.parametrize("stream", [True, False])
async def test_estimate_that_is_billed_is_the_usage(stream: bool, ground: Ground) -> None:
    """Where the upstream counts nothing."""
    ground.upstream.then(play(b"".join([*TEXT[:-2], TEXT[-1]])))
    raw = await ground.client.messages.with_raw_response.create(**ASKED, stream=stream)
    answer: Any = await raw.parse()
    usage: Any = [event async for event in answer][-2].usage if stream else answer.usage
    explained = await ground.explained(raw.headers["request-id"])
    assert min(usage.input_tokens, usage.output_tokens) > 0
    assert explained["cost_nano_usd"] == usage.input_tokens * 1_000 + usage.output_tokens * 5_000


async def test_halves_of_a_character_are_joined(ground: Ground) -> None:
    """Some engines cut an escape between the halves of a surrogate pair."""
    halves = [chunk({"content": "X"}).replace(b'"X"', half) for half in (b'"a\\ud83d"', b'"\\udc4bb"')]
    events = await ground.events(chunks=[_ROLE, *halves, chunk({}, "stop"), *_DONE])
    deltas = [data["delta"].get("text", "") for name, data in events if name == "content_block_delta"]
    assert "".join(deltas) == "a👋b"


async def test_members_left_out_stand_in_the_record(ground: Ground) -> None:
    """By name, also for the betas that only Anthropic knows."""
    ground.upstream.then(play(b"".join(TEXT)))
    block = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    raw = await ground.client.beta.messages.with_raw_response.create(**ASKED, system=[block], betas=["one"])
    explained = await ground.explained(raw.headers["request-id"])
    assert explained["left_out"] == ["anthropic-beta", "cache_control"]


_INJECTED = {"type": "text", "text": [1, ", ", ": "]}


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, r"tools\[0\]\.type"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"messages": [{"role": "user", "content": ""}]}, "'messages'.*no message with content"),
        ({"messages": [{"role": "user", "content": [_INJECTED]}]}, r"messages\[0\]\.content\[0\]\.text'.*a string"),
    ],
)
async def test_request_that_one_target_cannot_express_goes_to_the_next(
    members: dict[str, Any], place: str, ground: Ground
) -> None:
    """What only Anthropic has, or judges; without such a target it is refused by name, in Anthropic's shape."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [{"type": "text", "text": "a"}],
    }
    ground.upstream.then(
        json_answer(message | {"stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}})
    )
    got = await ground.client.messages.create(**{**ASKED, "model": "auto", **members})
    assert _kept(got) == [{"type": "text", "text": "a"}]
    asked = len(ground.upstream.seen)
    with pytest.raises(anthropic.BadRequestError, match=place):
        await ground.client.messages.create(**{**ASKED, **members})
    assert len(ground.upstream.seen) == asked


async def test_upstreams_refusal_is_written_in_anthropics_shape(ground: Ground) -> None:
    """With its own words."""
    ground.upstream.then(error_answer(400, "too warm"))
    with pytest.raises(anthropic.BadRequestError) as caught:
        await ground.client.messages.create(**ASKED)
    body: Any = caught.value.body
    assert body["error"] == {"type": "invalid_request_error", "message": "too warm"}
    assert body["request_id"] == caught.value.request_id


@pytest.mark.parametrize(
    ("model", "words", "expected"),
    [
        ("narrow", 1_000, r"prompt is too long: 12\d\d tokens > 100 maximum"),
        ("tight", 100, r"prompt is too long: 12\d tokens > 100 maximum"),
        ("tight", 10, "prompt is too long"),
        ("own", 100, "prompt is too long"),
    ],
)
async def test_prompt_that_is_too_long_is_refused_in_anthropics_words(
    model: str, words: int, expected: str, ground: Ground
) -> None:
    """By the gateway beforehand, or else by the upstream; Claude Code looks for this sentence."""
    said = "This model's maximum context length is 100 tokens. However, you requested 140 tokens."
    if words < 1_000:
        ground.upstream.then(error_answer(400, said))
    with pytest.raises(anthropic.BadRequestError) as caught:
        await ground.client.messages.create(
            model=model, max_tokens=50, messages=[{"role": "user", "content": "word " * words}]
        )
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"
    assert re.fullmatch(expected, body["error"]["message"])
