"""What holds for any conversation, any answer and any cut of a stream, for every caller's dialect and every format.

``--hypothesis-profile=soak`` tries many more of each.
"""

import json
import re
from itertools import groupby, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import in_chat, in_messages, in_responses
from tests.contract.asked import Asked, Call, Image, Part, Pdf, Result, Text, Tool, Turn, events_of
from tests.contract.test_pairs import Pair
from tests.ground.builders import build_call
from tests.ground.said import UPSTREAMS, Called, Said

_FEW = settings(max_examples=settings.default.max_examples // 4)
_DIALECTS = {"chat": in_chat, "messages": in_messages, "responses": in_responses}
_FORMATS = {"chat": "openai", "messages": "anthropic", "responses": "responses"}
"""A target of each dialect."""

# Conversations that all three can say: turns alternate, results follow their calls, words are more than blanks.

_WORDS = st.text(min_size=1, max_size=12).map(lambda text: f"a{text}")
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_ARGUMENTS = st.dictionaries(st.text(max_size=6), _VALUES, max_size=3)
_SEEN: st.SearchStrategy[Part] = st.one_of(
    _WORDS.map(Text),
    st.sampled_from([Image("iVBORw0KGgo=", "image/png"), Image("https://a.test/b.png"), Pdf("JVBERi0=")]),
)
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
_TOOLS = st.lists(
    st.builds(
        Tool,
        st.sampled_from(["look", "go", "a_tool-1"]),
        st.sampled_from([_SCHEMA, {"type": "object", "properties": {}}]),
        st.none() | _WORDS,
        st.booleans(),
    ),
    max_size=2,
    unique_by=lambda tool: tool.name,
).map(tuple)


@st.composite
def _asked(draw: st.DrawFn) -> Asked:
    """Draw a request."""
    turns: list[Turn] = []
    open_calls: list[Call] = []
    for number in range(draw(st.integers(0, 2))):
        turns.append(Turn("user", _user_parts(draw, open_calls)))
        ids = [f"call_{number}{letter}" for letter in "ab"[: draw(st.integers(0, 2))]]
        open_calls = [Call(each, "look", draw(_ARGUMENTS)) for each in ids]
        words = [Text(draw(_WORDS))] if not open_calls or draw(st.booleans()) else []
        turns.append(Turn("assistant", (*words, *open_calls)))
    turns.append(Turn("user", _user_parts(draw, open_calls)))
    tools = draw(_TOOLS)
    choice = draw(st.sampled_from(["", "none", "required", tools[0].name])) if tools else ""
    return Asked(
        turns=tuple(turns),
        system=draw(st.just("") | _WORDS),
        tools=tools,
        choice=choice,
        parallel=not tools or choice == "none" or draw(st.booleans()),
        schema=draw(st.sampled_from([None, _SCHEMA])),
        temperature=draw(st.sampled_from([None, 0.0, 0.5])),
        top_p=draw(st.sampled_from([None, 0.25])),
        limit=draw(st.integers(16, 2**31 - 1)),
        effort=draw(st.sampled_from([None, "low", "medium", "high"])),
        user=draw(st.sampled_from([None, "u_1"])),
        stop=draw(st.sampled_from([(), ("END", "\n\n")])),
        standard=draw(st.booleans()),
    )


def _user_parts(draw: st.DrawFn, calls: list[Call]) -> tuple[Part, ...]:
    """Draw what follows an answer: the results of its calls first, as all three want them, and then what is said."""
    results = [Result(call.call_id, draw(st.just("") | _WORDS)) for call in calls]
    said = draw(st.lists(_SEEN, min_size=0 if results else 1, max_size=3))
    joined: list[Part] = []
    for part in said:  # neighbouring texts may become one
        if not (joined and isinstance(part, Text) and isinstance(joined[-1], Text)):
            joined.append(part)
    return (*results, *joined)


def _sent(caller: str, body: dict[str, Any], target: str) -> dict[str, Any]:
    """Return what a target gets of a caller's body."""
    pair = Pair(caller, _FORMATS[target])
    call = build_call(pair.endpoint.decode(json.dumps(body).encode()))
    assert pair.adapter.refuses(call) is None
    sent: dict[str, Any] = json.loads(pair.adapter.prepare(call)(pair.target, "att_1").body)
    return sent


@_FEW
@given(asked=_asked(), first=st.sampled_from([*_DIALECTS]), second=st.sampled_from([*_DIALECTS]))
def test_conversation_survives_there_and_back(asked: Asked, first: str, second: str) -> None:
    """Said in one dialect, it reaches a target of another; what that got, said by its own callers, comes back."""
    if "responses" in {first, second}:
        asked = asked._replace(stop=())  # it has none
    there = _sent(first, {"model": "auto", **_DIALECTS[first].write(asked)}, second)
    assert _DIALECTS[second].read(there) == asked
    back = _sent(second, there, first)
    assert _DIALECTS[first].read(back) == asked


# Answers.

_OFFERS = Asked(tools=(Tool("look", _SCHEMA), Tool("go", _SCHEMA)))


@st.composite
def _said(draw: st.DrawFn) -> Said:
    """Draw an answer."""
    calls = draw(st.lists(st.tuples(st.sampled_from(["look", "go"]), _ARGUMENTS), max_size=2))
    numbered = tuple(Called(*call, f"call_{number}") for number, call in enumerate(calls))
    cached = draw(st.integers(0, 1010))
    text, thinking = draw(st.text(max_size=30)), draw(st.text(max_size=20))
    ended = draw(st.sampled_from(["tools"] if calls else ["stop", "length", "refused"]))
    return Said(text, thinking, numbered, ended, cached_tokens=cached)


def _pieces_of(data: bytes, cuts: set[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


@_FEW
@given(
    said=_said(),
    caller=st.sampled_from([*_DIALECTS]),
    format_name=st.sampled_from([*UPSTREAMS]),
    cuts=st.sets(st.integers(0, 1 << 14), max_size=8),
)
def test_answer_is_heard_in_any_cut_and_in_the_grammar_of_its_dialect(
    said: Said, caller: str, format_name: str, cuts: set[int]
) -> None:
    """In one read, in several, and byte by byte; and whole, where the caller wants no stream."""
    pair, upstream = Pair(caller, format_name), UPSTREAMS[format_name]
    expected = said._replace(thinking="") if format_name == "openai" else said  # OpenAI's chat shows none
    call, data = pair.call(_OFFERS, stream=True), b"".join(upstream.events(said, "m"))
    outlines = set()
    for pieces in ([data], _pieces_of(data, cuts), [bytes((byte,)) for byte in data]):
        decoder = pair.adapter.decoder(call, pair.target)
        got = b"".join([*map(decoder.feed, pieces), decoder.finish()])
        assert _DIALECTS[caller].hear(got, stream=True) == (expected, True, None)
        outlines.add(outline := "".join(f"{name} " for name, _ in groupby(map(_NAMES[caller], events_of(got)))))
        assert re.fullmatch(_GRAMMARS[caller], outline), outline
    assert len(outlines) == 1
    decoder = pair.adapter.decoder(pair.call(_OFFERS, stream=False), pair.target)
    got = decoder.feed(json.dumps(upstream.whole(said, "m")).encode()) + decoder.finish()
    assert _DIALECTS[caller].hear(got, stream=False)[0] == expected


# Names of events, with their place, and the order in which they come.


def _chat_name(chunk: Any) -> str:
    if chunk == "[DONE]":
        return "done"
    choices = chunk["choices"]
    return "usage" if not choices else "end" if choices[0]["finish_reason"] else "piece"


def _messages_name(event: dict[str, Any]) -> str:
    return f"{event['type']}:{event['index']}" if "index" in event else str(event["type"])


def _responses_name(event: dict[str, Any]) -> str:
    name = event["type"].removeprefix("response.")
    return f"{name}:{event['output_index']}" if "output_index" in event else name


def _response_piece(name: str, part: str = "") -> str:
    """Write the grammar of what comes in pieces, within a part where it has one."""
    pieces = rf"(?:{name}\.delta:\1 )*{name}\.done:\1 "
    return rf"{part}\.added:\1 {pieces}{part}\.done:\1 " if part else pieces


_NAMES = {"chat": _chat_name, "messages": _messages_name, "responses": _responses_name}
_RESPONSE_PIECES = "|".join(
    (
        _response_piece("output_text", "content_part"),
        _response_piece("refusal", "content_part"),
        _response_piece("reasoning_text", "content_part"),
        _response_piece("reasoning_summary_text", "reasoning_summary_part"),
        _response_piece("function_call_arguments"),
        _response_piece("custom_tool_call_input"),
    )
)
_GRAMMARS = {
    "chat": "(piece )*end (usage )?done ",
    "messages": (
        r"message_start (ping )?(?:content_block_start:(\d+) (?:content_block_delta:\2 |ping )*content_block_stop:\2 )*"
        "message_delta message_stop "
    ),
    "responses": (
        rf"created in_progress (?:output_item\.added:(\d+) (?:{_RESPONSE_PIECES})*output_item\.done:\1 )*"
        "(completed|incomplete) "
    ),
}
"""By the caller's dialect, where neighbours of one name are one. Sources: platform.openai.com/docs/api-reference
(chat-streaming, responses-streaming), platform.claude.com/docs/en/build-with-claude/streaming."""
