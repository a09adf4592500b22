"""What accounting reads of OpenAI's answers, and whole answers put together from chunks."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.completion import Completion

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.openai.answer import Assembler, Tap, parse
from gateway.tariff import Usage


def delta(**members: Any) -> dict[str, Any]:
    """Write a chunk with one choice and this delta."""
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("chunk", "content_bytes"),
    [
        (delta(role="assistant", content=""), 0),
        (delta(content="hé"), 3),
        (delta(reasoning="ab"), 2),
        (delta(reasoning_content="ab", reasoning="ab"), 2),
        (delta(refusal="no"), 2),
        (delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]), 1),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]), 4),
        (delta(tool_calls=[{"index": 0, "custom": {"input": "ls"}}]), 2),
        (delta(function_call={"arguments": "{}"}), 2),
        (delta(audio={"transcript": "hi"}), 2),
        (delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), 2),
        (delta(content=7, tool_calls="x", function_call=1), 0),
        ({"choices": [{"index": 0, "delta": None}]}, 0),
        ({"choices": [{"index": 0, "text": "hey"}]}, 3),
        ({"choices": [{"index": 0, "message": {"content": "hey"}}]}, 3),
        ({"choices": []}, 0),
        ({"id": "x"}, 0),
    ],
)
def test_content_is_seen_wherever_it_is(chunk: dict[str, Any], content_bytes: int) -> None:
    """Text, reasoning, refusals and tool arguments bear content; roles and empty strings do not."""
    tap = Tap()
    tap.read(json.dumps(chunk).encode())
    assert (tap.content_events, tap.content_bytes) == (int(content_bytes > 0), content_bytes)


def test_the_last_usage_wins_and_the_finish_reason_is_kept() -> None:
    """Usage may be in any chunk; a null in a later one takes nothing away."""
    tap = Tap()
    tap.read(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}')
    tap.read(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}')
    tap.read(b'{"choices":[],"usage":null}')
    assert tap.usage == Usage(input_tokens=5, output_tokens=2)
    assert tap.finish_reason == "stop"


def test_half_a_surrogate_pair_is_content() -> None:
    """An upstream that cuts an emoji in two does not end the stream."""
    tap = Tap()
    tap.read(b'{"choices":[{"delta":{"content":"\\ud83d"}}]}')
    assert tap.content_events == 1


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"[]", b'"x"', b'{"choices":5}', b'{"choices":["x"]}', b"[" * 100_000]
)
def test_malformed_chunk_is_a_protocol_error(data: bytes) -> None:
    """The upstream's nonsense is the upstream's fault, whatever it is."""
    with pytest.raises(UpstreamError) as caught:
        Tap().read(data)
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def chat_chunk(*choices: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Write a whole chunk as OpenAI does."""
    top = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    return top | {"choices": list(choices)} | members


def assembled(operation: Any, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Assemble, and hold the result against the SDK's own types."""
    assembler = Assembler(operation)
    for chunk in chunks:
        assembler.add(parse(json.dumps(chunk).encode()))
    body = assembler.finish()
    (ChatCompletion if operation == "chat" else Completion).model_validate_json(body, strict=False)
    answer: dict[str, Any] = json.loads(body)
    return answer


def choice(content: dict[str, Any], index: int = 0, **members: Any) -> dict[str, Any]:
    """Write one streamed choice."""
    return {"index": index, "delta": content, "logprobs": None, "finish_reason": None} | members


def test_a_chat_answer_is_put_together() -> None:
    """Text, usage, fingerprint and the engine's own members are all there, once."""
    answer = assembled(
        "chat",
        [
            chat_chunk(choice({"role": "assistant", "content": ""}), prompt_token_ids=[1, 2], service_tier=None),
            chat_chunk(choice({"content": "Hel"}, token_ids=[3]), usage=None),
            chat_chunk(choice({"content": "lo"}, token_ids=[4]), service_tier="default"),
            chat_chunk(choice({}, finish_reason="stop", stop_reason=42)),
            chat_chunk(usage={"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}, system_fingerprint="fp"),
        ],
    )
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": 42,
                "token_ids": [3, 4],
            }
        ],
        "prompt_token_ids": [1, 2],
        "service_tier": "default",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
        "system_fingerprint": "fp",
    }


def test_several_choices_are_kept_apart() -> None:
    """Chunks of several choices come interleaved; they leave in order of their index."""
    answer = assembled(
        "chat",
        [
            chat_chunk(choice({"role": "assistant", "content": "b"}, 1), choice({"role": "assistant", "content": "a"})),
            chat_chunk(choice({"content": "B"}, 1, finish_reason="length")),
            chat_chunk(choice({"content": "A"}, finish_reason="stop")),
        ],
    )
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


def test_tool_calls_are_joined_by_index() -> None:
    """Names, ids and arguments of parallel calls meet again, functions and custom tools alike."""
    answer = assembled(
        "chat",
        [
            chat_chunk(choice({"role": "assistant", "content": "", "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get", "arguments": ""}},
            ]})),
            chat_chunk(choice({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]})),
            chat_chunk(choice({"tool_calls": [
                {"index": 1, "id": "call_2", "type": "custom", "custom": {"name": "sh", "input": "l"}},
                {"index": 0, "id": "", "function": {"name": None, "arguments": "1}"}},
            ]})),
            chat_chunk(choice({"tool_calls": [{"index": 1, "custom": {"input": "s"}}]})),
            chat_chunk(choice({}, finish_reason="tool_calls")),
        ],
    )  # fmt: skip
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}},
        {"id": "call_2", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
    ]


@pytest.mark.parametrize("names", [["get_time", None], ["get_", "time"], ["get_time", "get_time"]])
def test_a_tools_name_comes_once_in_pieces_or_again(names: list[str | None]) -> None:
    """Upstreams differ in how often they send the name; the call has it once. A missing type is filled in."""
    calls = [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{}"[i]}} for i, name in enumerate(names)]
    answer = assembled("chat", [chat_chunk(choice({"tool_calls": [call]}, finish_reason="stop")) for call in calls])
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    ]


def test_tool_calls_without_an_index_are_distinguished_by_id() -> None:
    """Gemini's compatible endpoint sends whole calls and no index."""
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": i}} for i in ("a", "b")]
    answer = assembled("chat", [chat_chunk(choice({"tool_calls": [call]}, finish_reason="stop")) for call in calls])
    assert [c["function"]["arguments"] for c in answer["choices"][0]["message"]["tool_calls"]] == ["a", "b"]


def test_function_call_refusal_and_reasoning_are_joined() -> None:
    """The older call form, refusals and both names of reasoning are text that comes in pieces."""
    deltas = [
        {"role": "assistant", "reasoning": "h", "reasoning_content": "h", "refusal": "n"},
        {"reasoning": "m", "reasoning_content": "m", "refusal": "o"},
        {"function_call": {"name": "f", "arguments": "{"}},
        {"function_call": {"arguments": "}"}, "annotations": [{"type": "a"}]},
        {"annotations": [{"type": "b"}], "provider_extra": 1},
        {"provider_extra": 2},
    ]
    assembler = Assembler("chat")
    for part in deltas:
        assembler.add(chat_chunk(choice(part)))
    assert json.loads(assembler.finish())["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "reasoning_content": "hm",
        "refusal": "no",
        "function_call": {"name": "f", "arguments": "{}"},
        "annotations": [{"type": "a"}, {"type": "b"}],
        "provider_extra": 2,
    }


def test_log_probabilities_are_appended() -> None:
    """Every token's entry is there, in order."""
    entry = {"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": []}
    other = entry | {"token": "b", "logprob": -1e-07}
    answer = assembled(
        "chat",
        [
            chat_chunk(choice({"role": "assistant", "content": ""})),
            chat_chunk(choice({"content": "a"}, logprobs={"content": [entry], "refusal": None})),
            chat_chunk(choice({"content": "b"}, logprobs={"content": [other], "refusal": None}, finish_reason="stop")),
        ],
    )
    assert answer["choices"][0]["logprobs"] == {"content": [entry, other], "refusal": None}


def test_a_completion_is_put_together() -> None:
    """Text, the four lists of log-probabilities and the engine's members, for each choice."""

    def part(text: str, offset: int, **members: Any) -> dict[str, Any]:
        logprobs = {"tokens": [text], "token_logprobs": [-1.5], "top_logprobs": [{text: -1.5}], "text_offset": [offset]}
        piece = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None} | members
        return {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "choices": [piece]}

    answer = assembled("completions", [part("He", 0, prompt_token_ids=[1]), part("y", 2, finish_reason="stop")])
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {
            "text": "Hey",
            "index": 0,
            "logprobs": {
                "tokens": ["He", "y"],
                "token_logprobs": [-1.5, -1.5],
                "top_logprobs": [{"He": -1.5}, {"y": -1.5}],
                "text_offset": [0, 2],
            },
            "finish_reason": "stop",
            "prompt_token_ids": [1],
        }
    ]


def test_an_emoji_cut_in_two_is_one_again() -> None:
    """Half a pair in each of two chunks is one character for the caller."""
    assembler = Assembler("chat")
    for half in (b"\\ud83d", b"\\ude00"):
        assembler.add(parse(b'{"choices":[{"index":0,"delta":{"content":"' + half + b'"}}]}'))
    assert json.loads(assembler.finish())["choices"][0]["message"]["content"] == "😀"


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"index": "first", "delta": {}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": "first"}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [5]}}]},
        {"choices": [{"index": 0, "logprobs": 5}]},
        {"choices": ["x"]},
    ],
)
def test_chunks_of_another_shape_are_a_protocol_error(chunk: dict[str, Any]) -> None:
    """No oddity of an upstream becomes an internal error."""
    with pytest.raises(UpstreamError) as caught:
        Assembler("chat").add(chunk)
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def test_an_answer_without_a_choice_is_none() -> None:
    """A stream that ends before anything was said is not an empty success."""
    with pytest.raises(UpstreamError):
        Assembler("chat").finish()
