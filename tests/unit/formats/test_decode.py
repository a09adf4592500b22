"""A body is either one unambiguous request, or refused with a sentence that says what and where."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ErrorKind, GatewayError
from gateway.formats.openai.decode import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MAX_CHOICES,
    MAX_OUTPUT_TOKENS,
    MAX_OUTPUT_TOKENS_IN_ALL,
)
from gateway.formats.outline import MAX_PARTS
from gateway.formats.unambiguous import SHORT_BYTES, SMALL_BYTES
from gateway.types import Envelope
from tests.ground.builders import ENDPOINT

_MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**members: Any) -> Envelope:
    """Decode a small chat request with these members."""
    return CHAT.decode(json.dumps({"model": "auto", "messages": _MESSAGES} | members).encode())


def completions(**members: Any) -> Envelope:
    """Decode a small completions request with these members."""
    return COMPLETIONS.decode(json.dumps({"model": "auto", "prompt": "hi"} | members).encode())


def embeddings(**members: Any) -> Envelope:
    """Decode a small embeddings request with these members."""
    return EMBEDDINGS.decode(json.dumps({"model": "auto", "input": "hi"} | members).encode())


def with_member(text: bytes) -> bytes:
    """Write a chat request with one more member, as it stands."""
    return b'{"model":"auto","messages":[{"role":"user","content":"hi"}],' + text + b"}"


MALFORMED = {
    "empty": (b"", "empty"),
    "not_json": (b"{'model': 1}", "not JSON: line 1, column 2"),
    "cut": (b'{"model": "auto"', "not JSON"),
    "trailing": (b"{} {}", "not JSON"),
    "array": (b"[]", "must be a JSON object"),
    "string": (b'"secret"', "must be a JSON object"),
    "control_character": (with_member(b'"x":"\x01"'), "not JSON"),
    "bom_utf8": (b"\xef\xbb\xbf{}", "byte order mark"),
    "bom_utf16": ("{}".encode("utf-16"), "byte order mark"),
    "invalid_utf8": (with_member(b'"x":"\xff"'), "not UTF-8 at byte"),
    "overlong_utf8": (with_member(b'"x":"\xc0\xaf"'), "not UTF-8"),
    "surrogate_utf8": (with_member(b'"x":"\xed\xa0\x80"'), "not UTF-8"),
    "high_surrogate": (with_member(b'"x":"\\ud800"'), "surrogate"),
    "low_surrogate": (with_member(b'"x":["\\uDC00"]'), "surrogate"),
    "surrogate_name": (with_member(b'"x":{"\\ud83dx":1}'), "surrogate"),
    "swapped_surrogates": (with_member(b'"x":"\\ude00\\ud83d"'), "surrogate"),
    "duplicate": (with_member(b'"model":"other"'), "'model' twice"),
    "duplicate_escaped": (with_member(b'"mod\\u0065l":"other"'), "'model' twice"),
    "duplicate_behind_quotes": (with_member(b'"x":"\\u0022","y":{"a":1,"a":"\\u0022\\u0022"}'), "a member twice"),
    "duplicate_empty": (with_member(b'"x":{"":1,"":1}'), "a member twice"),
    "duplicate_object": (with_member(b'"x":{"a":{"b":"c"},"a":[]}'), "a member twice"),
    "duplicate_far": (with_member(b'"x":{"a":[{"b":1}],"c":{"a":2},"a":1}'), "a member twice"),
    "duplicate_deep": (with_member(b'"x":[{"y":{"secret":1,"secret":1}}]'), "a member twice"),
    "nan": (with_member(b'"x":NaN'), "NaN"),
    "infinity": (with_member(b'"x":[Infinity]'), "NaN"),
    "minus_infinity": (with_member(b'"x":-Infinity'), "NaN"),
    "huge_float": (with_member(b'"x":1e400'), "number that is too large"),
    "huge_negative_float": (with_member(b'"x":-1e400'), "number that is too large"),
    "long_integer": (with_member(b'"x":' + b"9" * 5000), "number that is too large"),
    "long_negative_integer": (with_member(b'"x":[1,-' + b"9" * 4301 + b"]"), "number that is too large"),
    "long_float": (with_member(b'"x":[' + b"9" * 309 + b".0]"), "number that is too large"),
    "digits_and_exponent": (with_member(b'"x":[1,' + b"9" * 250 + b"e0060,2]"), "number that is too large"),
    "deep_arrays": (with_member(b'"x":' + b"[" * 100_000), "nested deeper than 64"),
    "deep_objects": (with_member(b'"x":' + b'{"a":' * 100_000), "nested deeper than 64"),
    "deep_closed": (with_member(b'"x":' + b"[" * 64 + b"]" * 64), "nested deeper than 64"),
}


@pytest.mark.parametrize("padding", [b"", b" " * SHORT_BYTES, b" " * SMALL_BYTES], ids=["short", "small", "large"])
@pytest.mark.parametrize(("body", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused_with_a_reason(body: bytes, expected: str, padding: bytes) -> None:
    """Each way of being ambiguous or hostile is a 400 that names it and echoes nothing of the content, at any size."""
    with pytest.raises(GatewayError, match="not JSON" if padding and not body else expected) as caught:
        CHAT.decode(body + padding)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("padding", [b"", b" " * SHORT_BYTES, b" " * SMALL_BYTES], ids=["short", "small", "large"])
@pytest.mark.parametrize(
    "member",
    [
        b'"x":"\\ud83d\\ude00"',
        b'"x":"\\\\ud800"',
        b'"x":' + b"[" * 63 + b"]" * 63,
        b'"x":"' + b"[{" * 1000 + b'"',
        b'"x":[{"y":1},{"y":1}]',
        b'"x":1e308',
        b'"x":18446744073709551616',
        b'"x":1e-400',
        b'"x":' + b"9" * 4300,
        b'"x":-' + b"9" * 4299,
        b'"x":[0.' + b"0" * 5000 + b"1,1e0099]",
        b'"x":"1e400 9e999"',
        b'"x":"\\u0022","y":"\\u0022:\\u0022"',
        b'"x":{"a":1,"A":1,"\\u0061b":1}',
        '"x":"ÄÖ😀日本"'.encode(),
    ],
)
def test_look_alikes_of_malformed_bodies_pass(member: bytes, padding: bytes) -> None:
    """Real pairs, escaped backslashes, brackets in strings, equal names in two objects and the like are fine."""
    body = with_member(member) + padding
    envelope = CHAT.decode(body)
    assert envelope.body is body
    assert member.startswith(b'"x":' + envelope.members["x"])


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "model_missing": ("chat", {"model": None}, "model"),
    "model_empty": ("chat", {"model": ""}, "model"),
    "model_number": ("chat", {"model": 4}, "model"),
    "messages_missing": ("chat", {"messages": None}, "messages"),
    "messages_empty": ("chat", {"messages": []}, "messages"),
    "messages_object": ("chat", {"messages": {}}, "messages"),
    "message_string": ("chat", {"messages": [*_MESSAGES, "hi"]}, "messages[1]"),
    "role_missing": ("chat", {"messages": [{"content": "hi"}]}, "messages[0].role"),
    "content_number": ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "part_string": ("chat", {"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
    "part_untyped": ("chat", {"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]"),
    "stream_string": ("chat", {"stream": "yes"}, "stream"),
    "stream_options_list": ("chat", {"stream": True, "stream_options": []}, "stream_options"),
    "stream_options_alone": ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),
    "include_usage": ("chat", {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    "n_zero": ("chat", {"n": 0}, "n"),
    "n_true": ("chat", {"n": True}, "n"),
    "n_float": ("chat", {"n": 1.5}, "n"),
    "best_of": ("completions", {"best_of": "2"}, "best_of"),
    "max_tokens": ("chat", {"max_tokens": 0}, "max_tokens"),
    "max_completion_tokens": ("chat", {"max_completion_tokens": "many"}, "max_completion_tokens"),
    "max_tokens_negative": ("completions", {"max_tokens": -1}, "max_tokens"),
    "response_format": ("chat", {"response_format": "json"}, "response_format"),
    "prompt_missing": ("completions", {"prompt": None}, "prompt"),
    "prompt_empty": ("completions", {"prompt": []}, "prompt"),
    "prompt_mixed": ("completions", {"prompt": ["a", 1]}, "prompt"),
    "prompt_object": ("completions", {"prompt": {}}, "prompt"),
    "prompt_booleans": ("completions", {"prompt": [True]}, "prompt"),
    "input_missing": ("embeddings", {"input": None}, "input"),
    "input_empty": ("embeddings", {"input": []}, "input"),
    "input_mixed": ("embeddings", {"input": ["a", 1]}, "input"),
    "input_number": ("embeddings", {"input": 5}, "input"),
    "input_objects": ("embeddings", {"input": [{"text": "a"}]}, "input"),
    "input_is_not_a_prompt": ("embeddings", {"input": None, "prompt": "a", "prompt_embeds": "A"}, "input"),
    "embeddings_streamed": ("embeddings", {"stream": True}, "stream"),
    "encoding_bytes": ("embeddings", {"encoding_format": "bytes"}, "encoding_format"),
    "encoding_number": ("embeddings", {"encoding_format": 1}, "encoding_format"),
    "input_spelling": ("embeddings", {"Input": "b"}, "input"),
}


@pytest.mark.parametrize(("operation", "members", "param"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_member_is_named(operation: str, members: dict[str, Any], param: str) -> None:
    """What routing and limits depend on is checked, and ``param`` says where."""
    with pytest.raises(GatewayError) as caught:
        {"chat": chat, "completions": completions, "embeddings": embeddings}[operation](**members)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)
    assert param in caught.value.message


BEYOND_LIMITS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "n": ("chat", {"n": MAX_CHOICES + 1}, "n", MAX_CHOICES),
    "n_of_63_bits": ("chat", {"n": 2**63 - 1, "max_tokens": 2**63 - 1}, "n", MAX_CHOICES),
    "n_of_64_bits": ("completions", {"n": 2**64}, "n", MAX_CHOICES),
    "best_of": ("completions", {"best_of": MAX_CHOICES + 1}, "best_of", MAX_CHOICES),
    "max_tokens": ("chat", {"max_tokens": MAX_OUTPUT_TOKENS + 1}, "max_tokens", MAX_OUTPUT_TOKENS),
    "max_tokens_of_completions": ("completions", {"max_tokens": 2**31}, "max_tokens", MAX_OUTPUT_TOKENS),
    "max_completion_tokens": (
        "chat",
        {"max_tokens": 5, "max_completion_tokens": 2**62},
        "max_completion_tokens",
        MAX_OUTPUT_TOKENS,
    ),
    "n_times_max_tokens": ("chat", {"n": 1_000, "max_tokens": 10**9 + 1}, "max_tokens", MAX_OUTPUT_TOKENS_IN_ALL),
    "n_times_max_completion_tokens": (
        "chat",
        {"n": MAX_CHOICES, "max_tokens": 1, "max_completion_tokens": MAX_OUTPUT_TOKENS},
        "max_completion_tokens",
        MAX_OUTPUT_TOKENS_IN_ALL,
    ),
    "prompts_times_best_of_times_max_tokens": (
        "completions",
        {"prompt": ["a"] * 1_000, "best_of": 10, "max_tokens": 10**8 + 1},
        "max_tokens",
        MAX_OUTPUT_TOKENS_IN_ALL,
    ),
}


@pytest.mark.parametrize(("operation", "members", "param", "limit"), BEYOND_LIMITS.values(), ids=BEYOND_LIMITS)
def test_number_beyond_its_limit_is_refused_with_the_limit(
    operation: str, members: dict[str, Any], param: str, limit: int
) -> None:
    """The member is named, and how much it may be: nothing behind has to hold a number of any size."""
    with pytest.raises(GatewayError, match=str(limit)) as caught:
        {"chat": chat, "completions": completions}[operation](**members)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)
    assert f"'{param}'" in caught.value.message


@pytest.mark.parametrize(
    ("members", "in_all"),
    [
        ({"n": MAX_CHOICES}, None),
        ({"max_tokens": MAX_OUTPUT_TOKENS}, MAX_OUTPUT_TOKENS),
        ({"n": 1_000, "max_tokens": 10**9}, MAX_OUTPUT_TOKENS_IN_ALL),
    ],
)
def test_number_at_its_limit_passes(members: dict[str, Any], in_all: int | None) -> None:
    """The limits themselves may be asked for."""
    envelope = chat(**members)
    assert envelope.max_output_tokens is None or envelope.max_output_tokens * envelope.choices == in_all


def test_a_chat_request_is_read() -> None:
    """The plain case: nothing asked for, nothing needed."""
    envelope = chat(unknown={"a": 1})
    assert (envelope.model, envelope.streamable) == ("auto", True)
    assert (envelope.stream, envelope.include_usage) == (False, False)
    assert (envelope.max_output_tokens, envelope.choices, envelope.image_count) == (None, 1, 0)
    assert envelope.needs == {"chat"}
    assert envelope.members["unknown"] == b'{"a": 1}'
    assert envelope.content_bytes == 2


def test_an_embeddings_request_is_read() -> None:
    """It is never streamed, writes no tokens, and needs a model that embeds and nothing more."""
    envelope = embeddings(encoding_format="base64", dimensions=3, user="u", tools=[{}], logprobs=1)
    assert (envelope.model, envelope.stream, envelope.streamable) == ("auto", False, False)
    assert (envelope.max_output_tokens, envelope.choices) == (0, 1)
    assert envelope.needs == {"embeddings"}


@pytest.mark.parametrize(
    ("value", "prompts", "content_bytes"),
    [("häh", 1, 4), (["ab", "c"], 2, 3), ([1, 2, 3], 1, 12), ([[1, 2], [3]], 2, 12), ("", 1, 0)],
)
def test_embedded_texts_are_counted(value: Any, prompts: int, content_bytes: int) -> None:
    """A string, token ids, or several of either."""
    envelope = embeddings(input=value)
    assert (envelope.prompts, envelope.content_bytes) == (prompts, content_bytes)


def test_null_is_the_same_as_absent() -> None:
    """OpenAI takes null for every optional member."""
    switches = ("stream", "stream_options", "tools", "tool_choice", "response_format", "logprobs", "use_beam_search")
    numbers = ("n", "best_of", "max_tokens", "max_completion_tokens", "seed", "reasoning_effort", "prompt_logprobs")
    envelope = chat(**dict.fromkeys((*switches, *numbers)))
    assert (envelope.needs, envelope.streamable, envelope.choices) == ({"chat"}, True, 1)
    assert embeddings(encoding_format=None, dimensions=None, stream=None).needs == {"embeddings"}


def test_stream_and_usage_are_read() -> None:
    """Both must be known to relay the stream as asked."""
    envelope = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert (envelope.stream, envelope.include_usage) == (True, True)


def test_the_newer_output_limit_wins() -> None:
    """As with OpenAI and vLLM, max_completion_tokens goes before max_tokens."""
    assert chat(max_tokens=5).max_output_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=9).max_output_tokens == 9


@pytest.mark.parametrize(
    ("members", "need"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tools"),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema"),
        ({"guided_choice": ["a"]}, "json_schema"),
        ({"structured_outputs": {"regex": "a"}}, "json_schema"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "vision"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "audio"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": 0}, "logprobs"),
        ({"reasoning_effort": "low"}, "reasoning"),
    ],
)
def test_needs_are_read(members: dict[str, Any], need: str) -> None:
    """Each capability that a target may lack is seen in the request."""
    assert chat(**members).needs == {"chat", need}


def test_member_that_only_wire_formats_lack_is_no_need() -> None:
    """A model listed without them still takes n, seed and parallel calls: the adapters refuse those by name."""
    assert chat(n=2, seed=0, parallel_tool_calls=True).needs == {"chat"}


@pytest.mark.parametrize(
    "members", [{"tools": []}, {"response_format": {"type": "text"}}, {"logprobs": False}, {"n": 1}]
)
def test_empty_wishes_need_nothing(members: dict[str, Any]) -> None:
    """A default written out is not a need."""
    assert chat(**members).needs == {"chat"}


def test_log_probabilities_of_completions_are_a_number() -> None:
    """In completions 0 asks for the chosen token's own."""
    assert completions(logprobs=0).needs == {"completions", "logprobs"}


@pytest.mark.parametrize(
    ("members", "streamable"),
    [
        ({"use_beam_search": True, "n": 2}, False),
        ({"best_of": 3, "n": 2}, False),
        ({"best_of": 2, "n": 2}, True),
        ({"prompt_logprobs": 1}, False),
        ({"prompt_logprobs": -1}, False),
        ({"prompt_logprobs": 0}, True),
        ({"echo": True, "logprobs": 1}, False),
        ({"echo": True}, True),
        ({"logprobs": 1}, True),
        ({"kv_transfer_params": {"do_remote_decode": True}}, False),
    ],
)
def test_member_that_an_engine_cannot_stream_is_known(members: dict[str, Any], streamable: bool) -> None:
    """An engine refuses to stream beam search and prompt log-probabilities, and loses the rest of these in a stream."""
    assert completions(**members).streamable is streamable


@pytest.mark.parametrize(
    ("members", "choices", "content_bytes"),
    [
        ({"prompt": "häh"}, 1, 4),
        ({"prompt": ["ab", "c"], "n": 2}, 4, 3),
        ({"prompt": [1, 2, 3]}, 1, 12),
        ({"prompt": [[1, 2], [3]], "best_of": 3}, 6, 12),
        ({"prompt": None, "prompt_embeds": "AAAA"}, 1, 0),
    ],
)
def test_prompts_are_counted(members: dict[str, Any], choices: int, content_bytes: int) -> None:
    """Every prompt of a list is generated for, and token ids count as about four bytes each."""
    envelope = completions(**members)
    assert (envelope.choices, envelope.content_bytes) == (choices, content_bytes)
    assert envelope.prompts == choices // max(members.get("n", 1), members.get("best_of", 1))


def test_content_is_everything_the_model_reads() -> None:
    """Text parts, tool calls, tools and schema count; an image's base64 does not."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    image = {"type": "image_url", "image_url": {"url": "x" * 99}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "aé"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ]
    envelope = chat(messages=messages, tools=tools)
    assert envelope.content_bytes == 3 + len('[{"id": "1"}]') + len(json.dumps(tools))
    assert envelope.image_count == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_READ = (
    *("model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens", "tools", "echo"),
    *("input", "encoding_format"),
)
_BODIES = st.binary(max_size=40) | st.dictionaries(st.sampled_from(_READ), _JSON).map(
    lambda members: json.dumps({"model": "a", "messages": _MESSAGES, "prompt": "b", "input": "c"} | members).encode()
)


@given(_BODIES, st.sampled_from(["chat", "completions", "embeddings"]))
def test_any_body_is_decoded_or_refused(body: bytes, operation: Any) -> None:
    """Whatever arrives, there is an envelope or a 400, and no other exception."""
    try:
        envelope = ENDPOINT[operation].decode(body)
    except GatewayError as error:
        kind = error.kind
    else:
        kind = None
        assert json.loads(envelope.members["model"]) == envelope.model
    assert kind in {None, ErrorKind.INVALID_REQUEST}


_TEXT = st.sampled_from(["a", "b", "", "é", '"', "\\", "{", "x:1", "\U0001f600"])
_VALUE = st.recursive(
    st.sampled_from(
        ["1", "-0.5", "1e5", "true", "null", "1e309", '"\\u0022"', '"\\\\"', '"\\ud83d\\ude00"', '"\\ud83d"']
    )
    | _TEXT.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{' , '.join(items)}]")
        | st.lists(st.tuples(_TEXT.map(lambda name: json.dumps(name, ensure_ascii=False)), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name} :{value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=10,
)


def _is_unambiguous(text: str) -> bool:
    """Read a text as Python does, which sees every member and number."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    def finite(number: str) -> float:
        if float(number) in (math.inf, -math.inf):
            raise ValueError
        return float(number)

    try:
        json.dumps(json.loads(text, object_pairs_hook=once, parse_float=finite), ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@given(_VALUE, st.booleans())
def test_body_passes_if_and_only_if_it_is_unambiguous(value: str, large: bool) -> None:
    """By either of the two ways in which it is proved, and never by one alone."""
    body = with_member(b'"x":' + value.encode()) + b" " * (SMALL_BYTES * large)
    try:
        CHAT.decode(body)
    except GatewayError:
        assert not _is_unambiguous(value)
    else:
        assert _is_unambiguous(value)


def test_large_body_of_too_many_parts_is_refused() -> None:
    """What no request needs would take memory and time in proportion; token ids are no parts, whatever their number."""
    parts = MAX_PARTS // 2
    with pytest.raises(GatewayError, match="too many parts"):
        CHAT.decode(with_member(b'"x":[' + b"[]," * parts + b"[]]"))
    assert COMPLETIONS.decode(b'{"model":"a","prompt":[' + b"1," * MAX_PARTS + b"1]}").prompts == 1


@pytest.mark.parametrize(
    ("prompt", "prompts", "content_bytes"),
    [
        (b"[ 1 ,\n-2 ]", 1, 8),
        (b"[[1],[ ],[2,3]]", 3, 12),
        (b'["\\u00e4","\\"b"]', 2, 4),
        (b'"\\u00e4\\n"', 1, 3),
        (b"[[[1]]]", None, 0),
        (b"[1,[2]]", None, 0),
        (b"[[1],2]", None, 0),
        (b"[1.0]", None, 0),
        (b"[1,true]", None, 0),
        (b"[ ]", None, 0),
    ],
)
def test_prompt_is_read_without_being_built(prompt: bytes, prompts: int | None, content_bytes: int) -> None:
    """Token ids are counted where they stand, however they are spaced."""
    body = b'{"model":"a","prompt":' + prompt + b"}"
    if prompts is None:
        with pytest.raises(GatewayError, match="'prompt' must"):
            COMPLETIONS.decode(body)
    else:
        envelope = COMPLETIONS.decode(body)
        assert (envelope.prompts, envelope.content_bytes) == (prompts, content_bytes)


@pytest.mark.parametrize(
    ("member", "needs"),
    [
        (b'"tools":[ ]', set()),
        (b'"tools":{}', set()),
        (b'"tools":[ {} ]', {"tools"}),
        (b'"functions":null', set()),
        (b'"audio":{ }', set()),
        (b'"audio":{"voice":"a"}', {"audio"}),
        (b'"logprobs":0', set()),
        (b'"logprobs":1', {"logprobs"}),
        (b'"logprobs":false', set()),
        (b'"response_format":{}', set()),
        (b'"response_format":{"type":null}', {"json_schema"}),
    ],
)
def test_empty_in_any_spelling_asks_for_nothing(member: bytes, needs: set[str]) -> None:
    """Members that are looked at as they stand mean what they mean to a parser."""
    assert CHAT.decode(with_member(member)).needs == {"chat", *needs}
