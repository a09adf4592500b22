"""Sessions: what names one, and that what is kept of it is a key of ours."""

import json
from typing import Any

import pytest

from gateway.formats.session import named_session
from gateway.routing.sessions import Sessions


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"x-session-id": "s"}, {}, "s"),
        ({"session-id": " s "}, {}, "s"),
        ({"x-claude-code-session-id": "s"}, {"metadata": {"user_id": "u"}}, "s"),
        ({"x-session-affinity": "s"}, {"prompt_cache_key": "k"}, "s"),
        ({"x-session-affinity": "s", "x-session-id": "first"}, {}, "first"),
        ({"x-session-id": " "}, {"prompt_cache_key": "k"}, "k"),
        ({}, {"prompt_cache_key": "k", "metadata": {"user_id": "u"}}, "k"),
        ({}, {"prompt_cache_key": "", "metadata": {"user_id": "u", "other": 1}}, "u"),
        ({}, {"prompt_cache_key": "é😀"}, "é😀"),
        ({}, {"metadata": {"user_id": ""}}, None),
        ({}, {"metadata": {"tags": ["x"]}}, None),
        ({}, {"metadata": None, "prompt_cache_key": None}, None),
        ({}, {"metadata": "x"}, None),
        ({}, {"prompt_cache_key": 7}, None),
        ({"session": "s"}, {"model": "m"}, None),
    ],
)  # fmt: skip
def test_first_name_that_says_anything_is_the_sessions(
    headers: dict[str, str], body: dict[str, Any], expected: str | None
) -> None:
    """Headers come before members; what is empty or of another type names none."""
    assert named_session(headers, {name: json.dumps(value).encode() for name, value in body.items()}) == expected


def test_session_key_depends_on_secret_and_gateway_key_and_holds_no_name() -> None:
    """One name of two gateway keys is two sessions, and no two pairs run into one another."""
    one, other = Sessions(), Sessions()
    named = {"x-session-id": "alice@example.com"}
    keys = [
        one.key_of("a", named, {}),
        one.key_of("b", named, {}),
        other.key_of("a", named, {}),
        one.key_of("a", {"x-session-id": "balice"}, {}),
        one.key_of("ab", {"x-session-id": "alice"}, {}),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key is not None and len(key) == 32 and "alice" not in key for key in keys)
    other.secret = one.secret
    assert other.key_of("a", named, {}) == keys[0]
    assert one.key_of("a", {}, {}) is None
