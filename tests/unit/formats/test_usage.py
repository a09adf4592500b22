"""What an upstream may claim to have counted, in every shape: a row for each value that is none."""

import json
from typing import Any

import pytest

from gateway.formats.anthropic.answer import Answer
from gateway.formats.openai.answer import Tap, read_usage
from gateway.formats.openai.chat_answer import Assembly
from gateway.formats.openai.transcription import read_transcript
from gateway.formats.usage import MAX_TOKENS, audio_ms, later
from gateway.tariff import Usage

NO_COUNTS = (-1, -1_000_000_000, 1.5, 7.0, True, "7", [7], {"n": 7}, 2**31, 2**63, 10**30)
"""Not one of them may be billed, or break the ledger's columns."""


def openai(**counts: Any) -> Usage | None:
    """Read OpenAI's shape with these in place of good counts; ``cached`` and ``reasoning`` are parts."""
    values = {"prompt": 10, "completion": 4, "cached": None, "reasoning": None} | counts
    return read_usage(
        {
            "prompt_tokens": values["prompt"],
            "completion_tokens": values["completion"],
            "prompt_tokens_details": {"cached_tokens": values["cached"]},
            "completion_tokens_details": {"reasoning_tokens": values["reasoning"]},
        }
    )


def anthropic(**counts: Any) -> Usage | None:
    """Read a whole message of Anthropic's with these; its text has eight bytes in one event."""
    values = {"prompt": 10, "completion": 4, "cached": None, "reasoning": None} | counts
    usage = {
        "input_tokens": values["prompt"],
        "output_tokens": values["completion"],
        "cache_read_input_tokens": values["cached"],
        "output_tokens_details": {"thinking_tokens": values["reasoning"]},
    }
    text = [{"type": "text", "text": "two word"}]
    message = {"id": "m", "model": "c", "content": text, "stop_reason": "end_turn", "usage": usage}
    answer = Answer(Assembly(0))
    answer.read_message(json.dumps(message).encode())
    return answer.usage


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize("read", [openai, anthropic])
def test_prompt_that_is_no_count_leaves_the_usage_to_an_estimate(read: Any, value: object) -> None:
    assert read(prompt=value) is None


@pytest.mark.parametrize("value", NO_COUNTS)
def test_output_that_is_no_count_is_estimated(value: object) -> None:
    """OpenAI's shape is left to accounting; in Anthropic's the text's own size stands in for its output alone."""
    assert openai(completion=value) is None
    assert anthropic(completion=value) == Usage(input_tokens=10, output_tokens=2, origin="estimated")


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize("read", [openai, anthropic])
@pytest.mark.parametrize("part", ["cached", "reasoning"])
def test_part_that_is_no_count_is_left_out_and_marked(read: Any, part: str, value: object) -> None:
    """What is left is billed at the class that it belongs to, and the row says that this is an estimate."""
    assert read(**{part: value}) == Usage(input_tokens=10, output_tokens=4, origin="estimated")


@pytest.mark.parametrize("value", NO_COUNTS)
def test_transcript_with_no_count_of_tokens_is_billed_by_its_length(value: object) -> None:
    body = json.dumps({"text": "hi", "usage": {"input_tokens": value}, "duration": 2.5})
    assert read_transcript(body.encode())[1] == Usage(audio_ms=2500)


@pytest.mark.parametrize("usage", [None, {}, [], 5, "many", {"input_tokens": None, "output_tokens": None}])
def test_usage_that_is_none_is_none(usage: object) -> None:
    message = {"id": "m", "model": "c", "content": [], "stop_reason": "end_turn", "usage": usage}
    answer = Answer(Assembly(0))
    answer.read_message(json.dumps(message).encode())
    assert answer.usage is None
    assert read_usage(usage) is None


def test_largest_count_is_one() -> None:
    assert openai(prompt=MAX_TOKENS) == Usage(input_tokens=MAX_TOKENS, output_tokens=4)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"completion_tokens": 26}, Usage(output_tokens=26, origin="estimated")),
        # Ollama, when the prompt was in its cache.
        ({"prompt_tokens": 0, "completion_tokens": 26}, Usage(output_tokens=26, origin="estimated")),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(origin="estimated")),
    ],
)
def test_usage_without_a_prompt_is_estimated(usage: Any, read: Usage) -> None:
    assert read_usage(usage) == read


def test_usage_of_anthropic_without_a_prompt_is_estimated() -> None:
    """One that was read from a cache alone is a prompt."""
    assert anthropic(prompt=0) == Usage(output_tokens=4, origin="estimated")
    assert anthropic(prompt=0, cached=10) == Usage(cached_input_tokens=10, output_tokens=4)


GOOD = {"prompt_tokens": 10, "completion_tokens": 4}


@pytest.mark.parametrize(
    "bad",
    [
        "many",
        [1],
        5,
        {"prompt_tokens": -1, "completion_tokens": 4},
        {"prompt_tokens": 10, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"completion_tokens": 4},
        {"tokens": 4},
    ],
)
def test_bad_report_behind_a_good_one_leaves_an_estimate(bad: object) -> None:
    """The counts that were known stand, and a good report that comes later is the provider's again."""
    tap = Tap()
    tap.read(json.dumps({"usage": GOOD}).encode())
    tap.read(json.dumps({"usage": bad}).encode())
    assert tap.usage == Usage(input_tokens=10, output_tokens=4, origin="estimated")
    tap.read(json.dumps({"usage": GOOD}).encode())
    assert tap.usage == Usage(input_tokens=10, output_tokens=4)


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_empty_report_behind_a_good_one_says_nothing(nothing: object) -> None:
    tap = Tap()
    tap.read(json.dumps({"usage": GOOD}).encode())
    tap.read(json.dumps({"usage": nothing}).encode())
    assert tap.usage == Usage(input_tokens=10, output_tokens=4)


def test_two_bad_reports_are_no_good_one() -> None:
    assert later(None, None) is None
    assert later(Usage(input_tokens=3, origin="estimated"), None) == Usage(input_tokens=3, origin="estimated")


@pytest.mark.parametrize(
    "seconds",
    [None, True, False, 0, -1, -0.5, 10**400, 2**31, float("inf"), float("nan"), "1_0", " 7", "7 ", "+7", "1e3", "٣",
     "", "9" * 400, "nan", [7], {"s": 7}],
)  # fmt: skip
def test_length_that_is_none_is_none(seconds: object) -> None:
    assert audio_ms(seconds) == 0


@pytest.mark.parametrize(("seconds", "ms"), [(7, 7000), (2.5, 2500), ("8.4700002670288086", 8470), ("7", 7000)])
def test_length_is_in_milliseconds(seconds: object, ms: int) -> None:
    assert audio_ms(seconds) == ms


@pytest.mark.parametrize("duration", ["1" + "0" * 400, "true", '"1_0"', "-1"])
def test_transcript_of_an_impossible_length_is_left_to_an_estimate(duration: str) -> None:
    body = b'{"text": "hi", "duration": %b}' % duration.encode()
    assert read_transcript(body)[1] is None
