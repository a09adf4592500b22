"""Every caller's dialect on every upstream's format: what is asked arrives, what is said is heard, and so are errors.

No socket: the codec alone. ``cases`` holds the table, ``asked``, ``heard`` and ``tests.ground.said`` what each side
writes and reads.
"""

import json
import re
from fnmatch import fnmatch
from typing import Any

import pytest

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.base import Decoder
from gateway.formats.registry import ENDPOINTS
from gateway.providers.registry import ADAPTERS
from gateway.types import Call, Target
from tests.contract import in_chat, in_messages, in_responses
from tests.contract.asked import Asked
from tests.contract.cases import CASES, Case, of_pair
from tests.ground.builders import build_call, build_target
from tests.ground.said import UPSTREAMS
from tests.ground.script import sse_event

_CALLERS = {"chat": in_chat, "messages": in_messages, "responses": in_responses}
_TARGETS = {"openai": in_chat, "vllm": in_chat, "anthropic": in_messages, "responses": in_responses}
_PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
_ENDPOINTS = {caller: next(each for each in ENDPOINTS if each.path == path) for caller, path in _PATHS.items()}
_FAILURES: dict[str, Any] = {
    "openai": {"error": {"message": "It broke.", "type": "server_error", "code": None, "param": None}},
    "vllm": {"error": {"message": "It broke.", "type": "InternalServerError", "code": 500, "param": None}},
    "anthropic": {"type": "error", "error": {"type": "api_error", "message": "It broke."}},
    "responses": {"error": {"message": "It broke.", "type": "server_error", "code": None, "param": None}},
}
"""Of an upstream, by its format."""
_IN_STREAM: dict[str, Any] = {
    "responses": {"type": "error", "sequence_number": 9, "code": "server_error", "message": "It broke.", "param": None}
}
"""And within a stream, where that is another."""
_PLAIN = Case("").said


class Pair:
    """One caller's dialect and one target."""

    def __init__(self, caller: str, format_name: str) -> None:
        self.caller, self.format = caller, format_name
        self.name = f"{caller} {format_name}"
        # Where a provider has both of OpenAI's APIs, a caller of Responses gets the other one (``responses``).
        is_asked_by_chat = (caller, format_name) == ("responses", "openai")
        self.adapter = ADAPTERS["openai-chat" if is_asked_by_chat else format_name]
        self.endpoint = _ENDPOINTS[caller]
        self.target: Target = build_target(
            adapter=format_name, upstream_model="m", capabilities=frozenset({"reasoning"})
        )

    def call(self, asked: Asked, *, stream: bool) -> Call:
        """Have the endpoint read a request, as a caller writes it."""
        body = {"model": "auto", **_CALLERS[self.caller].write(asked)}
        if stream:
            body |= {"stream": True} | ({"stream_options": {"include_usage": True}} if self.caller == "chat" else {})
        return build_call(self.endpoint.decode(json.dumps(body, ensure_ascii=False).encode()))

    def check_request(self, case: Case, *, stream: bool) -> Call | None:
        """Check what the upstream is asked, and return the call; None: the pair refuses it, by name."""
        call = self.call(case.asked, stream=stream)
        try:
            reason = self.adapter.refuses(call)
            request = self.adapter.prepare(call)(self.target, "att_1")
        except UpstreamError as error:
            reason = error.message if error.kind is ErrorKind.UPSTREAM_UNSUPPORTED else repr(error)
        expected = of_pair(case.refused, self.name)
        if expected or reason:
            assert re.search(expected or "^$", reason or ""), reason
            return None
        body = json.loads(request.body)
        assert (body["model"], body.get("stream", False)) == ("m", stream)
        sent = of_pair(case.sent, self.name) or {}
        assert _TARGETS[self.format].read(body) == case.asked._replace(**sent)
        return call

    def check_answer(self, case: Case, call: Call, size: int) -> None:
        """Check what the caller hears of an answer that comes in pieces of so many bytes."""
        stream = call.envelope.stream
        upstream = UPSTREAMS[self.format]
        if not stream:
            data = json.dumps(upstream.whole(case.said, "m"), ensure_ascii=False).encode()
            data = data[:-1] if case.cut else data
        else:
            events = list(upstream.events(case.said, "m"))
            if case.fails_after is not None:
                failure = _IN_STREAM.get(self.format, _FAILURES[self.format])
                events[case.fails_after :] = [sse_event(failure, event=failure.get("type"))]
            data = b"".join(events[:-4] if case.cut else events)
        got, error = _played(self.adapter.decoder(call, self.target), data, size)
        if case.cut or (case.fails_after is not None and stream):
            assert error is not None
            cut = {ErrorKind.UPSTREAM_CUT} if stream else {ErrorKind.UPSTREAM_CUT, ErrorKind.UPSTREAM_PROTOCOL}
            assert error.kind in (cut if case.cut else {ErrorKind.UPSTREAM_ERROR})
            if stream:
                self._check_broken(got, error)
            return
        assert error is None
        heard, ended, in_stream = _CALLERS[self.caller].hear(got, stream=stream)
        assert (ended, in_stream) == (True, None)
        assert heard == case.said._replace(**of_pair(case.heard, self.name) or {})

    def _check_broken(self, got: bytes, error: GatewayError) -> None:
        """Check that what had come is heard, then an error, and no end behind it."""
        last = self.endpoint.error(error, "req_1", in_stream=True)
        heard, ended, said = _CALLERS[self.caller].hear(got + last, stream=True)
        assert not ended
        assert said["message"] == error.message
        assert ("Hello, " * 9).startswith(heard.text)

    def check_failure(self, case: Case) -> None:
        """Check that an error of the upstream is one of the caller's dialect."""
        assert case.failed is not None
        failed = case.failed._replace(**of_pair(case.heard, self.name) or {})
        body = json.dumps(_failure(self.format, failed.message)).encode()
        headers = {} if failed.retry_after_s is None else {"retry-after": str(failed.retry_after_s)}
        error = self.adapter.failure(failed.status, headers, body, self.endpoint.operation)
        assert (error.kind, error.status, error.retry_after_s) == (
            failed.kind,
            failed.caller_status,
            failed.retry_after_s,
        )
        answer = json.loads(self.endpoint.error(error, "req_1"))
        assert answer["error"]["message"]
        if self.caller == "messages":
            assert (answer["type"], answer["request_id"]) == ("error", "req_1")


def _failure(format_name: str, message: str) -> Any:
    failure = _FAILURES[format_name]
    return {**failure, "error": {**failure["error"], "message": message}}


def _played(decoder: Decoder, data: bytes, size: int) -> tuple[bytes, UpstreamError | None]:
    """Feed it in pieces, as the relay does; return what the caller gets, and the error that ends it."""
    got = b""
    try:
        for at in range(0, len(data), size):
            got += decoder.feed(data[at : at + size])
        return got + decoder.finish(), None
    except UpstreamError as error:
        return got, error


@pytest.mark.parametrize("format_name", _TARGETS)
@pytest.mark.parametrize("caller", _CALLERS)
def test_pair_of_dialect_and_format_keeps_the_meaning(caller: str, format_name: str, subtests: pytest.Subtests) -> None:
    """Each case, streamed and whole; a stream comes in one piece, and in pieces that cut characters and lines apart."""
    pair = Pair(caller, format_name)
    for case in CASES:
        if case.callers != "*" and caller not in case.callers.split():
            continue
        with subtests.test(case.name):
            if case.failed is not None:
                pair.check_failure(case)
                continue
            for stream in (True, False):
                call = pair.check_request(case, stream=stream)
                if call is not None:
                    for size in (100_000, 3) if stream and case.said != _PLAIN else (100_000,):
                        pair.check_answer(case, call, size)


def test_no_name_stands_for_two_cases() -> None:
    """And patterns name pairs that there are, or what they say is never checked."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    pairs = [f"{caller} {format_name}" for caller in _CALLERS for format_name in _TARGETS]
    patterns = {pattern for case in CASES for by_pair in (case.sent, case.refused, case.heard) for pattern in by_pair}
    assert [pattern for pattern in patterns if not any(fnmatch(pair, pattern) for pair in pairs)] == []
