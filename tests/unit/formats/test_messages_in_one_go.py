"""Deltas of a passed stream of Messages that are read in one go are read as if each of them were decoded."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.anthropic.messages import AnthropicAdapter
from gateway.formats.anthropic.stream import PassedDecoder
from gateway.formats.base import Decoder
from tests.ground.builders import build_call, build_target
from tests.ground.reads import drawn_reads

CONTENTS = [
    *(b"a", b" b c", b"", b" ", "é😀".encode(), rb"\n", rb"\"", rb"\\", rb"\u00e9", rb"\ud83d\ude00", rb"\"}}\n\n"),
    # Halves of an escape, of a pair and of a character; what JSON forbids; what would end the string or the event.
    *(b"\\", rb"\ud83d", rb"\ude00", b"\xc3", b"\xa9", b"\x00", b'"', b'","x":"', b'","text":"', b"\n", b"\n\n", b"\r"),
]  # fmt: skip
_EVENT = b'event: %b\ndata: {"type":"%b",%b}\n\n'


def _delta(index: int, kind: str, name: str, more: str = "") -> bytes:
    said = f'"index":{index},"delta":{{"type":"{kind}","{name}":"CONTENT"{more}}}'
    return _EVENT % (b"content_block_delta", b"content_block_delta", said.encode())


TEXT = _delta(0, "text_delta", "text")
KINDS = {
    "text": TEXT,
    "second block": _delta(1, "text_delta", "text"),
    "thinking": _delta(0, "thinking_delta", "thinking"),
    "arguments": _delta(1, "input_json_delta", "partial_json"),
    "unknown member": _delta(0, "text_delta", "text", ',"x":{"y":"z"}'),
    "unnamed": TEXT.partition(b"\n")[2],
    "spaces": TEXT.replace(b'text":"C', b'text": "C'),
    "crlf": TEXT.replace(b"\n", b"\r\n"),
}
FRAMES = [
    *KINDS.values(),
    _delta(0, "text_delta", "text", ',"text":"x"'),
    _delta(0, "text_delta", "text", ',"thinking":"x"'),
    _delta(0, "signature_delta", "signature"),
    _delta(0, "citations_delta", "text"),
    TEXT.replace(b'_delta","i', b'_start","i'),
    b': {"text":"CONTENT"}\n\n',
]
BEGUN = _EVENT % (
    *[b"message_start"] * 2,
    b'"message":{"id":"m","model":"c","content":[],"usage":{"input_tokens":3,"output_tokens":1}}',
)
ODD = [
    _EVENT % (*[b"content_block_start"] * 2, b'"index":0,"content_block":{"type":"text","text":""}'),
    _EVENT
    % (*[b"content_block_start"] * 2, b'"index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}'),
    _EVENT % (*[b"content_block_start"] * 2, b'"index":1,"content_block":{"type":"new","text":"x"}'),
    _EVENT % (*[b"content_block_stop"] * 2, b'"index":0'),
    _EVENT % (*[b"content_block_stop"] * 2, b'"index":1'),
    _EVENT % (*[b"message_delta"] * 2, b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}'),
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b"event: content_block_delta\ndata: {nonsense}\n\n",
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
    b": comment\n\n",
]


def _framed(frame: bytes, *contents: bytes) -> bytes:
    return b"".join(frame.replace(b"CONTENT", content) for content in contents)


@st.composite
def _reads(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream in the reads in which it arrives: mostly whole events, one or several."""
    events = [BEGUN]
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.integers(0, 2)):
            frame = draw(st.one_of(st.just(TEXT), st.sampled_from(FRAMES)))
            contents = st.one_of(st.sampled_from(CONTENTS[:2]), st.sampled_from(CONTENTS))
            events += [_framed(frame, each) for each in draw(st.lists(contents, min_size=1, max_size=6))]
        else:
            events.append(draw(st.sampled_from(ODD)))
    return drawn_reads(draw, events)


def _decoder() -> Decoder:
    body: dict[str, Any] = {
        "model": "auto",
        "max_tokens": 9,
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
    }
    return AnthropicAdapter().decoder(build_call(MESSAGES.decode(json.dumps(body).encode())), build_target())


def _played(make: Callable[[], Decoder], reads: list[bytes]) -> list[Any]:
    """Play the stream to its end, and return all that could be seen of it after each step."""
    decoder = make()
    seen: list[Any] = []

    def look(out: bytes) -> None:
        seen.append((out, decoder.content_events, decoder.content_bytes, decoder.usage, decoder.dropped_events))
        seen.append((decoder.complete, decoder.shows_reasoning))

    try:
        for read in reads:
            look(decoder.feed(read))
        look(decoder.finish())
    except UpstreamError as error:
        look(error.message.encode())
    return seen


@settings(max_examples=60, deadline=None)
@given(_reads())
@example([BEGUN + _framed(TEXT, b"a"), _framed(TEXT, b"\\", b',"b')])
@example([BEGUN + _framed(TEXT, b"a"), _framed(TEXT, rb"\ud83d", rb"\ude00")])
@example([BEGUN + _framed(TEXT, b"a", b"b", b"", b"c") + _framed(KINDS["arguments"], b"{}", b"") + _framed(TEXT, b"d")])
@example([BEGUN + _framed(TEXT, b"a", b"b") + ODD[9] + _framed(TEXT, b"c", b"d")])
@example([BEGUN + _framed(TEXT, b"a", b"b") + ODD[5] + ODD[6], _framed(TEXT, b"c", b"d")])
@example([BEGUN + _framed(TEXT, b"a"), ODD[9], _framed(TEXT, b"b")])
@example([BEGUN + _framed(TEXT, b"a"), ODD[8], _framed(TEXT, b"b", b"c")])
@example([BEGUN + _framed(TEXT, b"a"), b": x", _framed(TEXT, b"b")])
@example([BEGUN + _framed(TEXT, b"a"), ODD[8], _framed(KINDS["second block"], b"b", b"c")])
def test_deltas_in_one_go_are_read_as_if_they_were_decoded(reads: list[bytes]) -> None:
    """Bytes, counts, usage, end and errors are those of a decoder that decodes each event, after every read."""
    with pytest.MonkeyPatch.context() as forgetful:
        forgetful.setattr(PassedDecoder, "known", {})
        expected = _played(_decoder, reads)
    assert _played(_decoder, reads) == expected


def test_deltas_between_other_events_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the first content none is read by itself, in whatever company it comes; the end still is."""
    read: list[bytes] = []
    decoder = _decoder()
    read_event = decoder.read_event

    def watched(data: bytes) -> bytes:
        read.append(data)
        return read_event(data)

    monkeypatch.setattr(decoder, "read_event", watched)
    stream = BEGUN + ODD[0] + _framed(TEXT, *[b"a"] * 200) + ODD[3] + ODD[5] + ODD[6]
    assert decoder.feed(stream) == stream
    assert (decoder.content_events, len(read)) == (200, 6)
    assert decoder.complete
