"""Rows of the corpus of callers about what follows what, what is in a body, who may come, and who takes his time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.ground.callers import request
from tests.hostile.shape import (
    AUTH,
    BAD,
    BEARER,
    BODY,
    CHAT,
    CODING,
    FOREIGN,
    KEY,
    LARGE,
    METHOD,
    OK,
    PAGE,
    SLOW_BODY,
    STREAM,
    TE,
    UNKNOWN_KEY,
    Expected,
    Shape,
    post,
    shape,
)

# What follows what on one connection.

GET = request("GET", "/healthz")
HEAD = request("HEAD", "/healthz")
LAST = request("GET", "/healthz", connection="close")
GOOD = post()
STREAMED = post(STREAM)
GARBAGE = b"\x00\x01garbage\r\n\r\n"
NO_KEY = request("POST", CHAT, BODY)
BROKEN = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b%b\r\n\r\nno size\r\n" % (CHAT.encode(), AUTH, TE)
ANNOUNCED = request("POST", CHAT, **BEARER, content_length="9000000")
IN_CHUNKS = request("POST", CHAT, **BEARER, transfer_encoding="chunked")
TOO_LARGE = Expected(413, "body_too_large")
HEAD_OK = Expected(200, None, True)


def courses() -> Iterator[Shape]:
    """Several requests behind one another, and what is none among them: answers in order, nothing cancelled."""
    yield shape("two chats", GOOD + GOOD, OK, OK)
    yield shape("a stream, a page, a chat", STREAMED + GET + GOOD, OK, OK, OK)
    yield shape("HEAD before GET", HEAD + GET + HEAD, HEAD_OK, OK, HEAD_OK)
    yield shape("a hundred pages", GET * 100, *[OK] * 100)
    yield shape("blank lines between", GET + b"\r\n\r\n" + GET + b"\r\n", OK, OK)
    yield shape("refused, served", NO_KEY + GOOD + request("PUT", CHAT, b"x") + GET, UNKNOWN_KEY, OK, METHOD, OK)
    for name, first in {"chat": GOOD, "stream": STREAMED, "page": GET}.items():
        yield shape(f"garbage behind a {name}", first + GARBAGE, OK, BAD, closes=True)
        yield shape(f"garbage later behind a {name}", (first, GARBAGE), OK, BAD, closes=True)
        yield shape(f"much garbage behind a {name}", first + GARBAGE * 20_000, OK, BAD, closes=True)
        yield shape(f"more than announced: {name}", first + b'"}', OK, BAD, closes=True)
        yield shape(
            f"a large head behind a {name}",
            (first, "answer", b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000),
            OK,
            LARGE,
            closes=True,
        )
        yield shape(
            f"another version behind a {name}", first + b"GET / HTTP/2.0\r\n\r\n", OK, Expected(505), closes=True
        )
        yield shape(f"no host behind a {name}", first + b"GET / HTTP/1.1\r\n\r\n" + GET, OK, BAD, closes=True)
        yield shape(f"a broken body behind a {name}", first + BROKEN + GET, OK, BAD, closes=True)
        yield shape(f"two, then garbage: {name}", first + GET + GARBAGE, OK, OK, BAD, closes=True)
        yield shape(f"a last {name}, then garbage", first + LAST + GARBAGE, OK, OK, closes=True)
    yield shape("garbage behind a refusal", NO_KEY + GARBAGE, UNKNOWN_KEY, BAD, closes=True)
    yield shape("garbage behind a bad body", post(b"{") + GARBAGE, BAD, BAD, closes=True)
    yield shape("a request after the last", LAST + GET + GARBAGE, OK, closes=True)
    yield shape("a broken body", BROKEN, BAD, closes=True)
    yield shape("an offer, then a request", _offer() + GET, OK, OK)
    yield shape("an offer after a request", GOOD + _offer(), OK, OK)
    yield shape(
        "an offer of CONNECT after a request", GOOD + b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", OK, BAD, closes=True
    )
    yield shape("byte by byte", tuple(GOOD[at : at + 1] for at in range(len(GOOD))), OK)
    yield shape("cut in the head", (GOOD[:40], GOOD[40:]), OK)
    yield shape("cut in the body", (GOOD[:-20], GOOD[-20:]), OK)
    yield shape("cut in a line's end", (GET[:-3], GET[-3:-1], GET[-1:]), OK)
    pieces = (b"%x\r\n" % 300_000 + b" " * 300_000 + b"\r\n") * 8
    yield shape("too large in chunks", IN_CHUNKS + pieces + b"0\r\n\r\n", TOO_LARGE)
    waiting = {"expect": "100-continue"}
    yield shape(
        "told to continue", (request("POST", CHAT, content_length=str(len(BODY)), **waiting, **BEARER), BODY), OK
    )
    yield shape(
        "told that it is too much",
        ANNOUNCED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
        TOO_LARGE,
        closes=True,
    )
    yield shape(
        "told that a key is missing", request("POST", CHAT, content_length="9", **waiting), UNKNOWN_KEY, closes=True
    )


def _offer() -> bytes:
    return post(connection="Upgrade", upgrade="h2c")


# Bodies.

TURNS = '"messages":[{"role":"user","content":"hi"}]'
BODIES: dict[str, tuple[bytes, Expected]] = {
    "empty": (b"", BAD),
    "not JSON": (b"{", BAD),
    "blanks": (b" \r\n\t ", BAD),
    "null": (b"null", BAD),
    "a number": (b"1", BAD),
    "an array": (b"[]", BAD),
    "a BOM": (b"\xef\xbb\xbf{}", BAD),
    "UTF-16": (f'{{"model":"auto",{TURNS}}}'.encode("utf-16"), BAD),
    "two objects": (f'{{"model":"auto",{TURNS}}}{{}}'.encode(), BAD),
    "a trailing comma": (f'{{"model":"auto",{TURNS},}}'.encode(), BAD),
    "single quotes": (b"{'model':'auto'}", BAD),
    "a form": (b"model=auto&messages=hi", BAD),
    "XML": (b"<model>auto</model>", BAD),
    "deep": (b'{"model":"auto","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", BAD),
    "deep objects": (b'{"model":"auto","messages":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", BAD),
    "a 5,000-digit integer": (f'{{"model":"auto",{TURNS},"seed":{"9" * 5000}}}'.encode(), BAD),
    "NaN": (f'{{"model":"auto",{TURNS},"temperature":NaN}}'.encode(), BAD),
    "beyond a float": (f'{{"model":"auto",{TURNS},"temperature":1e400}}'.encode(), BAD),
    "model twice": (f'{{"model":"auto","model":"other",{TURNS}}}'.encode(), BAD),
    "bad UTF-8": (b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}', BAD),
    "a lone surrogate": (b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', BAD),
    "no model": (f"{{{TURNS}}}".encode(), BAD),
    "model null": (f'{{"model":null,{TURNS}}}'.encode(), BAD),
    "model a number": (f'{{"model":1,{TURNS}}}'.encode(), BAD),
    "model empty": (f'{{"model":"",{TURNS}}}'.encode(), BAD),
    "an unknown model": (f'{{"model":"nope",{TURNS}}}'.encode(), Expected(404, "model_not_found")),
    "a model with a line feed": (f'{{"model":"a\\nb: c",{TURNS}}}'.encode(), Expected(404, "model_not_found")),
    "a long model": (f'{{"model":"{"a" * 100_000}",{TURNS}}}'.encode(), BAD),
    "a model it may not use": (f'{{"model":"forbidden",{TURNS}}}'.encode(), Expected(403, "model_not_allowed")),
    "no messages": (b'{"model":"auto"}', BAD),
    "messages empty": (b'{"model":"auto","messages":[]}', BAD),
    "messages null": (b'{"model":"auto","messages":null}', BAD),
    "stream a string": (f'{{"model":"auto",{TURNS},"stream":"yes"}}'.encode(), BAD),
}
TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "x" * 1000)


def bodies() -> Iterator[Shape]:
    """Bodies of all kinds, most of them none that holds a chat."""
    for name, (body, expected) in BODIES.items():
        yield shape(f"body {name}", post(body), expected)
    for media_type in TYPES:
        yield shape(f"a chat as {media_type[:40]!r}", post(content_type=media_type), OK)
    for path in ("/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions"):
        for name in ("empty", "not JSON", "an array", "deep", "bad UTF-8"):
            yield shape(f"{path} {name}", post(BODIES[name][0], path), BAD)
    zipped = post(b"\x1f\x8b\x08\x00", content_encoding="gzip")
    yield shape("a zipped body, then a chat", zipped + GOOD, CODING, OK)


# Keys.

CREDENTIALS: dict[str, Expected] = {
    f"Bearer {KEY}": OK,
    f"bearer {KEY}": OK,
    f"BEARER   {KEY}": OK,
    "": UNKNOWN_KEY,
    "Bearer": UNKNOWN_KEY,
    "Bearer ": UNKNOWN_KEY,
    KEY: UNKNOWN_KEY,
    f"Basic {KEY}": UNKNOWN_KEY,
    f"Bearer {KEY}x": UNKNOWN_KEY,
    f"Bearer {KEY[:-1]}": UNKNOWN_KEY,
    f"Bearer {KEY},": UNKNOWN_KEY,
    f"Bearer {KEY} {KEY}": UNKNOWN_KEY,
    f"Bearer {KEY.upper()}": UNKNOWN_KEY,
    "Bearer " + "a" * 5_000: UNKNOWN_KEY,
    "Bearer \xe9": UNKNOWN_KEY,
    "Bearer ' OR 1=1 --": UNKNOWN_KEY,
}


def credentials() -> Iterator[Shape]:
    """How a key may be shown; a wrong one is looked at before the body is."""
    for value, expected in CREDENTIALS.items():
        yield shape(f"key {value[:30]!r}", request("POST", CHAT, BODY, authorization=value), expected)
    yield shape("key in x-api-key", request("POST", CHAT, BODY, x_api_key=KEY), OK)
    yield shape(
        "two keys, the first right",
        request("POST", CHAT, BODY, authorization=f"Bearer {KEY}", Authorization="Bearer x"),
        OK,
    )
    yield shape(
        "two keys, the first wrong",
        request("POST", CHAT, BODY, authorization="Bearer x", Authorization=f"Bearer {KEY}"),
        UNKNOWN_KEY,
    )
    yield shape("key in the query", request("POST", f"{CHAT}?api_key={KEY}", BODY), UNKNOWN_KEY)
    yield shape(
        "key in a trailer", request("POST", CHAT, transfer_encoding="chunked") + b"0\r\n" + AUTH + b"\r\n", UNKNOWN_KEY
    )
    for path in ("/v1/models", "/v1/models/auto", "/v1/requests/req_1", "/v1/traces/1"):
        yield shape(f"no key for {path}", request("GET", path), UNKNOWN_KEY)
    for path in ("/metrics", "/docs", "/openapi.json"):
        yield shape(f"no key for {path} by another name", request("GET", path, host="other.example"), UNKNOWN_KEY)
        yield shape(f"no key for {path} from this machine", request("GET", path), OK)


# Who may come.

FOREIGN_CALLERS: dict[str, dict[str, str]] = {
    "another host": {"host": "evil.example"},
    "another host with a local origin": {"host": "evil.example", "origin": "http://localhost"},
    "another host as its own origin": {"host": "evil.example", "origin": "http://evil.example"},
    "a host that begins as ours": {"host": "localhost.evil.example"},
    "an address of elsewhere": {"host": "10.0.0.1:8080"},
    "every address": {"host": "0.0.0.0"},
    "a decimal address": {"host": "2130706433"},
    "another origin": {"origin": "https://evil.example"},
    "the origin null": {"origin": "null"},
    "an empty origin": {"origin": ""},
    "an origin that begins as ours": {"origin": "http://localhost.evil.example"},
    "a listed origin's other scheme": {"origin": "http://app.example"},
    "another site": {"sec_fetch_site": "cross-site"},
    "another site, said twice": {"sec_fetch_site": "cross-site", "Sec_Fetch_Site": "none"},
}
LOCAL_CALLERS: dict[str, dict[str, str]] = {
    "a program": {},
    "a program by address": {"host": "127.0.0.1:8080"},
    "a program over IPv6": {"host": "[::1]:8080"},
    "a program in capitals": {"host": "LOCALHOST"},
    "a program with a dot": {"host": "localhost."},
    "a listed name": {"host": "gw.example:1234"},
    "a local page": {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
    "a listed page": {"origin": PAGE, "sec_fetch_site": "cross-site"},
    "the page itself": {"host": "gw.example", "origin": "http://gw.example", "sec_fetch_site": "same-origin"},
    "the address bar": {"sec_fetch_site": "none"},
}
PREFLIGHT = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}


def callers() -> Iterator[Shape]:
    """Without keys, programs and pages of this machine and no others; with keys, whoever has one."""
    for name, told in FOREIGN_CALLERS.items():
        for asked in (
            request("POST", CHAT, BODY, content_type="text/plain", **told),
            request("GET", "/v1/models", **told),
            request("GET", "/metrics", **told),
        ):
            path = asked.split()[1].decode()
            yield replace(shape(f"{name}: {path}", asked + request("GET", "/healthz"), FOREIGN, OK), gateway="keyless")
        yield shape(f"{name}, with a key", request("POST", CHAT, BODY, **BEARER, **told), OK)
    for name, told in LOCAL_CALLERS.items():
        for asked in (request("POST", CHAT, BODY, **told), request("GET", "/metrics", **told)):
            yield replace(shape(f"{name}: {asked.split()[1].decode()}", asked, OK), gateway="keyless")
    old = b"GET /metrics HTTP/1.0\r\n\r\n"
    yield replace(shape("no host at all", old, FOREIGN, closes=True), gateway="keyless")
    absolute = request("GET", "http://evil.example/metrics")
    yield replace(shape("an absolute target of elsewhere", absolute, FOREIGN), gateway="keyless")
    for gateway in ("keyed", "keyless"):
        for origin, expected in ((PAGE, Expected(204)), ("https://evil.example", FOREIGN), ("null", FOREIGN)):
            asked = request("OPTIONS", CHAT, origin=origin, **PREFLIGHT)
            yield replace(shape(f"preflight of {origin}, {gateway}", asked, expected), gateway=gateway)


# Who takes his time, and who leaves.

LATE_HEAD = Expected(408)
HURRIED: dict[str, tuple[tuple[Any, ...], tuple[Expected, ...]]] = {
    "nothing": ((), ()),
    "blank lines": ((b"\r\n\r\n",), ()),
    "half a request line": ((b"GET /he",), (LATE_HEAD,)),
    "half a head": ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",), (LATE_HEAD,)),
    "half a head behind a chat": ((GOOD, b"GET /he"), (OK, LATE_HEAD)),
    "no body": ((request("POST", CHAT, content_length="10", **BEARER),), (SLOW_BODY,)),
    "half a body": ((GOOD[:-20],), (SLOW_BODY,)),
    "half a chunk": ((IN_CHUNKS + b"9\r\n{",), (SLOW_BODY,)),
    "chunks without an end": (
        (IN_CHUNKS + b"1\r\n{\r\n",),
        (SLOW_BODY,),
    ),
    "idle after a chat": ((GOOD,), (OK,)),
    "a large body, only announced": ((ANNOUNCED,), (TOO_LARGE,)),
    "a large body, without a key": ((request("POST", CHAT, content_length="9000000"),), (UNKNOWN_KEY,)),
    "half a body behind a refusal": ((request("POST", CHAT, content_length="10"), b"x"), (UNKNOWN_KEY,)),
}
LEAVING: dict[str, tuple[bytes, ...]] = {
    "before a byte": (),
    "in the request line": (b"GET /he",),
    "in the head": (GOOD[:60],),
    "in the body": (GOOD[:-20],),
    "behind a chat": (GOOD,),
    "behind a stream": (STREAMED,),
    "behind several": (STREAMED + GOOD + GET,),
    "behind garbage": (GOOD + GARBAGE,),
}


def patience() -> Iterator[Shape]:
    """Each wait has an end; leaving costs nobody anything."""
    for name, (sent, answers) in HURRIED.items():
        yield Shape(name=f"waits: {name}", sent=sent, answers=answers, stays_open=False, gateway="hurried")
    for name, sent in LEAVING.items():
        yield Shape(name=f"resets {name}", sent=(*sent, "reset"), answers=(), stays_open=False)
        yield Shape(name=f"ends {name}", sent=(*sent, "end"), answers=(), stays_open=False)
