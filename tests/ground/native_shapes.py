"""Misbehaviours of upstreams that speak Messages or Responses, for callers of the same dialect: their bytes pass.

What is below a wire format is shared with ``upstream_shapes``, whose words the declared answers are. Shapes of events:
``tests.ground.said``. Another format is a ``Wire``.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.ground.said import UPSTREAMS, Said
from tests.ground.script import Chunk
from tests.ground.upstream_shapes import (
    CUT,
    ECHO,
    ESTIMATED,
    NO_TARGET,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    TEXT,
    WHOLE,
    Shape,
    body,
    error_statuses,
    foreign_bodies,
    in_pieces,
    raw_answers,
    sse,
)

_SAID = Said(TEXT, input_tokens=PROMPT_TOKENS, cached_tokens=0, output_tokens=OUTPUT_TOKENS)


class Wire(NamedTuple):
    """How a good answer looks in a wire format, and what goes wrong with it."""

    events: tuple[bytes, ...]
    whole: dict[str, Any]
    first_token: int
    """The index of the event that holds it."""
    whole_behind: int
    """A stream that ends in good order behind so many events is whole."""
    counts: tuple[str, ...]
    """Members of the usage."""
    errors: dict[str, dict[str, Any]]
    """Errors in place of an event."""
    assembles: bool
    """A caller who does not stream may be answered from a stream."""


def _wire(name: str, **members: Any) -> Wire:
    upstream = UPSTREAMS[name]
    return Wire(events=tuple(upstream.events(_SAID, "m")), whole=upstream.whole(_SAID, "m"), **members)


MESSAGES = _wire(
    "anthropic",
    first_token=3,
    whole_behind=7,
    counts=("input_tokens", "output_tokens"),
    errors={
        "overloaded": {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        "with our secrets": {"type": "error", "error": {"type": "api_error", "message": ECHO}, "request_id": ECHO},
    },
    assembles=False,
)
RESPONSES = _wire(
    "responses",
    first_token=4,
    whole_behind=10,
    counts=("input_tokens", "output_tokens"),
    errors={
        "plain": {"type": "error", "sequence_number": 2, "code": "server_error", "message": "died", "param": None},
        "with our secrets": {"type": "error", "code": ECHO, "message": ECHO, "param": ECHO},
        "of the response": {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "server_error", "message": ECHO}, "output": []},
        },
    },
    assembles=True,
)


def native_shapes(wire: Wire) -> list[Shape]:
    """Return all shapes of a wire format, and those below it."""
    shared = [*error_statuses(), *foreign_bodies(), *raw_answers()]
    return [*_spellings(wire), *_cuts(wire), *_counts(wire), *_errors(wire), *_slow(wire), *shared]


def _streamed(wire: Wire, name: str, answer: Any, stream: str, assembled: str) -> Iterator[Shape]:
    yield Shape(name, answer, stream=stream, assembled=assembled)


def _spellings(wire: Wire) -> Iterator[Shape]:
    """Yield the good stream in the spellings of server-sent events (WHATWG HTML, 9.2.6) and chunkings."""
    good = b"".join(wire.events)
    spelt = {
        "LF": good,
        "CRLF": good.replace(b"\n", b"\r\n"),
        "CR": good.replace(b"\n", b"\r"),
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "a comment first": b": hello\n\n" + good,
        "comments between": good.replace(b"\n\n", b"\n\n: ping\n\n"),
        "an id and a retry": b"".join(b"id: 7\nretry: 10\n" + each for each in wire.events),
        "no blank behind the colon": good.replace(b"data: ", b"data:"),
        "no names of events": b"".join(each[each.index(b"data: ") :] for each in wire.events),
        "data in two lines": good.replace(b'{"type"', b'{\ndata: "type"'),
        "blank lines between": good.replace(b"\n\n", b"\n\n\n\n"),
        "no blank line behind the end": good[:-2],
        "one line end behind the end": good[:-1],
        "garbage behind the end": good + b"\x00\x01\x02",
        "the end twice": good + wire.events[-1],
        "a token behind the end": good + wire.events[wire.first_token],
        "an unknown event": b'event: x\ndata: {"type":"x.y","a":[1,null]}\n\n' + good,
        "escapes for every character": good.replace(b" one", b"\\u0020\\u006f\\u006e\\u0065"),
        "many comments": b": wait\n\n" * 3_000 + good,
    }
    for name, data in spelt.items():
        for size in (1, 7, 100, len(data)):
            if size * 4_000 >= len(data):
                yield Shape(
                    f"{name}, {size} bytes at a time", sse(in_pieces(data, size)), stream=WHOLE, assembled=WHOLE
                )


def _cuts(wire: Wire) -> Iterator[Shape]:
    """Yield a stream that ends behind each event or within it, by FIN, by RST and in good order; and an object."""
    for count, event in enumerate(wire.events):
        seen = CUT if count > wire.first_token else NO_TARGET
        for reset in (False, True):
            by = "reset" if reset else "closed"
            yield Shape(f"{by} behind {count} events", sse(wire.events, cut_after=count, reset=reset), stream=seen)
            pieces = (*wire.events[:count], event[: len(event) // 2])
            yield Shape(f"{by} within event {count}", sse(pieces, cut_after=len(pieces), reset=reset), stream=seen)
        whole = count >= wire.whole_behind
        ended = sse(wire.events[:count])
        yield Shape(
            f"ended in good order behind {count} events",
            ended,
            None,
            WHOLE if whole else seen,
            WHOLE if whole else NO_TARGET,
        )
    raw = json.dumps(wire.whole).encode()
    for tenths in range(10):
        part = raw[: len(raw) * tenths // 10]
        yield Shape(f"object cut at {tenths} tenths", None, body(part, content_length=len(raw)))
        yield Shape(f"object ended at {tenths} tenths", None, body(part))
        yield Shape(f"object cut at {tenths} tenths, chunked", None, body(part, framing="chunked", cut_after=1))
    yield Shape("a good object", None, body(raw), plain=WHOLE)


def _counts(wire: Wire) -> Iterator[Shape]:
    """Yield answers whose usage is no count: the text is whole, and what is billed is estimated."""
    for member in wire.counts:
        for value in ("true", '"7"', "-7", "[7]", "9" * 25, str(2**63)):
            written = json.dumps({**wire.whole, "usage": {**wire.whole["usage"], member: "mark"}})
            old = f'"{member}": {wire.whole["usage"][member]}'.encode()
            new = f'"{member}": {value}'.encode()
            streamed = sse(tuple(each.replace(old, new) for each in wire.events))
            yield Shape(
                f"{member} is {value[:20]}",
                streamed,
                body(written.replace('"mark"', value).encode()),
                *(ESTIMATED, ESTIMATED, ESTIMATED),
            )


def _errors(wire: Wire) -> Iterator[Shape]:
    """Yield an error in every place of a stream, and in place of an object."""
    for name, error in wire.errors.items():
        event = f"event: {error['type']}\ndata: {json.dumps(error)}\n\n".encode()
        for count in range(len(wire.events)):
            if count < wire.whole_behind:
                seen = CUT if count > wire.first_token else NO_TARGET
                yield Shape(f"error {name} behind {count} events", sse((*wire.events[:count], event)), stream=seen)
        yield Shape(f"error {name} for an answer", None, body(error))


def _slow(wire: Wire) -> Iterator[Shape]:
    """Yield answers that come late, against 20 s to the first token and 15 s between."""
    for late_s, declared in ((19.0, WHOLE), (21.0, NO_TARGET)):
        yield Shape(f"first byte after {late_s:g} s", sse(wire.events, first_byte_delay_s=late_s), stream=declared,
                    assembled=WHOLE)  # fmt: skip
    for gap_s, declared, assembled in ((14.0, WHOLE, WHOLE), (16.0, CUT, NO_TARGET)):
        paced = [Chunk(each, delay_s=gap_s if at > wire.first_token else 0.0) for at, each in enumerate(wire.events)]
        yield Shape(f"{gap_s:g} s between tokens", sse(paced), stream=declared, assembled=assembled)
