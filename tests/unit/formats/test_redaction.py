"""What of an upstream's words passes: not what our configuration holds, and all that is no secret."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.redaction import by_shape, cleaner, first_sentence, without_own
from gateway.types import Secret
from tests.ground.builders import build_target

SECRET = "hunter2/pass=word"
PART = "part of/a secret"
"""A signer's own; ``v2`` is too short to be one."""
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
    without_own(error, TARGET, body, (PART, "v2"))
    return error


@pytest.mark.parametrize(
    "ours",
    [
        SECRET,
        SECRET.upper(),
        PART,
        quote(PART, safe=""),
        base64.b64encode(PART.encode()).decode(),
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
        "/inner/v1",
        "/INNER/v1/chat/completions",
        "/inner",
        "POST /inner/v1/models?x=1",
    ],
)
def test_own_secrets_and_addresses_are_taken_out_of_every_part(ours: str) -> None:
    """Message, parameter, code, and what goes to the log."""
    error = cleaned(f"no: {ours} is wrong")
    for part in (error.message, error.param, error.said):
        assert part is not None
        assert part.startswith("no: ")
        for canary in (
            SECRET.lower(),
            "hunter2",
            "team-token",
            "01jx2y3z",
            "abc123def",
            "corp.example",
            "ray-head",
            "/inner",
        ):
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
        "the /innermost/v1 is no address, nor is spinner/v1 or inner",
        "there is no /v1/chat/completions",
        "at [12:30:45] face:book and dict[a:b] of https://docs.example.org/a:b@c",
    ],
)
def test_words_that_are_no_secret_stay(harmless: str) -> None:
    """A long name of a tool, a model or a request is the caller's to read."""
    assert cleaned(harmless).message == harmless
    assert by_shape(harmless) == harmless


@pytest.mark.parametrize(
    "path", ["/accounts/0123456789abcdef/ai/v1", "/accounts%2F0123456789abcdef", "/v1/deployments/0123456789abcdef"]
)
def test_long_piece_of_a_path_is_taken_out_wherever_it_stands(path: str) -> None:
    """It is an account or a deployment; the path itself may come encoded or not."""
    target = build_target(base_url=f"https://api.example.com{path}")
    for said in ("the account 0123456789abcdef is closed", f"no route for {path}/chat/completions"):
        error = UpstreamError(ErrorKind.UPSTREAM_REJECTED, said, upstream_status=400, param=said)
        without_own(error, target, b"{}")
        assert "0123456789abcdef" not in f"{error.message} {error.param}"


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
    assert cleaned("No access to this model", body=b" " * 300_000).said is None


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("my secret plan for tomorrow", "Refused: my secret plan for tomorrow"),
        ("my secret plan for tomorrow", "Refused: MY SECRET, PLAN FOR... tomorrow"),
        ("hunter2", "no: hunter2"),
        ("4711", "The PIN 4711 is not to be said."),
        ('a "quoted"\nplan for tomorrow', 'Refused: a "quoted" plan for tomorrow'),
        ("geheime Pläne", "nein: geheime Pläne"),
        ("one very long story of which just a part comes back to us", "no: story of which just a part"),
    ],
)
def test_prompt_said_back_is_not_kept(prompt: str, said: str) -> None:
    """However short it is, and however JSON wrote it."""
    for body in ({"messages": [{"role": "user", "content": prompt}]}, {"tools": [{"x": {"description": prompt}}]}):
        for ascii_only in (True, False):
            assert cleaned(said, body=json.dumps(body, ensure_ascii=ascii_only).encode()).said is None


def test_prompt_of_a_form_said_back_is_not_kept() -> None:
    body = b"--form\r\n\r\nmy secret plan for tomorrow\r\n--form--"
    assert cleaned("no: my secret plan", body=body).said is None


def test_name_of_the_model_is_no_prompt() -> None:
    body = b'{"model": "gpt-4o-mini-2024-07-18", "messages": [{"role": "user", "content": "hi"}]}'
    said = "The model gpt-4o-mini-2024-07-18 does not exist."
    assert cleaned(said, body=body, status=404).said == said


@pytest.mark.parametrize(
    "ours",
    [
        "org-AbC123dEf456",
        "proj_AbC123dEf456",
        "9f86d081-884c-7d65-9a2f-eaa0c55ad015",
        "billing@corp.example.com",
        "https://console.example.com/teams/77/billing",
        "sk-proj-abcdef0123456789",
    ],
)
def test_said_holds_nothing_of_our_account(ours: str) -> None:
    """It stands in the record of a call, which its key may read."""
    assert cleaned(f"The account {ours} is closed.").said == "The account (redacted) is closed."


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a.",
        "a-",
        "a@",
        "eyJ-",
        "Bearer ",
        "sk-",
        "http://x/",
        "1.",
        "org-",
        " ",
        "0-",
        "[0:",
        "fd00:",
        "://a:",
        "ya29.",
    ],
)
def test_long_words_of_an_upstream_are_read_in_one_pass(piece: str) -> None:
    """A pattern that begins anew at each place of 64 KB takes minutes, in which the event loop stands."""
    for size in (1 << 12, 1 << 16):
        first_sentence(piece * (size // len(piece)))


def test_long_path_of_a_replica_is_read_in_one_pass() -> None:
    """A directory names it, not our configuration."""

    def cost_s(size: int) -> float:
        target = build_target(base_url=f"http://a.example{'/' * size}b")
        begun_s = time.process_time()
        cleaner(target)
        return time.process_time() - begun_s

    short_s, long_s = (min(cost_s(size + at) for at in range(3)) for size in (4_000, 16_000))
    assert long_s < 10 * short_s


@pytest.mark.parametrize("texts", [["a" * 12] * 4_000, ["abcdefghijk"] * 4_000, ["a" * 60_000], ["ab" * 30_000]])
def test_prompt_of_any_cut_is_compared_in_one_pass(texts: list[str]) -> None:
    """What a body costs depends on its size, not on how many pieces of the sentence are looked for in each text."""

    def cost_s(sentence: str) -> float:
        begun_s = time.process_time()
        assert cleaned(sentence, body=json.dumps(texts).encode()).said == sentence
        return time.process_time() - begun_s

    short_s, long_s = (
        min(cost_s(sentence) for _ in range(3)) for sentence in ("No: qwzx qwzx.", f"No: {39 * 'qwzx '}".strip())
    )
    assert long_s < 4 * short_s


@pytest.mark.parametrize("account", ["org_01jx2y3z4a5b6c7d8e9f", "org-abc123DEF456", "acct-1a2b3c4d"])
def test_number_of_an_account_is_taken_out(account: str) -> None:
    assert by_shape(f"Request too large in {account} on tokens") == "Request too large in (redacted) on tokens"
