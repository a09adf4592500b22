"""A stream whose events are known by their frame is read as if each of them were decoded."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.formats.base import Decoder
from gateway.formats.openai import decode
from gateway.formats.openai import frame as frames
from gateway.formats.openai import stream as decoders
from gateway.formats.openai.compatible import CompatibleAdapter
from gateway.formats.openai.frame import Frame
from tests.ground.builders import build_call, build_target
from tests.ground.reads import drawn_reads

CONTENTS = [
    *(b"a", b" b c", b"", b" ", b"[", "é😀".encode(), b"\x7f", b"data: x", b"[DONE]"),
    *(rb"\n", rb"\"", rb"\\", rb"\/", rb"\u00e9", rb"\ud83d\ude00", rb"\u007f", rb"\"}\n\n"),
    # Halves: of an escape, of a pair, of a character; what JSON forbids; what would end the string or the event.
    *(b"\\", rb"\u00", rb"\ud83d", rb"\ude00", b"\xc3", b"\xa9", b"\xed\xa0\x80", rb"\x", b"\x00", b"\t"),
    *(b'"', b'","x":"', b'"},"finish_reason":"stop","x":{"y":"', b'","content":"', b"\n", b"\n\n", b"\r", b"\r\n\r\n"),
]
"""What stands between the quotes."""

_CHAT = b'data: {"id":"c","choices":[{"index":0,"delta":{%b},"finish_reason":null}]%b}\n\n'
LEARNT = {
    "chat": _CHAT % (b'"content":"CONTENT"', b""),
    "usage of null": _CHAT % (b'"content":"CONTENT"', b',"usage":null'),
    "role": _CHAT % (b'"role":"assistant","content":"CONTENT"', b',"z":{"content":"z"}'),
    "spaces": _CHAT % (b'"content": "CONTENT"', b', "x": "y"'),
    "twice": _CHAT % (b'"content":"","content":"CONTENT"', b""),
    "reasoning": _CHAT % (b'"reasoning_content":"CONTENT","content":null', b""),
    "parts": _CHAT % (b'"content":[{"type":"text","text":"CONTENT"}]', b""),
    "tool": _CHAT % (b'"tool_calls":[{"index":0,"function":{"arguments":"CONTENT"}}]', b""),
    "token ids": _CHAT.replace(b"null}", b'null,"token_ids":[1]}') % (b'"content":"CONTENT"', b""),
    "crlf": _CHAT.replace(b"\n", b"\r\n") % (b'"content":"CONTENT"', b""),
    "named": b"event: message\nid: 1\n" + _CHAT % (b'"content":"CONTENT"', b""),
    "bom": b"\xef\xbb\xbf" + _CHAT % (b'"content":"CONTENT"', b""),
    "lines": b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"CONTENT"}}],\ndata: "x":1}\n\n',
    "completion": b'data: {"choices":[{"index":0,"text":"CONTENT","logprobs":null}]}\n\n',
    "choices": b'data: {"choices":[{"index":0,"delta":{"content":""}},{"index":1,"delta":{"content":"CONTENT"}}]}\n\n',
}
"""What engines repeat, and variations."""

FRAMES = [
    *LEARNT.values(),
    _CHAT % (b'"content":"CONTENT"', b',"usage":{"prompt_tokens":5,"completion_tokens":2}'),
    _CHAT % (b'"content":"CONTENT","content":"x"', b""),
    _CHAT % (b'"content":"CONTENT","reasoning_content":"r"', b""),
    _CHAT % (b'"reasoning":"r","reasoning_content":"CONTENT"', b""),
    _CHAT % (b'"x\\"content":"x","content": "CONTENT"', b""),
    _CHAT % (b'"contemt":"CONTENT"', b""),
    _CHAT % (b'"content":"CONTENT","refusal":"no"', b""),
    _CHAT % (b'"tool_calls":[{"index":0,"function":{"name":"f","arguments":"CONTENT"}}]', b""),
    _CHAT % (b'"function_call":{"name":"f","arguments":"CONTENT"}', b""),
    _CHAT.replace(b"null", b'"stop"') % (b'"content":"CONTENT"', b""),
    _CHAT.replace(b"\n", b"\r") % (b'"content":"CONTENT"', b""),
    b'data: {"choices":[{"index":0,"delta":{"content":"CONTENT"}}],"error":null,"object":"error"}\n\n',
    b': {"content":"CONTENT"}\n\n',
    b':"content":"CONTENT"\n' + _CHAT % (b'"content":"x"', b""),
]
"""Those, and what must not be taken for one of them."""

ENDED = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
ODD = [
    *(
        b": comment\n\n",
        b"event: x\n\n",
        b"\n",
        b"data: [DONE]\n\n",
        b"data: {nonsense}\n\n",
        b"data: 5\n\n",
        b"text\n\n",
    ),
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
    ENDED,
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n',
    b'data: {"id":"d","z":1,"choices":[{"index":0,"delta":{"content":["x"],"role":"tool"}}]}\n\n',
    b'data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"g"}}]}}]}\n\n',
    b'data: {"error":{"message":"x","type":"server_error"}}\n\n',
]

_contents = st.one_of(st.sampled_from(CONTENTS[:2]), st.sampled_from(CONTENTS))


@st.composite
def _runs(draw: st.DrawFn) -> list[bytes]:
    """Draw events in one frame with other contents, mostly one that can be learnt."""
    frame = draw(st.one_of(st.just(LEARNT["chat"]), st.sampled_from(FRAMES)))
    return [frame.replace(b"CONTENT", content) for content in draw(st.lists(_contents, min_size=1, max_size=8))]


@st.composite
def _reads(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream in the reads in which it arrives: mostly whole events, one or several."""
    parts = draw(st.lists(st.one_of(_runs(), st.sampled_from(ODD).map(lambda event: [event])), max_size=8))
    events = [event for part in parts for event in part]
    return drawn_reads(draw, events)


def _decoder(*, stream: bool, include_usage: bool) -> Decoder:
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": include_usage}
    call = build_call(decode.CHAT.decode(json.dumps(body).encode()))
    return CompatibleAdapter().decoder(call, build_target(always_stream=True))


def _played(make: Callable[[], Decoder], reads: list[bytes]) -> list[Any]:
    """Play the stream to its end, and return all that could be seen of it after each step."""
    decoder = make()
    seen: list[Any] = []

    def look(out: bytes, read: bytes | None = None) -> None:
        seen.append((out, out is read, decoder.content_events, decoder.content_bytes, decoder.usage))
        seen.append((decoder.complete, decoder.shows_reasoning, getattr(decoder, "finish_reason", None)))

    try:
        for read in reads:
            look(decoder.feed(read), read)
        look(decoder.finish())
    except UpstreamError as error:
        look(error.message.encode())
    return seen


CHAT = LEARNT["chat"]
STOP = CHAT.replace(b"null", b'"stop"')
SPACED = CHAT.replace(b'"CONTENT', b' "CONTENT')
UNKNOWN = CHAT.replace(b"content", b"contemt")


def _framed(frame: bytes, *contents: bytes) -> bytes:
    return b"".join(frame.replace(b"CONTENT", content) for content in contents)


@settings(max_examples=300, deadline=None)
@given(_reads(), st.booleans(), st.booleans())
@example([_framed(CHAT, b"a"), _framed(CHAT, b"\\", b',"b')], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT, b"\xc3", b"\xa9")], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT, rb"\ud83d", rb"\ude00")], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT, b"b", b"", b"c")], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT, b"b", b"c")[:-1], b"\n"], True, False)
@example([_framed(CHAT, b"a"), _framed(UNKNOWN, b"b")], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT, b"b") + _framed(UNKNOWN, b"b") + _framed(CHAT, b"c")], True, False)
@example([_framed(CHAT, b"a"), _framed(SPACED, b"b"), b"data: [DONE]\n\n"], False, False)
@example([_framed(CHAT, b"a"), _framed(SPACED, b"")], True, False)
@example([_framed(CHAT, b"a"), _framed(CHAT.replace(b'T"', b'T"\r'), b"b")], True, False)
@example([_framed(CHAT, b"a"), b": x", _framed(CHAT, b"b")], True, False)
@example([_framed(CHAT, b"a"), b": x", _framed(CHAT, b"b"), b"data: [DONE]\n\n"], False, False)
@example([b':"content":"\n' + _framed(CHAT, b"a")], True, False)
@example([_framed(STOP, b"a"), ENDED, _framed(STOP, b"c")], True, False)
@example([_framed(FRAMES[len(LEARNT)], b"a"), _framed(FRAMES[len(LEARNT)], b"b", b"c")], True, False)
@example(
    [_framed(LEARNT["token ids"], b"a"), _framed(LEARNT["token ids"], b"b", b"c"), b"data: [DONE]\n\n"], False, False
)
@pytest.mark.slow
def test_a_known_frame_is_read_as_if_it_were_decoded(reads: list[bytes], stream: bool, include_usage: bool) -> None:
    """Bytes, counts, usage, end and errors are those of a decoder that remembers no frame, after every read."""

    def make() -> Decoder:
        return _decoder(stream=stream, include_usage=include_usage)

    with pytest.MonkeyPatch.context() as forgetful:
        forgetful.setattr(decoders, "_LESSONS", 0)
        expected = _played(make, reads)
    assert _played(make, reads) == expected


@pytest.mark.parametrize("frame", LEARNT.values(), ids=LEARNT)
@pytest.mark.parametrize("contents", [(b"b",), (b"b", rb"\n\"", "é".encode(), rb"\u00e9", b" ")], ids=["one", "five"])
def test_events_that_an_engine_repeats_are_decoded_once(
    frame: bytes, contents: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one event of a frame, no other is given to the JSON decoder: escapes, tools and reasoning included."""
    decoder = _decoder(stream=True, include_usage=True)
    decoder.feed(_framed(frame, b"aa"))
    monkeypatch.setattr(decoder, "read", None)
    read = _framed(frame, *contents)
    assert decoder.feed(read) is read
    text = json.loads(b'"' + b"".join(contents) + b'"')
    assert (decoder.content_events, decoder.content_bytes) == (1 + len(contents), 2 + len(text.encode()))


def test_a_frame_that_changes_is_learnt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasoning first, then the answer: both have frames of their own, and the time in them may go on."""
    decoder = _decoder(stream=True, include_usage=True)
    for frame in (LEARNT["reasoning"], CHAT, LEARNT["usage of null"]) * 5:
        decoder.feed(_framed(frame, b"a"))
        with monkeypatch.context() as blind:
            blind.setattr(decoder, "read", None)
            decoder.feed(_framed(frame, b"b", b"c"))
    assert decoder.content_events == 45


def test_frames_that_never_come_back_are_no_longer_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With padding or log-probabilities every event has a frame of its own, and to learn costs as much as to read."""
    learnt: list[Frame | None] = []

    def learn(event: bytes) -> Frame | None:
        learnt.append(frames.learn(event))
        return learnt[-1]

    monkeypatch.setattr(decoders, "learn", learn)
    decoder = _decoder(stream=True, include_usage=True)
    for number in range(100):
        decoder.feed(_CHAT % (b'"content":"a"', b',"obfuscation":"%d"' % number))
    assert len(learnt) == 4
    assert decoder.content_events == 100


def test_the_end_of_a_run_that_is_not_there_is_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once an event, which for many that begin like the known frame would take time squared."""
    searched: list[int] = []

    class Watched(Frame):
        def end_of_run(self, data: bytes, start: int) -> int:
            searched.append(start)
            return super().end_of_run(data, start)

    monkeypatch.setattr(frames, "Frame", Watched)
    decoder = _decoder(stream=True, include_usage=True)
    decoder.feed(_framed(CHAT, b"a"))
    empty = _CHAT.replace(b"null", b"0") % (b'"content":""', b"")
    assert decoder.feed(empty * 100) == empty * 100
    assert searched == [0]
