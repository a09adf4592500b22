"""What an upstream says that it counted, in every shape: one row for each, with what it costs."""

import json
from typing import Any

import pytest

from gateway.formats.anthropic.answer import MessageDecoder
from gateway.formats.openai.answer import Tap
from gateway.formats.openai.chat_answer import Assembly
from gateway.formats.openai.transcription import read_transcript
from gateway.formats.sse import Splitter
from gateway.formats.usage import MAX_TOKENS, audio_ms, merged, tier_of, usage_of
from gateway.tariff import Rates, Usage, token_rates

NANO = {"input": 1_000_000_000, "cached_input": 100_000_000, "cache_write": 1_250_000_000, "output": 10_000_000_000}
RATES = Rates(**token_rates(NANO))
"""USD for a million tokens: input 1, output 10, cached input 0.1, written to a cache 1.25."""


def of(prompt: int | None, completion: int | None, total: int | None = None, **more: Any) -> dict[str, Any]:
    """Write a report as OpenAI does; ``cached`` and ``reasoning`` are details."""
    report = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    if "cached" in more:
        report["prompt_tokens_details"] = {"cached_tokens": more.pop("cached")}
    if "reasoning" in more:
        report["completion_tokens_details"] = {"reasoning_tokens": more.pop("reasoning")}
    return {name: value for name, value in report.items() if value is not None} | more


def classes(read: int, cached: int, wrote: int, thought: int = 0, written: int = 0, **more: Any) -> Usage:
    return Usage(
        input_tokens=read,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=wrote,
        reasoning_tokens=thought,
        **more,
    )


ZEROS = of(0, 0, 0, cached=0, reasoning=0)
ROUND = {"input_tokens": 40, "output_tokens": 20, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 8}
COMPACTION = {"type": "compaction", "input_tokens": 600, "output_tokens": 50}
BEHIND = {"cache_read_input_tokens": 900, "cache_creation_input_tokens": 40}
NESTED: dict[str, Any] = {}
for _ in range(2_000):
    NESTED = {"a": NESTED}
REPORTS: dict[str, tuple[list[Any], Usage, int]] = {
    "plain": ([of(100, 20, 120)], classes(100, 0, 20), 300_000),
    "ticks beyond a float": ([of(100, 20, 120) | {"cost_in_usd_ticks": 10**400}], classes(100, 0, 20), 300_000),
    "a cost beyond a float": ([of(100, 20, 120) | {"cost": 10**400}], classes(100, 0, 20), 300_000),
    "nested deeply, twice": ([of(100, 20, 120) | NESTED, of(100, 20, 120) | NESTED], classes(100, 0, 20), 300_000),
    "zeros behind": ([of(100, 20, 120), ZEROS], classes(100, 0, 20), 300_000),
    "zeros before": ([ZEROS, of(100, 20, 120)], classes(100, 0, 20), 300_000),
    "growing": ([of(100, 1, 101), of(100, 9, 109), of(100, 20, 120)], classes(100, 0, 20), 300_000),
    "in halves": ([of(100, None), of(None, 20)], classes(100, 0, 20), 300_000),
    "part in another report": ([of(100, 20, 120), of(100, 20, 120, cached=60)], classes(40, 60, 20), 246_000),
    "cached": ([of(100, 20, 120, cached=60)], classes(40, 60, 20), 246_000),
    "cached beside the prompt": ([of(479, 373, 14_164, cached=13_312)], classes(479, 13_312, 373), 5_540_200),
    "cached beside a longer prompt": ([of(500, 20, 620, cached=100)], classes(500, 100, 20), 710_000),
    "thinking in the total alone": ([of(35, 12, 109)], classes(35, 0, 12, 62), 775_000),
    "thinking beside": ([of(100, 20, 150, reasoning=30)], classes(100, 0, 20, 30), 600_000),
    "thinking and cache beside": ([of(100, 20, 650, cached=500, reasoning=30)], classes(100, 500, 20, 30), 650_000),
    "thinking within": ([of(100, 50, 150, reasoning=30)], classes(100, 0, 20, 30), 600_000),
    "audio beside the prompt": (
        [of(9, 248, 632, prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 375})],
        classes(9, 0, 248, audio_input_tokens=375),
        2_864_000,
    ),
    "output in the total alone": ([of(100, 0, 120)], classes(100, 0, 20), 300_000),
    "prompt in the total alone": ([of(0, 20, 120)], classes(100, 0, 20), 300_000),
    "total alone": ([of(None, None, 100)], classes(100, 0, 0), 100_000),
    "Mistral's cached": ([of(979, 161, 1140, num_cached_tokens=48)], classes(931, 48, 161), 2_545_800),
    "cached at the top": ([of(100, 20, 120, cached_tokens=60)], classes(40, 60, 20), 246_000),
    "DeepSeek's cached": ([of(100, 20, 120, prompt_cache_hit_tokens=60)], classes(40, 60, 20), 246_000),
    "one cache by two names": ([of(100, 20, 120, cached=60, prompt_cache_hit_tokens=60)], classes(40, 60, 20), 246_000),
    "written to a cache": (
        [of(100, 20, prompt_tokens_details={"cached_tokens": 60, "created_cache_tokens": 30})],
        classes(10, 60, 20, written=30),
        253_500,
    ),
    "Responses' names": (
        [{"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, "input_tokens_details": {"cached_tokens": 60},
          "output_tokens_details": {"reasoning_tokens": 30}}],
        classes(40, 60, 20, 30),
        546_000,
    ),
    "Anthropic's names": (
        [{"input_tokens": 100, "output_tokens": 20} | BEHIND], classes(100, 900, 20, written=40), 440_000,
    ),
    "Anthropic's names beside OpenAI's": ([of(1040, 20, 1060) | BEHIND], classes(100, 900, 20, written=40), 440_000),
    "Anthropic's hour": (
        [{"input_tokens": 100, "output_tokens": 20, "cache_creation": {"ephemeral_1h_input_tokens": 30}} | BEHIND],
        classes(100, 900, 20, written=10, cache_write_1h_tokens=30),
        440_000,
    ),
    "more cached than read": (
        [of(10, 20, 30, cached=161)], classes(0, 10, 20, origin="estimated"), 201_000,
    ),
    "more thought than written": (
        [of(100, 20, 120, reasoning=30)], classes(100, 0, 0, 20, origin="estimated"), 300_000,
    ),
    "more thought than written, both in the price": (
        [of(100, 20, 120, reasoning=30, cost=0.0006)],
        classes(100, 0, 20, 30, upstream_cost_nano_usd=600_000),
        600_000,
    ),
    "more thought than written, cut in the price": (
        [of(100, 20, 120, reasoning=30, cost=0.0003)],
        classes(100, 0, 0, 20, upstream_cost_nano_usd=300_000),
        300_000,
    ),
    "more cached than read, both in the price": (
        [of(100, 20, 120, cached=500, cost=0.00035)],
        classes(100, 500, 20, upstream_cost_nano_usd=350_000),
        350_000,
    ),
    "prompt that is no count": (
        [of(None, 20, 120, prompt_tokens="?")], classes(100, 0, 20, origin="estimated"), 300_000,
    ),
    "output that is no count": (
        [of(100, None, 120, completion_tokens=-1)], classes(100, 0, 20, origin="estimated"), 300_000,
    ),
    "neither is a count": (
        [of(None, None, 120, prompt_tokens="?", completion_tokens=-1)], classes(0, 0, 0, origin="estimated"), 0,
    ),
    "prompt that is no count beside thinking as long": (
        [of(None, 20, 30, prompt_tokens="?", reasoning=10)], classes(10, 0, 10, 10, origin="estimated"), 210_000,
    ),
    "part that is no count beside a longer total": (
        [of(479, 373, 14_164, cached="?")], classes(479, 0, 373, origin="estimated"), 4_209_000,
    ),
    "one iteration": ([ROUND | {"iterations": [ROUND]}], classes(40, 60, 20, written=8), 256_000),
    "compacted": (
        [{"input_tokens": 40, "output_tokens": 1}, ROUND | {"iterations": [COMPACTION, ROUND]}],
        classes(640, 60, 70, written=8),
        1_356_000,
    ),
    "iterations behind none": (
        [ROUND | {"iterations": []}, {"iterations": [ROUND, ROUND]}], classes(80, 120, 40, written=16), 512_000,
    ),
    "advised": (
        [ROUND | {"iterations": [ROUND, {"type": "advisor_message", "input_tokens": 100, "output_tokens": 10}]}],
        classes(140, 60, 30, written=8, origin="estimated"),
        456_000,
    ),
    "iterations that are none": (
        [ROUND | {"iterations": [7, {"output_tokens": -9, "cache_creation": 1}, None]}],
        classes(40, 60, 20, written=8),
        256_000,
    ),
    "prompt of zero": ([of(0, 20, 20)], classes(0, 0, 20, origin="estimated"), 200_000),
    "no prompt": ([of(None, 20)], classes(0, 0, 20, origin="estimated"), 200_000),
    "USD": ([of(100, 20, 120, cost=0.0123)], classes(100, 0, 20, upstream_cost_nano_usd=12_300_000), 300_000),
    "USD of the last report": (
        [of(100, 1, cost=0.001), of(100, 20, cost=0.0123)],
        classes(100, 0, 20, upstream_cost_nano_usd=12_300_000),
        300_000,
    ),
    "USD in parts": (
        [of(100, 20, 120, cost={"request_cost": 0.005, "total_cost": 0.00528})],
        classes(100, 0, 20, upstream_cost_nano_usd=5_280_000),
        300_000,
    ),
    "ticks": (
        [of(100, 20, 120, cost_in_usd_ticks=3_530_500)], classes(100, 0, 20, upstream_cost_nano_usd=353_050), 300_000,
    ),
    "own key at a router": (
        [of(100, 20, cost=0.0001, is_byok=True, cost_details={"upstream_inference_cost": 0.0002})],
        classes(100, 0, 20, upstream_cost_nano_usd=300_000),
        300_000,
    ),
    "own key at a router without a fee": (
        [of(100, 20, cost=0, is_byok=True, cost_details={"upstream_inference_cost": 0.0002})],
        classes(100, 0, 20, upstream_cost_nano_usd=200_000),
        300_000,
    ),
    "router's key": (
        [of(100, 20, cost=0.0001, is_byok=False, cost_details={"upstream_inference_cost": 0.0001})],
        classes(100, 0, 20, upstream_cost_nano_usd=100_000),
        300_000,
    ),
    "price of nothing": ([of(100, 20, 120, cost=0, cost_in_usd_ticks=0)], classes(100, 0, 20), 300_000),
    "price that is none": ([of(100, 20, 120, cost="much", cost_in_usd_ticks=[1])], classes(100, 0, 20), 300_000),
    "price beyond belief": ([of(100, 20, 120, cost=1e300)], classes(100, 0, 20), 300_000),
    "searches": (
        [of(100, 20, server_tool_use_details={"web_search_requests": 3})], classes(100, 0, 20, web_searches=3), 300_000,
    ),
    "details of another type": (
        [of(100, 20, prompt_tokens_details=None, completion_tokens_details=4)], classes(100, 0, 20), 300_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_an_answer_fall_into_disjoint_classes(name: str) -> None:
    """Each token is counted once and costs what its class costs; audio has no price of its own here."""
    reports, expected, cost = REPORTS[name]
    together = None
    for report in reports:
        together = merged(together, report)
    usage = usage_of(together, RATES)
    assert usage is not None
    assert usage == expected
    assert RATES.cost(usage) == cost


@pytest.mark.parametrize(
    ("report", "seen", "expected"),
    [
        (of(None, None, 100), (3, 32), classes(92, 0, 8, origin="estimated")),
        (of(None, None, 100, reasoning=30), (3, 32), classes(70, 0, 0, 30, origin="estimated")),
        (of(None, None, 5), (9, 36), classes(1, 0, 4, origin="estimated")),
        (of(None, None, 1), (9, 36), classes(1, 0, 0, origin="estimated")),
        (of(None, None, 100), (0, 0), classes(100, 0, 0)),
        (of(60, 0, 100), (3, 32), classes(60, 0, 40)),
    ],
)
def test_total_alone_includes_the_output_that_was_seen(
    report: dict[str, Any], seen: tuple[int, int], expected: Usage
) -> None:
    assert usage_of(report, RATES, seen) == expected


NO_COUNTS = (-1, -1_000_000_000, 1.5, 7.0, True, "7", [7], {"n": 7}, 2**31, 2**63, 10**30)
"""Not one of them may be billed, or break the ledger's columns."""


def openai(**counts: Any) -> Usage | None:
    """Read OpenAI's shape with these in place of good counts; ``cached`` and ``reasoning`` are parts."""
    values = {"prompt": 10, "completion": 4, "cached": None, "reasoning": None} | counts
    return usage_of(
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
    answer = MessageDecoder(Assembly(0), RATES, Splitter(), is_streamed=True)
    answer.read_whole(json.dumps(message).encode())
    return answer.usage


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize("read", [openai, anthropic])
def test_prompt_that_is_no_count_is_left_to_an_estimate(read: Any, value: object) -> None:
    assert read(prompt=value) == Usage(output_tokens=4, origin="estimated")


@pytest.mark.parametrize("value", NO_COUNTS)
def test_output_that_is_no_count_is_estimated(value: object) -> None:
    """OpenAI's shape is left to accounting; in Anthropic's the text's own size stands in for its output alone."""
    assert openai(completion=value) == Usage(input_tokens=10, origin="estimated")
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
    answer = MessageDecoder(Assembly(0), RATES, Splitter(), is_streamed=True)
    answer.read_whole(json.dumps(message).encode())
    assert answer.usage is None
    assert usage_of(merged(None, usage)) is None


def test_largest_count_of_tokens_is_accepted() -> None:
    assert openai(prompt=MAX_TOKENS) == Usage(input_tokens=MAX_TOKENS, output_tokens=4)


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
        {"prompt_tokens": 0, "completion_tokens": "7"},
        {"completion_tokens": True},
        {"tokens": 4},
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_bad_report_takes_nothing_from_a_good_one(bad: object, order: int) -> None:
    tap = Tap()
    for report in (GOOD, bad)[::order]:
        tap.read(json.dumps({"usage": report}).encode())
    assert tap.usage == Usage(input_tokens=10, output_tokens=4)


@pytest.mark.parametrize(
    "chunk",
    [
        {"usage": GOOD},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": GOOD}]},
        {"choices": [], "x_groq": {"id": "r", "usage": GOOD}},
    ],
)
def test_report_is_found_wherever_it_stands(chunk: dict[str, Any]) -> None:
    """At the top; in a choice, as Moonshot puts it; in Groq's own member."""
    tap = Tap()
    tap.read(json.dumps(chunk).encode())
    tap.read(b'{"choices": [], "x_groq": {"id": "r"}}')
    assert tap.usage == Usage(input_tokens=10, output_tokens=4)


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_empty_report_behind_a_good_one_says_nothing(nothing: object) -> None:
    tap = Tap()
    tap.read(json.dumps({"usage": GOOD}).encode())
    tap.read(json.dumps({"usage": nothing}).encode())
    assert tap.usage == Usage(input_tokens=10, output_tokens=4)


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


@pytest.mark.parametrize("name", [None, 7, ["flex"], {}, "\ud800", "fléx", "x" * 65])
def test_tier_that_is_none_is_none(name: object) -> None:
    """What is no short word of ASCII names no price."""
    assert (tier_of(name), tier_of("flex")) == (None, "flex")
    body = {"id": "m", "model": "m", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    answer = MessageDecoder(Assembly(0), RATES, Splitter(), is_streamed=True)
    answer.read_whole(json.dumps(body | {"usage": {"service_tier": None if name == "\ud800" else name}}).encode())
    assert answer.service_tier is None


@pytest.mark.parametrize("iterations", [7, True, 0.5, "many", {"type": "message"}])
def test_iterations_that_are_none_make_an_estimate(iterations: object) -> None:
    """They may have held what is in no other count; the rest of the report is read."""
    assert usage_of(GOOD | {"iterations": iterations}) == Usage(input_tokens=10, output_tokens=4, origin="estimated")
