"""What of an upstream's words passes: not what our configuration holds, and all that is no secret."""

import base64

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.providers.redaction import by_shape, without_own
from gateway.types import Secret
from tests.ground.builders import build_target

SECRET = "hunter2/pass=word"
TARGET = build_target(
    base_url="https://models.corp.example:8443/inner/v1",
    credential=Secret(SECRET),
    headers=(("x-team", "team-token-77"), ("x-env", "prod")),
    cluster_url="http://ray-head:8265",
)


def cleaned(text: str, *, body: bytes = b"{}", status: int = 401) -> UpstreamError:
    """Put a text into every part of an error, and take our own out of it."""
    kind = ErrorKind.UPSTREAM_CREDENTIALS
    error = UpstreamError(kind, text, upstream_status=status, param=text, code=text, said=text)
    without_own(error, TARGET, body)
    return error


@pytest.mark.parametrize(
    "ours",
    [
        SECRET,
        SECRET.upper(),
        f"Bearer {SECRET}",
        "hunter2%2Fpass%3Dword",
        base64.b64encode(SECRET.encode()).decode(),
        "team-token-77",
        "models.corp.example",
        "MODELS.corp.example:8443",
        "https://models.corp.example:8443/inner/v1/chat/completions",
        "models.corp.example.",
        "http://ray-head:8265/api",
        "ray-head:8265",
    ],
)
def test_own_secrets_and_addresses_are_taken_out_of_every_part(ours: str) -> None:
    """Message, parameter, code, and what goes to the log."""
    error = cleaned(f"no: {ours} is wrong")
    for part in (error.message, error.param, error.said):
        assert part is not None
        assert part.startswith("no: ")
        for canary in (SECRET.lower(), "hunter2", "team-token", "corp.example", "ray-head"):
            assert canary not in part.lower()
    assert error.upstream_code is None


@pytest.mark.parametrize(
    "harmless",
    [
        "get_the_weather_forecast_for_a_location_and_a_range_of_dates failed",
        "the tool hf_upload_dataset_to_the_hub_2 is unknown",
        "pk_lookup_by_customer is no function",
        "Bearer token required",
        "prod is no environment",
        "the ray-head is a fish",
        "see https://platform.example.org/docs",
        "chatcmpl-9f86d081-884c-7d65-9a2f-eaa0c55ad015-extra",
    ],
)
def test_words_that_are_no_secret_stay(harmless: str) -> None:
    """A long name of a tool, a model or a request is the caller's to read."""
    assert cleaned(harmless).message == harmless
    assert by_shape(harmless) == harmless


@pytest.mark.parametrize("code", ["model_not_found", "rate_limit_exceeded", "context_length_exceeded"])
def test_code_of_an_api_stays(code: str) -> None:
    assert cleaned(code).upstream_code == code


@pytest.mark.parametrize("before", range(1_980, 2_001))
def test_secret_across_the_end_of_a_long_message_is_taken_out(before: int) -> None:
    """The message is cut behind it, not within it."""
    message = cleaned("x" * before + " " + SECRET + " and more").message
    assert len(message) <= 2_000
    assert "hunter" not in message


@pytest.mark.parametrize("status", [400, 429, 500, 502, 503])
def test_words_of_other_faults_are_not_logged(status: int) -> None:
    """They may be the caller's own, in an encoding in which they are not recognised."""
    assert cleaned("cannot do: my secret plan", status=status).said is None


def test_name_of_a_parameter_has_a_bound() -> None:
    assert len(cleaned("p " * 5_000).param or "") == 200


def test_said_is_one_sentence_and_nothing_of_the_callers() -> None:
    """The log is no place for prompts, whoever repeats them."""
    assert cleaned("The key is revoked. Write to us at once.").said == "The key is revoked."
    assert cleaned("Broken\x1b[31m\ttext\nsecond line").said == "Broken?[31m?text"
    prompt = b'{"messages":[{"role":"user","content":"my secret plan for tomorrow"}]}'
    assert cleaned("Refused: my secret plan for tomorrow", body=prompt).said is None
    assert cleaned("No access to this model", body=b" " * 300_000).said is None
