"""What callers may send, byte by byte, and the answer that each is to get: a corpus that a line extends.

Here: methods and paths, request lines, headers, and how a body's length is told. What follows what, what is in a body
and who may come at all is in ``client_courses``; the runner is ``test_client_shapes``.
"""

from collections.abc import Iterator

from tests.ground.callers import request
from tests.hostile.shape import (
    AUTH,
    BAD,
    BEARER,
    BODY,
    CHAT,
    CODING,
    EXPECTATION,
    KEY,
    LARGE,
    LONG,
    METHOD,
    MISSING,
    OK,
    TE,
    VERSION,
    Expected,
    Shape,
    shape,
)

# Methods and paths.

MODEL_PATHS = (CHAT, "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions")
PAGE_PATHS = {
    "/healthz": OK,
    "/readyz": OK,
    "/metrics": OK,
    "/docs": OK,
    "/openapi.json": OK,
    "/v1/models": OK,
    "/v1/models/auto": OK,
    "/v1/models/nope": Expected(404, "model_not_found"),
    "/v1/requests/req_nope": MISSING,
    "/v1/traces/0af7651916cd43dd8448eb211c80319c": MISSING,
}
NOWHERE = ("/", "/v1", "/v1/", "/v2/models", "/v1/chat/completions/", "//v1/models", "/redoc", "/.env")
OTHER_METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE", "PROPFIND")


def methods() -> Iterator[Shape]:
    """Each path with the methods that it has, and with some that it has not."""
    for path in MODEL_PATHS:
        for method in ("GET", "HEAD", *OTHER_METHODS):
            expected = METHOD._replace(is_head=method == "HEAD")
            yield shape(f"{method} {path}", request(method, path, **BEARER), expected)
    for path, expected in PAGE_PATHS.items():
        yield shape(f"GET {path}", request("GET", path, **BEARER), expected)
        yield shape(f"HEAD {path}", request("HEAD", path, **BEARER), Expected(expected.status, None, True))
        for method in ("POST", *OTHER_METHODS):
            yield shape(f"{method} {path}", request(method, path, b"", **BEARER), METHOD)
    for path in NOWHERE:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            expected = MISSING._replace(is_head=method == "HEAD")
            if (method, path) == ("HEAD", "/"):  # Claude Code asks so whether the gateway is there
                expected = OK._replace(is_head=True)
            yield shape(f"{method} {path}", request(method, path, b"", **BEARER), expected)
    yield shape("OPTIONS *", request("OPTIONS", "*"), Expected(204))
    yield shape("GET *", request("GET", "*"), MISSING)


# Request lines.

REQUEST_LINES: dict[bytes, Expected | None] = {
    b"GET /healthz HTTP/1.1": OK,
    b"GET  /healthz HTTP/1.1": OK,
    b"GET /healthz?x=1&y=%00 HTTP/1.1": OK,
    b"GET /healthz#fragment HTTP/1.1": MISSING,
    b"GET /health%7A HTTP/1.1": OK,
    b"GET /%68ealthz HTTP/1.1": OK,
    b"GET /healthz%00 HTTP/1.1": MISSING,
    b"GET /healthz%2F HTTP/1.1": MISSING,
    b"GET /x/../healthz HTTP/1.1": MISSING,
    b"GET /%zz HTTP/1.1": MISSING,
    b"GET /%ff%fe HTTP/1.1": MISSING,
    b'GET /"<script> HTTP/1.1': MISSING,
    b"GET " + b"/" + b"a" * 20_000 + b" HTTP/1.1": MISSING,
    b"GET http://localhost/healthz HTTP/1.1": OK,
    b"GET HTTP://LOCALHOST:80/healthz HTTP/1.1": OK,
    b"GET http://localhost HTTP/1.1": MISSING,
    b"GET http:///healthz HTTP/1.1": BAD,
    b"GET http://u:p@localhost/healthz HTTP/1.1": BAD,
    b"GET http://[/healthz HTTP/1.1": BAD,
    b"GET ftp://localhost/healthz HTTP/1.1": BAD,
}
NO_REQUEST_LINES: dict[bytes, Expected] = {
    b"get /healthz HTTP/1.1": BAD,
    b"G\xc3\x8bT /healthz HTTP/1.1": BAD,
    b"BREW /healthz HTTP/1.1": BAD,
    b"GET": BAD,
    b"GET HTTP/1.1": BAD,
    b"GET healthz HTTP/1.1": BAD,
    b"GET \\healthz HTTP/1.1": BAD,
    b"GET /heal thz HTTP/1.1": BAD,
    b"GET /\x80 HTTP/1.1": BAD,
    b"GET /\x01 HTTP/1.1": BAD,
    b"GET /\x7f HTTP/1.1": BAD,
    b"GET /healthz\tHTTP/1.1": BAD,
    b"GET /healthz HTTP/1.1 ": BAD,
    b"GET /healthz HTTP/1.10": BAD,
    b"GET /healthz HTTP/1.x": BAD,
    b"GET /healthz http/1.1": BAD,
    b"GET /healthz HTTPS/1.1": BAD,
    b" GET /healthz HTTP/1.1": BAD,
    b"CONNECT localhost:80 HTTP/1.1": BAD,
    b"CONNECT /healthz HTTP/1.1": BAD,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": BAD,
    b"SSH-2.0-OpenSSH_9.6": BAD,
    b"*1\r\n$4\r\nPING": BAD,
    b"GET /healthz": VERSION,
    b"GET /healthz HTTP/0.9": VERSION,
    b"GET /healthz HTTP/1": VERSION,
    b"GET /healthz HTTP/1.2": VERSION,
    b"GET /healthz HTTP/2": VERSION,
    b"GET /healthz HTTP/2.0": VERSION,
    b"GET /healthz HTTP/3.0": VERSION,
    b"GET /healthz HTTP/9.9": VERSION,
    b"GET /" + b"a" * 33_000 + b" HTTP/1.1": LONG,
    b"GET /" + b"a" * 33_000: LONG,
}


def request_lines() -> Iterator[Shape]:
    """First lines that are ones, and that are none."""
    for line, expected in REQUEST_LINES.items():
        yield shape(f"line {line[:50]!r}", line + b"\r\nHost: localhost\r\n\r\n", expected or OK)
    for line, expected in NO_REQUEST_LINES.items():
        name = f"no line of {len(line)} bytes, {line[:50]!r}"
        yield shape(name, line + b"\r\nHost: localhost\r\n\r\n", expected, closes=True)
    yield shape("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VERSION, closes=True)
    yield shape("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", OK, closes=True)
    yield shape("HTTP/1.0 keep-alive", b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", OK, closes=True)
    yield shape("blank lines before", b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", OK)
    yield shape("bare line feeds", b"GET /healthz HTTP/1.1\nHost: localhost\n\n", BAD, closes=True)


# Headers.

HEADERS: dict[bytes, Expected] = {
    b"X: \xff\xe9": OK,
    b"X:y": OK,
    b"X: y \t ": OK,
    b"X:": OK,
    b"X: " + b"a" * 30_000: OK,
    b"\r\n".join(b"X-%d: y" % number for number in range(2000)): OK,
    b"X: y\r\nx: z\r\nX: y": OK,
    b"Cookie: a=b; c=d": OK,
    b"Connection: keep-alive": OK,
    b"Connection: keep-alive, upgrade\r\nUpgrade: websocket": OK,
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk": OK,
    b"Content-Encoding: identity": OK,
    b"Content-Encoding: ": OK,
    b"Content-Encoding: gzip": CODING,
    b"Content-Encoding: GZIP": CODING,
    b"Content-Encoding: identity, br": CODING,
    b"Content-Encoding: zstd\r\nContent-Encoding: identity": CODING,
    b"Expect: 100-continue": OK,
    b"Expect: 100-Continue": OK,
    b"Expect: 200-ok": EXPECTATION,
    b"Expect: 100-continue, 200-ok": EXPECTATION,
    b"Accept: application/xml": OK,
    b"Accept-Encoding: gzip;q=0": OK,
    b"Range: bytes=0-1": OK,
    b"If-None-Match: *": OK,
    b"If-Modified-Since: yesterday": OK,
    b"Max-Forwards: 0": OK,
    b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: evil.example\r\nForwarded: host=evil": OK,
    b"X-HTTP-Method-Override: DELETE": OK,
    b"X-Original-URL: /metrics": OK,
    b"traceparent: 00-x": OK,
    b"Date: never": OK,
}
NO_HEADERS: dict[bytes, Expected] = {
    b"X: a\x00b": BAD,
    b"X: \x01": BAD,
    b"X: \x7f": BAD,
    b"X\x00: a": BAD,
    b"X y: a": BAD,
    b"X : a": BAD,
    b"X\t: a": BAD,
    b": a": BAD,
    b"X": BAD,
    b"(X): a": BAD,
    b"\xe9: a": BAD,
    b"X: a\r\n folded": BAD,
    b"X: a\r\n\tfolded": BAD,
    b"X: a\nY: b": BAD,
    b"X: a\rY: b": BAD,
    b"X: a\r\r\nY: b": BAD,
    b"Host: localhost": BAD,
    b"hOST: other": BAD,
    b"X: " + b"a" * 33_000: LARGE,
    b"X" * 33_000 + b": a": LARGE,
    b"\r\n".join(b"X-%d: yyyy" % number for number in range(4000)): LARGE,
    b"Connection: upgrade\r\nUpgrade: h2c\r\nX: " + b"a" * 33_000: LARGE,
    b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: gzip": BAD,
    b"Connection: upgrade\r\nUpgrade: h2c\r\nHost: localhost": BAD,
}
HOSTS: dict[bytes, bool] = {
    b"localhost": True,
    b"a.b-c_d~e:65535": True,
    b"[::1]:8080": True,
    b"10.0.0.1": True,
    b"%41.example": True,
    b"localhost \t": True,
    b"": False,
    b"a b": False,
    b"a:b": False,
    b"a:123456": False,
    b"u@a": False,
    b"a/b": False,
    b"a,b": True,
    b"a, b": False,
    b"http://a": False,
    b"::1": False,
    b"[::1": False,
    b"[::1%25lo]": False,
    b"%4": False,
    b"a?b": False,
    b"\xe9": False,
}


def headers() -> Iterator[Shape]:
    """Fields beside a whole chat: served as ever, refused for what they ask, or no fields at all."""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n" % (CHAT.encode(), AUTH, len(BODY))
    for field, expected in HEADERS.items():
        yield shape(f"field {field[:50]!r}", head + field + b"\r\n\r\n" + BODY, expected)
    for field, expected in NO_HEADERS.items():
        yield shape(f"no field {field[:60]!r}", head + field + b"\r\n\r\n" + BODY, expected, closes=True)
    for host, good in HOSTS.items():
        sent = b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        yield shape(f"host {host!r}", sent, OK if good else BAD, closes=not good)
    yield shape("no host", b"GET /healthz HTTP/1.1\r\n\r\n", BAD, closes=True)
    yield shape("host twice in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", BAD, closes=True)
    yield shape("head without host", b"HEAD /healthz HTTP/1.1\r\n\r\n", Expected(400, None, True), closes=True)
    blank = request("GET", "/v1/models", authorization=f"Bearer {KEY} \t ")
    yield shape("blanks behind the key", blank, OK)


# Framing of bodies.

SIZE = b"%x\r\n" % len(BODY)
CHUNKED = SIZE + BODY + b"\r\n0\r\n\r\n"

FRAMINGS: dict[bytes, tuple[bytes, Expected]] = {
    TE: (CHUNKED, OK),
    b"Transfer-Encoding: Chunked": (CHUNKED, OK),
    b"Transfer-Encoding: chunked  ": (CHUNKED, OK),
    b"Content-Length: %d " % len(BODY): (BODY, OK),
    b"Content-Length: 000%d" % len(BODY): (BODY, OK),
    b"Content-Length: 0": (b"", BAD),
    b"X: no framing": (b"", BAD),
}
CHUNKS: dict[str, bytes] = {
    "one by one": b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
    "with extensions": SIZE[:-2] + b";a=b;c\r\n" + BODY + b"\r\n0;d\r\n\r\n",
    "with zeros": b"000" + CHUNKED,
    "in capitals": SIZE.upper() + BODY + b"\r\n0\r\n\r\n",
    "with trailers": SIZE + BODY + b"\r\n0\r\nX: y\r\nAuthorization: Bearer wrong\r\nHost: evil\r\n\r\n",
}
NO_FRAMINGS: dict[bytes, tuple[bytes, Expected]] = {
    b"Content-Length: 2\r\n" + TE: (b"0\r\n\r\n", BAD),
    TE + b"\r\nContent-Length: 2": (b"0\r\n\r\n", BAD),
    b"Transfer-Encoding: gzip, chunked": (CHUNKED, BAD),
    b"Transfer-Encoding: chunked, gzip": (CHUNKED, BAD),
    b"Transfer-Encoding: chunked, chunked": (CHUNKED, BAD),
    TE + b"\r\n" + TE: (CHUNKED, BAD),
    b"Transfer-Encoding: gzip\r\n" + TE: (CHUNKED, BAD),
    b"Transfer-Encoding: identity": (BODY, BAD),
    b"Transfer-Encoding: xchunked": (CHUNKED, BAD),
    b"Transfer-Encoding: chunked;q=1": (CHUNKED, BAD),
    b"Transfer-Encoding: chunked\t": (CHUNKED, BAD),
    b"Transfer-Encoding:": (CHUNKED, BAD),
    b"Transfer-Encoding : chunked": (CHUNKED, BAD),
    b"Transfer-Encoding:\x0bchunked": (CHUNKED, BAD),
    b"Content-Length: 5\r\nContent-Length: 5": (b"hello", BAD),
    b"Content-Length: 5\r\nContent-Length: 6": (b"hello", BAD),
    b"Content-Length: 5, 5": (b"hello", BAD),
    b"Content-Length: +5": (b"hello", BAD),
    b"Content-Length: -5": (b"hello", BAD),
    b"Content-Length: 0x5": (b"hello", BAD),
    b"Content-Length: 5.0": (b"hello", BAD),
    b"Content-Length: 5 5": (b"hello", BAD),
    b"Content-Length:": (b"hello", BAD),
    b"Content-Length : 5": (b"hello", BAD),
    b"Content-Length: 99999999999999999999": (b"hello", BAD),
}
NO_CHUNKS: dict[bytes, Expected] = {
    b"\r\n": BAD,
    b"g\r\n": BAD,
    b"-1\r\n": BAD,
    b"0x1\r\nx\r\n0\r\n\r\n": BAD,
    b"1 \r\nx\r\n0\r\n\r\n": BAD,
    b"1\nx\n0\n\n": BAD,
    b"1\r\nxx\r\n0\r\n\r\n": BAD,
    b"2\r\nx\r\n0\r\n\r\n": BAD,
    b"1\r\nx0\r\n\r\n": BAD,
    b"ffffffffffffffffff\r\n": BAD,
    b"1;\x00\r\nx\r\n": BAD,
    b'1;a="b\r\n': BAD,
    b"1;" + b"a" * 40_000: LARGE,
    b"0\r\nX y\r\n\r\n": BAD,
    b"0\r\nX: " + b"a" * 40_000: LARGE,
}


def framings() -> Iterator[Shape]:
    """How a body's length is told; two ways to read one message are no way."""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b" % (CHAT.encode(), AUTH)
    for field, (body, expected) in FRAMINGS.items():
        yield shape(f"framing {field!r}", (head + field + b"\r\n\r\n", body), expected)
    for name, body in CHUNKS.items():
        yield shape(f"chunks {name}", head + TE + b"\r\n\r\n" + body, OK)
    for field, (body, expected) in NO_FRAMINGS.items():
        smuggled = body + request("GET", "/smuggled")
        yield shape(f"no framing {field!r}", head + field + b"\r\n\r\n" + smuggled, expected, closes=True)
    for chunk, expected in NO_CHUNKS.items():
        smuggled = chunk + (b"" if expected is LARGE else request("GET", "/smuggled"))
        yield shape(f"no chunk {chunk[:40]!r}", head + TE + b"\r\n\r\n" + smuggled, expected, closes=True)
    old = b"POST %b HTTP/1.0\r\n%b%b\r\n\r\n%b" % (CHAT.encode(), AUTH, TE, CHUNKED)
    yield shape("chunks in HTTP/1.0", old, BAD, closes=True)
    short = b"POST %b HTTP/1.0\r\n%bContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), AUTH, len(BODY), BODY)
    yield shape("a length in HTTP/1.0", short, OK, closes=True)
