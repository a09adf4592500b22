"""Which refusals are about streaming, and for how long a target that does not stream is remembered."""

import json

import pytest

from gateway.execution.unstreamed import REMEMBERED_S, Unstreamed, refuses_stream
from gateway.formats.openai.failure import failure_of_answer
from tests.ground.builders import build_target


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def error(message: str, **members: object) -> bytes:
    return json.dumps({"error": {"message": message, **members}}).encode()


UNVERIFIED = error(
    "Your organization must be verified to stream this model. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization.",
    type="invalid_request_error",
    param="stream",
    code="unsupported_value",
)
"""Of OpenAI (help.openai.com, "API organization verification")."""
UNSUPPORTED = error(
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported.",
    type="invalid_request_error",
    param="stream",
    code="unsupported_value",
)
"""Of OpenAI's first reasoning models."""
UNKNOWN_OPTIONS = error("Unrecognized request argument supplied: stream_options", type="invalid_request_error")
LISTED = b'{"detail":[{"loc":["body","stream_options"],"msg":"extra fields not permitted","type":"value_error.extra"}]}'
"""As FastAPI lists what is wrong with a body."""


@pytest.mark.parametrize(
    ("status", "body", "refuses"),
    [
        (400, UNVERIFIED, True),
        (400, UNSUPPORTED, True),
        (400, UNKNOWN_OPTIONS, True),
        (422, LISTED, True),
        (501, error("Streaming is not implemented."), True),
        (400, b"this server does not Stream", True),
        (400, error("temperature must be at most 2", param="temperature"), False),
        (400, error("the upstream sent no answer"), False),
        (400, b"", False),
        (500, error("cannot stream"), False),
        (429, error("too many streams"), False),
        (401, UNVERIFIED, False),
        (400, error("'stream of thought' is no role", param="messages[0].role"), False),
        (400, error("flagged: stream of insults", code="content_policy_violation"), False),
        (400, error("too long for this stream", code="context_length_exceeded"), False),
        (400, error("not with this model", param="stream_options"), True),
    ],
)
def test_refusal_of_a_stream_is_recognised(status: int, body: bytes, refuses: bool) -> None:
    """By a status that says what is wrong with the request, and the word; all others mean what they always mean."""
    assert refuses_stream(failure_of_answer(status, {}, body), body) is refuses


def test_target_is_remembered_for_ten_minutes() -> None:
    clock = HandClock()
    unstreamed, target = Unstreamed(clock), build_target()
    assert not unstreamed.holds(target)
    unstreamed.learn(target)
    clock.now_ns = round((REMEMBERED_S - 0.001) * 1e9)
    assert unstreamed.holds(target)
    clock.now_ns = round(REMEMBERED_S * 1e9)
    assert not unstreamed.holds(target)


def test_target_of_another_name_or_address_is_not_meant() -> None:
    unstreamed = Unstreamed(HandClock())
    unstreamed.learn(build_target())
    assert not unstreamed.holds(build_target("other"))
    assert not unstreamed.holds(build_target(base_url="http://elsewhere.test/v1"))


def test_memory_of_targets_is_bounded() -> None:
    """Names behind a wildcard are the callers': the oldest gives way, and one that is learnt again takes no place."""
    unstreamed = Unstreamed(HandClock())
    targets = [build_target(f"m{number}") for number in range(1030)]
    for target in (*targets, *targets[-10:]):
        unstreamed.learn(target)
    assert sum(map(unstreamed.holds, targets)) == 1024
    assert not unstreamed.holds(targets[0])
    assert unstreamed.holds(targets[6])
