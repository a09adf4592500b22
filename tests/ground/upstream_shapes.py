"""Tables of what an upstream may send instead of a good answer, and what the gateway must make of each.

Facts of documented wire formats and of HTTP; none is a recording. A ``Shape`` is what is sent, and the declared answer
for each way in which the gateway may have asked: for a stream on behalf of a caller who streams (``stream``), for a
stream on behalf of one who does not (``assembled``), and for one JSON object (``plain``). Declared answers:

- ``whole``: the right text to its end, billed by the upstream's count. ``estimated``: the right text, no usable count.
- ``no target``: 503, nothing of the answer was passed on; a second target would have answered.
- ``504 deadline_exceeded``: the same, but a caller who does not stream waits for the only target until his total ends.
- ``late``: whole in the end, and nothing had come when a second target, were there one, was asked.
- ``cut``: the caller got part of a stream, then an error event and no end marker.
- ``caller 4xx``: the caller's own fault by the upstream's word; no second target is asked.
- ``model 413``: true of this model only; the caller gets it unless a second target answers.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.ground.script import Answer, Chunk

Mode = Literal["stream", "assembled", "plain"]
MODES: tuple[Mode, ...] = ("stream", "assembled", "plain")

WORDS = (" one", " two", " three")
TEXT = "".join(WORDS)
PROMPT_TOKENS, OUTPUT_TOKENS = 11, 3
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": PROMPT_TOKENS + OUTPUT_TOKENS,
}

WHOLE, ESTIMATED, NO_TARGET, CUT, LATE = "whole", "estimated", "no target", "cut", "late"
DEADLINE = "504 deadline_exceeded"


@dataclass(frozen=True)
class Shape:
    """One misbehaviour: what is sent to each mode, and the declared answer."""

    name: str
    streamed: Answer | None = None
    """To ``stream`` and ``assembled``; None: not asked that way."""
    whole: Answer | None = None
    """To ``plain``."""
    stream: str = NO_TARGET
    assembled: str = NO_TARGET
    plain: str = NO_TARGET

    def answer(self, mode: Mode) -> Answer | None:
        """Return what is sent in a mode."""
        return self.whole if mode == "plain" else self.streamed

    def declared(self, mode: Mode) -> str:
        """Return the declared answer in a mode."""
        return {"stream": self.stream, "assembled": self.assembled, "plain": self.plain}[mode]


def chunk(delta: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """Write one chunk of a chat stream (OpenAI's API reference, "The chat completion chunk object")."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": None, "logprobs": None}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return body | members


def finished(reason: str = "stop") -> dict[str, Any]:
    """Write the chunk that ends a choice."""
    return chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason, "logprobs": None}])


GOOD_CHUNKS: tuple[dict[str, Any], ...] = (
    chunk({"role": "assistant", "content": ""}),
    *[chunk({"content": word}) for word in WORDS],
    finished(),
    chunk(choices=[], usage=USAGE),
)
"""Content begins with the second."""
GOOD_BODY: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop", "logprobs": None}
    ],
    "usage": USAGE,
}
DONE = b"data: [DONE]\n\n"


def event(data: object) -> bytes:
    """Write one event of a stream."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data if isinstance(data, str) else json.dumps(data)
    return b"data: " + text.encode("latin-1" if isinstance(data, bytes) else "utf-8") + b"\n\n"


def events(*values: object) -> tuple[bytes, ...]:
    """Write events, one write each."""
    return tuple(event(value) for value in values)


GOOD_EVENTS = (*events(*GOOD_CHUNKS), DONE)


def sse(pieces: Iterable[bytes | Chunk], **answer: Any) -> Answer:
    """Answer with these writes of an event stream."""
    return Answer(**{"headers": (("content-type", "text/event-stream"),), "chunks": tuple(pieces)} | answer)


def body(data: object, **answer: Any) -> Answer:
    """Answer with one JSON body."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    fields: dict[str, Any] = {"headers": (("content-type", "application/json"),), "framing": "content-length"}
    return Answer(**fields | {"chunks": (raw,)} | answer)


def in_pieces(data: bytes, size: int) -> tuple[bytes, ...]:
    """Cut bytes into writes of this size."""
    return tuple(data[at : at + size] for at in range(0, len(data), size))


# Every error status with every kind of body. ``ECHO`` stands for what an upstream knows of us and may send back.

ECHO = "Bearer {secret} at {address}"
_MESSAGES: dict[str, Callable[[int], bytes]] = {
    "OpenAI's object": lambda _: b'{"error":{"message":"no","type":"x_error","param":null,"code":null}}',
    "object with our secrets": lambda _: json.dumps({"error": {"message": ECHO, "param": ECHO, "code": ECHO}}).encode(),
    "text with our secrets": lambda _: ECHO.encode(),
    "string in error": lambda _: b'{"error":"no"}',
    "FastAPI's detail": lambda _: b'{"detail":[{"loc":["body","messages"],"msg":"field required","type":"missing"}]}',
    "message at the top": lambda status: json.dumps({"object": "error", "message": "no", "code": status}).encode(),
    "page": lambda _: b"<!doctype html><title>Oops</title>",
    "nothing": lambda _: b"",
    "array": lambda _: b"[1,2]",
    "broken JSON": lambda _: b'{"error":{"message":"no',
    "bytes that are no text": lambda _: b"\xff\xfe\x00\x80" * 40,
    "much": lambda _: b'{"error":{"message":"' + b"a" * 200_000 + b'"}}',
    "nested": lambda _: b'{"error":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
}
_STATUSES = (
    *(300, 301, 302, 303, 304, 305, 307, 308, 399),
    *(400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423),
    *(424, 425, 426, 428, 429, 431, 444, 449, 450, 451, 460, 498, 499),
    *(500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 523, 524, 525, 526, 529, 530, 599),
)
_ABOUT_THE_REQUEST = (400, 422)


def _callers(status: int, kind: str) -> str:
    """Declare whose fault an error status is.

    The caller's are a 400 or 422 with a body that is an API's, and a 404 that names a parameter of the request.
    """
    if status == 413:
        return f"model {status}"
    if status == 404 and kind in {"object with our secrets", "FastAPI's detail"}:
        return f"caller {status}"
    if status not in _ABOUT_THE_REQUEST or kind == "page":
        return NO_TARGET
    return f"caller {status}"


def error_statuses() -> Iterator[Shape]:
    """Yield every error status with every body."""
    for status in _STATUSES:
        for kind, write in _MESSAGES.items():
            if status == 304 and write(status):
                continue  # it has no body
            answer = body(write(status), status=status, headers=(("content-type", "application/json"), ("x-k", ECHO)))
            declared = _callers(status, kind)
            yield Shape(f"{status} with {kind}", answer, answer, declared, declared, declared)


# The same good stream, written in every way that server-sent events allow (WHATWG HTML, 9.2.6), in every chunking.


def _crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


_GOOD = b"".join(GOOD_EVENTS)
_WRITTEN: dict[str, bytes] = {
    "LF": _GOOD,
    "CRLF": _crlf(_GOOD),
    "CR": _GOOD.replace(b"\n", b"\r"),
    "a byte order mark": b"\xef\xbb\xbf" + _GOOD,
    "a comment first": b": hello\n\n" + _GOOD,
    "comments between": _GOOD.replace(b"\n\n", b"\n\n: ping\n\n"),
    "a name for each event": b"".join(b"event: message\n" + each for each in GOOD_EVENTS),
    "an id and a retry": b"".join(b"id: 7\nretry: 10\n" + each for each in GOOD_EVENTS),
    "no blank behind the colon": _GOOD.replace(b"data: ", b"data:"),
    "data in two lines": _GOOD.replace(b', "object"', b',\ndata: "object"'),
    "blank lines between": _GOOD.replace(b"\n\n", b"\n\n\n\n"),
    "blank lines first": b"\n\n\n" + _GOOD,
    "no blank line behind the end": _GOOD[:-2],
    "one line end behind the end": _GOOD[:-1],
    "the end twice": _GOOD + DONE,
    "an event behind the end": _GOOD + event(chunk({"content": " four"})),
    "garbage behind the end": _GOOD + b"\x00\x01\x02",
    "compact JSON": b"".join(
        each if each == DONE else event(json.dumps(json.loads(each[6:]), separators=(",", ":"))) for each in GOOD_EVENTS
    ),
    "escapes for every character": _GOOD.replace(b" one", b"\\u0020\\u006f\\u006e\\u0065"),
    "usage in each chunk": b"".join(
        event(value | {"usage": USAGE | {"completion_tokens": min(at, OUTPUT_TOKENS)}})
        for at, value in enumerate(GOOD_CHUNKS[:-1])
    )
    + event(GOOD_CHUNKS[-1])
    + DONE,
    "null usage before the last": b"".join(event({"usage": None} | value) for value in GOOD_CHUNKS) + DONE,
    "unknown members": b"".join(event(value | {"x_trace": {"a": [1, None]}}) for value in GOOD_CHUNKS) + DONE,
    "unknown event": b'event: ping\ndata: {"type":"ping"}\n\n' + _GOOD,
    "empty choices first": event(chunk(choices=[])) + _GOOD,
    "many comments": b": wait\n\n" * 3_000 + _GOOD,
}


def good_streams() -> Iterator[Shape]:
    """Yield the good stream in all its spellings and chunkings: each is whole."""
    for name, data in _WRITTEN.items():
        for size in (1, 2, 7, 100, len(data)):
            if size * 4_000 < len(data):
                continue
            for framing in ("chunked", "close", "content-length"):
                pieces = in_pieces(data, size) if framing == "chunked" or size > 7 else (data,)
                if framing != "chunked" and size < 100:
                    continue
                yield Shape(
                    f"{name}, {size} bytes at a time, {framing}",
                    sse(pieces, framing=framing),
                    stream=WHOLE,
                    assembled=WHOLE,
                )


# Endings at every place.


def _whole_behind(count: int) -> str | None:
    """Declare a clean end without an end marker: behind the finish reason the answer is whole, usage or not."""
    if count < len(GOOD_EVENTS) - 2:
        return None
    return ESTIMATED if count == len(GOOD_EVENTS) - 2 else WHOLE


def cuts() -> Iterator[Shape]:
    """Yield a stream that ends behind each of its events, or within it, by FIN and by RST; and an object likewise."""
    for count in range(len(GOOD_EVENTS)):
        seen = CUT if count >= 2 else NO_TARGET  # the first token is in the second event
        for reset in (False, True):
            by = "reset" if reset else "closed"
            for framing in ("chunked", "close"):
                if framing == "close" and not reset:
                    continue
                yield Shape(
                    f"{by} behind {count} events, {framing}",
                    sse(GOOD_EVENTS, cut_after=count, reset=reset, framing=framing),
                    stream=seen,
                )
            half = GOOD_EVENTS[count][: len(GOOD_EVENTS[count]) // 2]
            pieces = (*GOOD_EVENTS[:count], half)
            yield Shape(f"{by} within event {count}", sse(pieces, cut_after=len(pieces), reset=reset), stream=seen)
        ended = sse(GOOD_EVENTS[:count])
        whole = _whole_behind(count)
        yield Shape(f"ended in good order behind {count} events", ended, None, whole or seen, whole or NO_TARGET)
        stalled = sse(GOOD_EVENTS, stall_after=count)
        yield Shape(f"silent behind {count} events", stalled, None, seen, DEADLINE if count < 2 else NO_TARGET)
    raw = json.dumps(GOOD_BODY).encode()
    for tenths in range(10):
        part = raw[: len(raw) * tenths // 10]
        short = body(part, content_length=len(raw))
        yield Shape(f"object cut at {tenths} tenths", None, short)
        yield Shape(f"object ended at {tenths} tenths", None, body(part))
        yield Shape(f"object cut at {tenths} tenths, chunked", None, body(part, framing="chunked", cut_after=1))


# Each member of a good answer with each wrong value.

_WRONG: dict[str, str] = {
    "null": "null",
    "true": "true",
    "a number": "7",
    "a negative number": "-7",
    "a fraction": "1.5",
    "a huge number": "9" * 25,
    "a text": '"x"',
    "an array": "[]",
    "an object": "{}",
    "nested arrays": "[[[[]]]]",
}
_LENIENT = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
"""Nothing in them is of account to the gateway."""


def wrong_members() -> Iterator[Shape]:
    """Yield answers in which a member of no account holds a wrong value: whole all the same."""
    for member in _LENIENT:
        for name, value in _WRONG.items():
            patched = [_patched(each, member, value) for each in GOOD_CHUNKS]
            streamed = sse((*[event(each) for each in patched], DONE))
            whole = body(_patched(GOOD_BODY, member, value).encode())
            yield Shape(f"{member} is {name}", streamed, whole, WHOLE, WHOLE, WHOLE)


def _patched(value: dict[str, Any], member: str, raw: str) -> str:
    mark = "\u0000mark"
    return json.dumps(value | {member: mark}).replace(json.dumps(mark), raw)


_NO_COUNT = ("true", '"7"', "-7", "[7]", "9" * 25, str(2**63), "NaN")
"""What cannot be a count of tokens."""
_NOTHING = ("null", "{}")
"""What says nothing in place of a count; the total tells it."""


def wrong_counts() -> Iterator[Shape]:
    """Yield answers whose usage is no count: the text is whole, and what is billed is estimated."""
    for member in ("prompt_tokens", "completion_tokens"):
        for raw in (*_NO_COUNT, *_NOTHING):
            if raw == "NaN":
                continue  # then the whole event is no JSON
            usage = json.dumps(USAGE | {member: "mark"}).replace('"mark"', raw)
            last = json.dumps(chunk(choices=[], usage="mark")).replace('"mark"', usage)
            streamed = sse((*GOOD_EVENTS[:-2], event(last), DONE))
            whole = body(json.dumps(GOOD_BODY | {"usage": "mark"}).replace('"mark"', usage).encode())
            declared = WHOLE if raw in _NOTHING else ESTIMATED
            yield Shape(f"{member} is {raw[:30]}", streamed, whole, declared, declared, declared)
    for name, raw in {**_WRONG, "absent": ""}.items():
        bare = [each for each in GOOD_CHUNKS if "usage" not in each]
        last = [] if not raw else [json.dumps(chunk(choices=[], usage="mark")).replace('"mark"', raw)]
        streamed = sse((*events(*bare), *[event(each) for each in last], DONE))
        whole_body = json.dumps(
            {name: value for name, value in GOOD_BODY.items() if name != "usage"}
            if not raw
            else GOOD_BODY | {"usage": "mark"}
        )
        whole = body(whole_body.replace('"mark"', raw).encode())
        yield Shape(f"usage is {name}", streamed, whole, ESTIMATED, ESTIMATED, ESTIMATED)


# Errors that come with status 200.

_ERRORS: dict[str, object] = {
    "OpenAI's": {"error": {"message": "died", "type": "server_error", "param": None, "code": None}},
    "with our secrets": {"error": {"message": ECHO, "type": ECHO, "param": ECHO, "code": ECHO}},
    "a string": {"error": "died"},
    "with a status as code": {"error": {"message": "died", "code": 500}},
    "with a status as text": {"error": {"message": "slow down", "code": "429"}},
    "overloaded": {"error": {"message": "busy", "type": "overloaded_error"}},
    "older vLLM's": {"object": "error", "message": "died", "type": "InternalServerError", "param": None, "code": 500},
}


def errors_in_answers() -> Iterator[Shape]:
    """Yield an error object in every place of a stream, and in place of an object."""
    for name, error in _ERRORS.items():
        for count in range(len(GOOD_EVENTS) - 1):
            pieces = (*GOOD_EVENTS[:count], event(error), DONE)
            begun = count >= 2
            yield Shape(f"error {name} behind {count} events", sse(pieces), stream=CUT if begun else NO_TARGET)
        yield Shape(f"error {name} for an answer", body(error), body(error))


# What is no answer of a model.

_FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "a blank": b" ",
    "a page": b"<html><body>Sign in</body></html>",
    "text": b"upstream is fine, thanks",
    "null": b"null",
    "true": b"true",
    "a number": b"17",
    "a string": b'"hello"',
    "an empty array": b"[]",
    "an array": b"[1,2,3]",
    "an empty object": b"{}",
    "an object of something else": b'{"status":"ok"}',
    "choices null": b'{"choices":null}',
    "choices empty": b'{"choices":[]}',
    "choices a text": b'{"choices":"x"}',
    "choices an object": b'{"choices":{}}',
    "choices of numbers": b'{"choices":[1]}',
    "choices of nulls": b'{"choices":[null]}',
    "an unfinished object": b'{"choices":[{"index":0,',
    "an unfinished string": b'{"choices":[{"index":0,"message":{"content":"on',
    "two objects": b'{"a":1}{"b":2}',
    "NaN": b'{"choices":NaN}',
    "control characters": b'{"choices":"\x01"}',
    "no UTF-8": b'{"choices":"\xff\xfe"}',
    "UTF-16": json.dumps(GOOD_BODY).encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x4a\x04\x00",
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of 5,000 digits": b'{"choices":' + b"9" * 5_000 + b"}",
    "zeros": b"\x00" * 1_000,
}


def foreign_bodies() -> Iterator[Shape]:
    """Yield what has status 200 and is no answer, as a stream and as an object, with either content type."""
    for name, data in _FOREIGN.items():
        for kind in ("application/json", "text/event-stream", "text/html"):
            answer = body(data, headers=(("content-type", kind),))
            yield Shape(f"{name} as {kind}", answer, answer)
        yield Shape(f"{name} as an event", sse((event(data), DONE)))


# Below HTTP's surface.

_OK = b"HTTP/1.1 200 OK\r\n"
_JSON_HEAD = b"content-type: application/json\r\n"
_BODY = json.dumps(GOOD_BODY).encode()
_RAW: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a settings frame": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "HTTP/0.9": _BODY,
    "half a status line": b"HTTP/1.1 20",
    "half a head": _OK + b"content-type: appl",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 OK\r\n\r\n",
    "version 9.9": b"HTTP/9.9 200 OK\r\n\r\n",
    "a folded header": _OK + b"x: a\r\n b\r\n\r\n",
    "a header without a colon": _OK + b"nonsense\r\n\r\n",
    "a blank in a header's name": _OK + b"x y: z\r\n\r\n",
    "a NUL in a header": _OK + b"x: a\x00b\r\n\r\n",
    "a header of 100 KB": _OK + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
    "a thousand headers": _OK + b"".join(b"x-%d: y\r\n" % number for number in range(1_000)) + b"\r\n",
    "two lengths": _OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length below zero": _OK + b"content-length: -1\r\n\r\n{}",
    "a length of letters": _OK + b"content-length: two\r\n\r\n{}",
    "a huge length": _OK + b"content-length: 99999999999999999999\r\n\r\n{}",
    "length and chunks": _OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a coding of its own": _OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "a chunk's size of letters": _OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk larger than told": _OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a huge chunk": _OK + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "only an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a hundred interim answers": b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" * 100,
}
_BEGINNINGS = frozenset(
    (
        *("nothing", "a blank line", "half a status line", "half a head"),
        *("only an interim answer", "a hundred interim answers"),
    )
)
"""What may yet become an answer: silence behind it is all that is wrong."""
_HALF_AN_EVENT = frozenset(("a coding of its own",))
"""The same for an event stream alone: an object has begun, and may be silent for 15 s."""


def raw_answers() -> Iterator[Shape]:
    """Yield bytes that are no answer in HTTP, behind which the connection closes, breaks or stays silent."""
    for name, data in _RAW.items():
        for ending in ("closed", "reset", "silent"):
            answer = Answer(raw=data, reset=ending == "reset", stall_after=0 if ending == "silent" else None)
            waits = DEADLINE if ending == "silent" and name in _BEGINNINGS else NO_TARGET
            assembled = DEADLINE if ending == "silent" and name in _HALF_AN_EVENT else waits
            yield Shape(f"raw {name}, then {ending}", answer, answer, NO_TARGET, assembled, waits)


# Time.


def slow_answers() -> Iterator[Shape]:
    """Yield answers that come late, or drop by drop, against a limit of 20 s to the first token and 15 s between."""
    # What is alone with its target has been waited for and measured: the next call gives a first token twice as long.
    for late_s, declared, plain in (
        *((1.0, WHOLE, WHOLE), (19.0, WHOLE, WHOLE), (21.0, NO_TARGET, WHOLE), (100.0, NO_TARGET, WHOLE)),
        *((599.0, NO_TARGET, LATE), (601.0, NO_TARGET, DEADLINE)),
    ):
        streamed = sse(GOOD_EVENTS, first_byte_delay_s=late_s)
        yield Shape(f"first byte after {late_s:g} s", streamed, None, declared, plain)
    for late_s, plain in ((1.0, WHOLE), (19.0, WHOLE), (21.0, LATE), (599.0, LATE), (601.0, DEADLINE)):
        whole = body(GOOD_BODY, first_byte_delay_s=late_s)
        yield Shape(f"object after {late_s:g} s", None, whole, plain=plain)
    blanks = tuple(Chunk(b" \n", delay_s=1.0) for _ in range(700))
    yield Shape("blanks for ever, and no object", None, body(b"", chunks=blanks, framing="chunked"), plain=DEADLINE)
    for gap_s, declared, plain in ((1.0, WHOLE, WHOLE), (14.0, WHOLE, WHOLE), (16.0, CUT, NO_TARGET)):
        paced = tuple(Chunk(each, delay_s=gap_s if at > 1 else 0.0) for at, each in enumerate(GOOD_EVENTS))
        yield Shape(f"{gap_s:g} s between tokens", sse(paced), None, declared, plain)
    comments = tuple(Chunk(b": wait\n\n", delay_s=1.0) for _ in range(700))
    yield Shape("comments for ever, and no token", sse(comments), None, NO_TARGET, DEADLINE)
    role = event(GOOD_CHUNKS[0])
    yield Shape(
        "roles for ever, and no token",
        sse(tuple(Chunk(role, delay_s=1.0) for _ in range(700))),
        None,
        assembled=DEADLINE,
    )
    head = Answer(raw=_OK + b"x: " + b"a" * 5_000, trickle_bytes=1, trickle_delay_s=1.0)
    yield Shape("a head byte by byte", head, head, assembled=DEADLINE, plain=DEADLINE)


TABLES: Sequence[Callable[[], Iterator[Shape]]] = (
    error_statuses,
    good_streams,
    cuts,
    wrong_members,
    wrong_counts,
    errors_in_answers,
    foreign_bodies,
    raw_answers,
    slow_answers,
)


def shapes() -> list[Shape]:
    """Return all shapes of all tables."""
    return [shape for table in TABLES for shape in table()]


def with_echo(answer: Answer, *, secret: str, address: str) -> Answer:
    """Let an answer say back what the upstream knows of us, where it holds ``ECHO``."""
    said = ECHO.format(secret=secret, address=address)

    def fill(piece: bytes | Chunk) -> bytes | Chunk:
        data = (piece if isinstance(piece, bytes) else piece.data).replace(ECHO.encode(), said.encode())
        return data if isinstance(piece, bytes) else piece._replace(data=data)

    headers = tuple((name, value.replace(ECHO, said)) for name, value in answer.headers)
    return replace(answer, chunks=tuple(fill(each) for each in answer.chunks), headers=headers)
