"""What an upstream reports beside content and cannot be true is billed by an estimate, and the row says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from gateway.types import LedgerEntry
from tests.ground.configs import one_model
from tests.ground.script import Answer, json_answer, sse_event
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

TEXT = "eight bytes of text twice: 32 b."
REPORTS: dict[str, tuple[list[Any], tuple[bool, bool, str]]] = {
    # Whether the prompt and the output are the upstream's own 70 and 50, and whose count the row names.
    "good": ([{"prompt_tokens": 70, "completion_tokens": 50}], (True, True, "provider")),
    "no output": ([{"prompt_tokens": 70, "completion_tokens": 0}], (True, False, "estimated")),
    "prompt alone": ([{"prompt_tokens": 70}], (True, False, "estimated")),
    "total alone": ([{"total_tokens": 78}], (True, False, "estimated")),
    "total beside zeros": (
        [{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 78}],
        (True, False, "estimated"),
    ),
    "total behind nothing": ([{}, {"total_tokens": 78}], (True, False, "estimated")),
    "output alone": ([{"completion_tokens": 50}], (False, True, "estimated")),
    "no prompt": ([{"prompt_tokens": 0, "completion_tokens": 50}], (False, True, "estimated")),
    "zeros": ([{"prompt_tokens": 0, "completion_tokens": 0}], (False, False, "estimated")),
    "zeros behind good": (
        [{"prompt_tokens": 70, "completion_tokens": 50}, {"prompt_tokens": 0, "completion_tokens": 0}],
        (True, True, "provider"),
    ),
    "nonsense behind good": ([{"prompt_tokens": 70, "completion_tokens": 50}, "many"], (True, True, "provider")),
    "good behind nonsense": (["many", {"prompt_tokens": 70, "completion_tokens": 50}], (True, True, "provider")),
    "nothing behind good": ([{"prompt_tokens": 70, "completion_tokens": 50}, {}], (True, True, "provider")),
}


def streamed(reports: list[Any]) -> Answer:
    content = {"choices": [{"index": 0, "delta": {"content": TEXT}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usages = [{"choices": [], "usage": report} for report in reports]
    events = [sse_event(each) for each in (content, end, *usages)]
    return Answer(headers=(("content-type", "text/event-stream"),), chunks=[*events, b"data: [DONE]\n\n"])


def whole(reports: list[Any]) -> Answer:
    message = {"role": "assistant", "content": TEXT}
    return json_answer({"choices": [{"index": 0, "message": message}], "usage": reports[-1]})


def entry_of(answer: Answer, path: Path, *, stream: bool) -> LedgerEntry:
    async def scenario() -> LedgerEntry:
        upstream = ScriptedUpstream().on_path("/v1/chat/completions", answer)
        async with virtual_gateway(one_model("http://a.test"), path, {"http://a.test": upstream}) as running:
            assert (await running.chat(stream=stream)).status == 200
            (entry,) = running.ledger.entries
            return entry

    return run_virtual(scenario())


ONE_PIECE = [name for name, (reports, _) in REPORTS.items() if len(reports) == 1]
"""A whole answer has one report."""


@pytest.mark.parametrize(("name", "stream"), [(each, True) for each in REPORTS] + [(each, False) for each in ONE_PIECE])
def test_report_is_billed_as_far_as_it_can_be_true(name: str, tmp_path: Path, *, stream: bool) -> None:
    reports, (own_prompt, own_output, origin) = REPORTS[name]
    entry = entry_of(streamed(reports) if stream else whole(reports), tmp_path, stream=stream)
    assert (entry.usage.input_tokens == 70) is own_prompt
    assert entry.usage.input_tokens > 1
    assert entry.usage.output_tokens == (50 if own_output else len(TEXT) // 4)
    assert entry.usage.origin == entry.cost_origin == origin
    assert entry.cost_nano_usd == entry.usage.input_tokens * 1_000 + entry.usage.output_tokens * 2_000


@pytest.mark.parametrize("framing", ["whole", "events in one read"])
def test_answer_that_ends_in_a_failure_is_billed_in_either_framing(framing: str, tmp_path: Path) -> None:
    """Its content was made, whether or not the failure came in the same bytes."""
    choice = {"index": 0, "finish_reason": "network_error", "message": {"role": "assistant", "content": TEXT}}
    answer = json_answer({"choices": [choice], "usage": {"prompt_tokens": 70, "completion_tokens": 50}})
    if framing != "whole":
        events = streamed([{"prompt_tokens": 70, "completion_tokens": 50}])
        joined = b"".join(bytes(each) for each in events.chunks if isinstance(each, bytes))
        answer = replace(events, chunks=[joined.replace(b'"stop"', b'"network_error"')])

    async def scenario() -> LedgerEntry:
        upstream = ScriptedUpstream().on_path("/v1/chat/completions", answer)
        async with virtual_gateway(one_model("http://a.test"), tmp_path, {"http://a.test": upstream}) as running:
            assert (await running.chat(stream=framing != "whole")).status == 503
            return running.ledger.entries[0]

    entry = run_virtual(scenario())
    assert (entry.outcome, entry.usage.input_tokens > 1, entry.usage.output_tokens >= 8) == ("cut", True, True)
