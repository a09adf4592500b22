"""Which headers prove a key, and what is said when they do not."""

import hashlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.static_keys import StaticKeys
from gateway.errors import ErrorKind, GatewayError
from gateway.types import Principal

KEY = "tw-right-key"
DEMO = Principal(key_id="demo")
KEYS = {hashlib.sha256(KEY.encode()).digest(): DEMO}


async def who(headers: Mapping[str, str], keys: Mapping[bytes, Principal] = KEYS) -> Principal:
    return await StaticKeys().authenticate(headers, keys)


async def refusal(headers: Mapping[str, str]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await who(headers)
    assert caught.value.kind is ErrorKind.AUTHENTICATION
    assert caught.value.status == 401
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"authorization": f"Bearer {KEY}", "api-key": "placeholder"},
        {"authorization": f"Bearer {KEY}", "x-api-key": "placeholder"},
        {"authorization": "Basic dXNlcjpwdw==", "x-api-key": KEY},
        {"authorization": "Bearer another-gateway's", "x-api-key": KEY},
        {"authorization": "Bearer another-gateway's", "x-api-key": "tw-wrong-key", "api-key": KEY},
        {"authorization": "Bearer ", "x-api-key": KEY},
        {"authorization": "Bearer", "x-api-key": "", "api-key": KEY},
        {"authorization": "Bearer tw-\x00wrong-key", "x-api-key": KEY},
        {"x-api-key": " ", "api-key": KEY},
    ],
)
async def test_key_is_known_by_each_header(headers: dict[str, str]) -> None:
    """OpenAI's SDK sends a bearer token, Anthropic's x-api-key, Azure's api-key; a proxy's Basic is no hindrance."""
    assert await who(headers) is DEMO


async def test_without_configured_keys_everyone_is_anonymous() -> None:
    """Any header or none; such a gateway listens on loopback only."""
    assert (await who({}, {})).key_id == "anonymous"
    assert (await who({"authorization": "Bearer \u00e9"}, {})).key_id == "anonymous"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "An API key is missing."),
        ({"authorization": ""}, "An API key is missing."),
        ({"authorization": "Bearer"}, "An API key is missing."),
        ({"authorization": "Bearer  "}, "An API key is missing."),
        ({"x-api-key": " "}, "An API key is missing."),
        ({"authorization": KEY}, "The Authorization header does not hold a bearer token."),
        ({"authorization": "Basic dXNlcjpwdw=="}, "The Authorization header does not hold a bearer token."),
        ({"authorization": "Bearer tw-wrong-key"}, "This API key is not known here."),
        ({"authorization": "Bearer tw-wrong-key", "x-api-key": "tw-too"}, "This API key is not known here."),
        ({"authorization": "Bearer ", "x-api-key": "tw-wrong-key"}, "This API key is not known here."),
        ({"authorization": "Bearer tw-\x00wrong-key", "x-api-key": "tw-wrong-key"}, "This API key is not known here."),
        ({"api-key": "tw-wrong-key"}, "This API key is not known here."),
        ({"x-api-key": "tw-wrong-key"}, "This API key is not known here."),
        ({"authorization": "Bearer tw-wr\u00f6ng-key"}, "The API key is malformed"),
        ({"authorization": "Bearer tw-\x00wrong-key"}, "The API key is malformed"),
        ({"x-api-key": "tw-wrong-key" * 1000}, "The API key is malformed"),
    ],
)
async def test_a_wrong_key_is_answered_with_what_to_send(headers: dict[str, str], said: str) -> None:
    """401, the way to do it right, and not a character of what was sent."""
    error = await refusal(headers)
    assert error.message.startswith(said)
    assert error.message.endswith("Send it as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'.")
    assert "tw-" not in error.message
    assert "dXNl" not in error.message


async def test_first_known_key_decides() -> None:
    other = Principal(key_id="other")
    keys = {**KEYS, hashlib.sha256(b"tw-other").digest(): other}
    assert await who({"x-api-key": KEY, "authorization": "Bearer tw-other"}, keys) is other
    assert await who({"x-api-key": KEY, "api-key": "tw-other"}, keys) is DEMO


@given(
    name=st.sampled_from(["authorization", "x-api-key", "api-key"]),
    value=st.text(alphabet=st.characters(max_codepoint=255)),
)
async def test_no_header_gets_in_or_crashes(name: str, value: str) -> None:
    """Any latin-1 value is refused as one, unless it is the key."""
    await refusal({name: value})
