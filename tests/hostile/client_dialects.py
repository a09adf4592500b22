"""Rows of the corpus of callers of Anthropic's Messages and OpenAI's Responses, whose errors are in their own dialect.

Bodies that are bad for every dialect are those of ``client_courses``, written for these endpoints.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from tests.ground.callers import request
from tests.hostile.client_courses import BODIES, CREDENTIALS, GARBAGE, GET, HEAD_OK, OK, TURNS, TYPES
from tests.hostile.shape import BAD, BEARER, CODING, KEY, METHOD, PROMPT, SLOW_BODY, UNKNOWN_KEY, Expected, Shape, post
from tests.hostile.shape import shape as row

MESSAGES, COUNT, RESPONSES, INPUT_TOKENS = ENDPOINTS = (
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/input_tokens",
)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
}
"""Of errors in Anthropic's dialect (platform.claude.com/docs/en/api/errors)."""
_ASKED = {
    "messages": f'"max_tokens":5,"messages":[{{"role":"user","content":"{PROMPT}"}}]',
    "responses": f'"input":"{PROMPT}"',
}
TOO_LARGE = Expected(413, "body_too_large")


def _dialect(path: str) -> str:
    return path.split("/")[2]


def said(path: str, expected: Expected) -> Expected:
    """Say what is expected in the dialect of an endpoint."""
    if _dialect(path) == "responses" or expected.status < 400:
        return expected
    return expected._replace(code=_TYPES[expected.status], dialect="anthropic")


def good(path: str, *, stream: bool = False) -> bytes:
    return f'{{"model":"auto","stream":{str(stream).lower()},{_ASKED[_dialect(path)]}}}'.encode()


def _written(path: str, body: bytes) -> bytes:
    """Write a body of a chat for another endpoint."""
    body = body.replace(TURNS.encode(), _ASKED[_dialect(path)].encode())
    return body if _dialect(path) == "messages" else body.replace(b'"messages":', b'"input":')


HI = {"role": "user", "content": "hi"}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
MESSAGES_BAD: dict[str, dict[str, object]] = {
    "max_tokens 0": {"max_tokens": 0},
    "max_tokens negative": {"max_tokens": -1},
    "max_tokens a text": {"max_tokens": "5"},
    "max_tokens true": {"max_tokens": True},
    "max_tokens a fraction": {"max_tokens": 1.5},
    "max_tokens huge": {"max_tokens": 2**70},
    "a message that is a number": {"messages": [7]},
    "a message that is null": {"messages": [None]},
    "a message without a role": {"messages": [{"content": "hi"}]},
    "a message of another role": {"messages": [{"role": "tool", "content": "hi"}]},
    "a role that is a number": {"messages": [{"role": 7, "content": "hi"}]},
    "a message without content": {"messages": [{"role": "user"}]},
    "content a number": {"messages": [{"role": "user", "content": 7}]},
    "content an object": {"messages": [{"role": "user", "content": {}}]},
    "a block that is a text": {"messages": [{"role": "user", "content": ["hi"]}]},
    "a block without a type": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
    "a block of another type": {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
    "a text without its text": {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "an image without its source": {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    "an image whose source is a text": {"messages": [{"role": "user", "content": [{"type": "image", "source": "x"}]}]},
    "a result without its call": {"messages": [{"role": "user", "content": [RESULT]}]},
    "a call without its id": {"messages": [HI, {"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
    "a result before its call": {
        "messages": [{"role": "user", "content": [RESULT]}, {"role": "assistant", "content": [CALL]}, HI]
    },
    "system a number": {"system": 7},
    "system of numbers": {"system": [7]},
    "tools a text": {"tools": "f"},
    "tools of numbers": {"tools": [7]},
    "a tool without a name": {"tools": [{"input_schema": {}}]},
    "a tool_choice of numbers": {"tool_choice": [7]},
    "a tool_choice of another type": {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "x"}},
    "thinking a text": {"thinking": "yes"},
    "a budget that is a text": {"thinking": {"type": "enabled", "budget_tokens": "x"}},
    "stop_sequences a number": {"stop_sequences": 7},
    "temperature a text": {"temperature": "hot"},
    "metadata a text": {"metadata": "x"},
}
OUTPUT = {"type": "function_call_output", "call_id": "t1", "output": "x"}
ITEM = {"type": "function_call", "call_id": "t1", "name": "f", "arguments": "{}"}
RESPONSES_BAD: dict[str, dict[str, object]] = {
    "max_output_tokens 0": {"max_output_tokens": 0},
    "max_output_tokens a text": {"max_output_tokens": "5"},
    "max_output_tokens true": {"max_output_tokens": True},
    "max_output_tokens huge": {"max_output_tokens": 2**70},
    "input a number": {"input": 7},
    "input an object": {"input": {}},
    "input of numbers": {"input": [7]},
    "input of nulls": {"input": [None]},
    "input an empty text": {"input": ""},
    "an item of another type": {"input": [{"type": "video"}]},
    "an item whose type is a number": {"input": [{"type": 7}]},
    "an item without a role": {"input": [{"content": "hi"}]},
    "an item of another role": {"input": [{"role": "tool", "content": "hi"}]},
    "an item without content": {"input": [{"role": "user"}]},
    "content a number": {"input": [{"role": "user", "content": 7}]},
    "a part that is a text": {"input": [{"role": "user", "content": ["hi"]}]},
    "a part of another type": {"input": [{"role": "user", "content": [{"type": "video"}]}]},
    "a text without its text": {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
    "an output without its call": {"input": [HI, OUTPUT]},
    "an output before its call": {"input": [HI, OUTPUT, ITEM]},
    "a call without an id": {"input": [HI, {"type": "function_call", "name": "f", "arguments": "{}"}]},
    "arguments that are no text": {"input": [HI, {**ITEM, "arguments": {}}, OUTPUT]},
    "background": {"background": True},
    "background a text": {"background": "x"},
    "a conversation": {"conversation": "conv_1"},
    "a previous response that is a number": {"previous_response_id": 7},
    "store a text": {"store": "x"},
    "instructions a number": {"instructions": 7},
    "tools a text": {"tools": "f"},
    "tools of numbers": {"tools": [7]},
    "a function without a name": {"tools": [{"type": "function"}]},
    "a hosted tool": {"tools": [{"type": "web_search"}]},
    "a tool_choice that is a number": {"tool_choice": 7},
    "text a number": {"text": 7},
    "a format of another type": {"text": {"format": {"type": "x"}}},
    "reasoning a text": {"reasoning": "high"},
    "effort a number": {"reasoning": {"effort": 7}},
}
BAD_BODIES = {"messages": MESSAGES_BAD, "responses": RESPONSES_BAD}


def bodies() -> Iterator[Shape]:
    """Bodies of all kinds, most of them none that an endpoint takes."""
    for path in ENDPOINTS:
        for name, (body, expected) in BODIES.items():
            if _dialect(path) == "responses" and name == "a form":
                continue
            yield row(f"{path}, body {name}", post(_written(path, body), path), said(path, expected))
        for name, members in BAD_BODIES[_dialect(path)].items():
            body = json.dumps(json.loads(good(path)) | members).encode()
            expected = OK if name in TAKEN.get(path, ()) else BAD
            yield row(f"{path}, {name}", post(body, path), said(path, expected))
        for media_type in TYPES:
            yield row(f"{path} as {media_type[:40]!r}", post(good(path), path, content_type=media_type), OK)
        zipped = post(b"\x1f\x8b\x08\x00", path, content_encoding="gzip")
        yield row(f"{path}, a zipped body, then a good one", zipped + post(good(path), path), said(path, CODING), OK)
        yield row(f"{path}, too large", post(b" " * 2_200_000, path), said(path, TOO_LARGE))


TAKEN: dict[str, frozenset[str]] = {
    COUNT: frozenset(
        {
            *("max_tokens 0", "max_tokens negative", "max_tokens huge", "thinking a text", "a budget that is a text"),
            *("a block of another type", "a text without its text", "an image without its source"),
            *("a result without its call", "a call without its id", "a result before its call"),
            *("tools a text", "tools of numbers", "a tool without a name", "a tool_choice of numbers"),
            *("a tool_choice of another type", "stop_sequences a number", "temperature a text", "metadata a text"),
        }
    ),
    INPUT_TOKENS: frozenset(
        {
            *("an item of another type", "a part of another type", "a text without its text", "a hosted tool"),
            *("an output without its call", "an output before its call", "a call without an id"),
            *("arguments that are no text", "a function without a name", "a tool_choice that is a number"),
            "a format of another type",
        }
    ),
}
"""What is bad for others and taken here: an estimate of tokens needs no more than the text."""


def heads() -> Iterator[Shape]:
    """Keys, methods and paths."""
    for path in ENDPOINTS:
        for value, expected in CREDENTIALS.items():
            sent = request("POST", path, good(path), authorization=value)
            yield row(f"{path}, key {value[:30]!r}", sent, said(path, expected))
        for key, expected in {KEY: OK, "x": UNKNOWN_KEY, "": UNKNOWN_KEY, KEY + "x": UNKNOWN_KEY}.items():
            sent = request("POST", path, good(path), x_api_key=key)
            yield row(f"{path}, key {key!r} in x-api-key", sent, said(path, expected))
        yield row(f"{path}, PUT", request("PUT", path, b"x", **BEARER), said(path, METHOD))
    unknown = Expected(404)
    for method, path in (
        *(("GET", "/v1/responses/resp_x"), ("DELETE", "/v1/responses/resp_x"), ("GET", "/v1/responses/%00")),
        *(("GET", "/v1/responses/resp_x/input_items"), ("POST", "/v1/responses/resp_x/cancel")),
        *(("GET", f"/v1/responses/{'a' * 5_000}"), ("GET", "/v1/responses/..%2f..%2fx")),
    ):
        yield row(f"{method} {path[:60]}", request(method, path, **BEARER), unknown)
        expected = unknown if "%2f" in path else UNKNOWN_KEY
        yield row(f"{method} {path[:60]} without a key", request(method, path), expected)
    body = b'{"model":"auto","previous_response_id":"resp_x","input":"hi"}'
    yield row("an unknown previous response", post(body, RESPONSES), unknown)
    yield row("a batch of messages", post(good(MESSAGES), "/v1/messages/batches"), said(MESSAGES, unknown))


def courses() -> Iterator[Shape]:
    """Several requests behind one another, uploads that end early, and callers who leave."""
    for path in ENDPOINTS:
        whole, refused = post(good(path), path), post(b"{", path)
        bad = said(path, BAD)
        yield row(f"{path}: refused, answered, a page", refused + whole + GET, bad, OK, OK)
        yield row(f"{path}: garbage behind it", whole + GARBAGE, OK, BAD, closes=True)
        yield row(f"{path}: byte by byte", tuple(whole[at : at + 1] for at in range(len(whole))), OK)
        announced = request("POST", path, **BEARER, content_length="9000000")
        chunked = request("POST", path, **BEARER, transfer_encoding="chunked")
        yield row(f"{path}: no size", chunked + b"no size\r\n", said(path, BAD), closes=True)
        for name, sent in {
            "no body": (announced.replace(b"9000000", b"10"),),
            "half a body": (whole[:-20],),
            "chunks without an end": (chunked + b"1\r\n{\r\n",),
        }.items():
            waits = row(f"{path}: waits, {name}", sent, said(path, SLOW_BODY), closes=True)
            yield replace(waits, gateway="hurried")
        large = row(f"{path}: told that it is too much", announced, said(path, TOO_LARGE), closes=True)
        yield replace(large, gateway="hurried")
        streamed = post(good(path, stream=True), path)
        for name, pieces in {
            "in the head": (whole[:60],),
            "in the body": (whole[:-20],),
            "behind it": (whole,),
            "behind a stream": (streamed,),
            "behind several": (streamed + whole + GET,),
        }.items():
            for how in ("reset", "end"):
                yield Shape(name=f"{path}: {how} {name}", sent=(*pieces, how), answers=(), stays_open=False)  # type: ignore[arg-type]
    for path in (MESSAGES, RESPONSES):
        streamed = post(good(path, stream=True), path)
        yield row(f"{path}: a stream, a page, an answer", streamed + GET + post(good(path), path), OK, OK, OK)
    yield row("HEAD of the root", request("HEAD", "/"), HEAD_OK)
