"""The command that plays recorded exchanges finds what differs, and nothing where nothing does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.recorded.__main__ import report
from tests.recorded.asked import Asked, send
from tests.recorded.callers import DIALECTS
from tests.recorded.compare import CLASSES, compare
from tests.recorded.money import bill_of
from tests.recorded.play import Played, play
from tests.recorded.reading import Reading, Said, Tool, read_bytes
from tests.recorded.recording import Recording, load

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
CALL = {"id": "call_1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}
MESSAGE = {"role": "assistant", "content": "four", "reasoning": "2 + 2", "tool_calls": [CALL]}
WHOLE = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}], "usage": USAGE}
CHUNKS = [
    {"choices": [{"index": 0, "delta": MESSAGE | {"tool_calls": [CALL | {"index": 0}]}}]},
    {"choices": [{"index": 0, "delta": {"content": " and"}, "finish_reason": "tool_calls"}], "usage": USAGE},
]
REASONED = {"completion_tokens_details": {"reasoning_tokens": 5}}
EVENTS = [f"data: {json.dumps(chunk)}\n\n" for chunk in CHUNKS]


def exchange(folder: Path, name: str, operation: str = "chat", status: int = 200, **response: Any) -> None:
    file = folder / "example" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    answer = {"status": status, "headers": {}, **response}
    file.write_text(json.dumps({"provider": "example", "operation": operation, "response": answer}))


async def test_recorded_answers_are_handed_on_and_billed_as_they_are(tmp_path: Path) -> None:
    recordings, state = tmp_path / "recordings", tmp_path / "state"
    recordings.mkdir()
    state.mkdir()
    exchange(recordings, "1-whole", body=json.dumps(WHOLE))
    exchange(recordings, "2-stream", chunks=[*EVENTS, "data: [DONE]\n\n"])
    exchange(recordings, "3-refused", status=400, body='{"error": {"message": "no such thing"}}')
    exchange(recordings, "4-later", operation="speech", body="{}")
    found, not_yet = load(recordings)
    plays = await play(found, state)
    modes = [(mode, caller) for mode in ("whole", "streamed", "assembled", "whole") for caller in DIALECTS]
    assert [(each.mode, each.caller) for each in plays] == modes
    assert not [difference for each in plays for difference in compare(each).differences]
    assert "| example | 3 | 3 | 3 | 6 | 0 | 1 |" in report([(each, compare(each)) for each in plays], not_yet)


async def test_recorded_requests_go_up_as_they_are_or_are_refused(tmp_path: Path) -> None:
    body = b'{"input": "four",  "model": "m"%s}'
    bodies = [body % member for member in (b', "store": false', b', "input": 4')]
    requests = [Asked("example/one", "responses", "/v1/responses", {}, each, 200) for each in bodies]
    await send(requests, tmp_path)
    assert [(each.changed, bool(each.refused), each.is_wrong) for each in requests] == [
        ("", False, False),
        ("", True, True),
    ]


def true_play(status: int = 200) -> Played:
    """Return a play of which everything is as recorded."""
    body = json.dumps(WHOLE).encode()
    recording = Recording("example/one", "example", "chat", "", status, (), (body,), streamed=False)
    row = (
        dict.fromkeys(CLASSES, 0)
        | {"input_tokens": 100, "output_tokens": 20, "usage_origin": "provider"}
        | {"upstream_cost_nano_usd": 0}
    )
    row |= {"cost_nano_usd": 300_000 if status == 200 else 0}
    return Played(0, recording, "whole", read_bytes("chat", status, body, streamed=False), row)


@pytest.mark.parametrize(
    ("what", "lie"),
    [
        ("text", {"text": "five"}),
        ("reasoning", {"reasoning": ""}),
        ("tools", {"tools": [Tool("call_1", "sum", '{"a": 2}')]}),
        ("finish", {"finish": "stop"}),
    ],
)
def test_difference_in_an_answer_is_found(what: str, lie: dict[str, Any]) -> None:
    each = true_play()
    assert compare(each).differences == []
    each.saw.choices[0] = replace(each.saw.choices[0], **lie)
    assert [difference.what for difference in compare(each).differences] == [what]


@pytest.mark.parametrize(
    ("what", "column", "value"),
    [
        ("usage billed", "output_tokens", 19),
        ("cost", "cost_nano_usd", 1),
        ("origin", "usage_origin", "estimated"),
        ("upstream's price", "upstream_cost_nano_usd", 1),
    ],
)
def test_difference_in_the_bill_is_found(what: str, column: str, value: object) -> None:
    each = true_play()
    each.row[column] = value
    assert [difference.what for difference in compare(each).differences] == [what]


CALLED = {"name": "sum", "arguments": "{}"}
DOTTED = {"id": "sum.1", "type": "function", "function": CALLED}


@pytest.mark.parametrize(
    ("caller", "message", "finish", "told"),
    [
        ("messages", {"content": "", "refusal": "no"}, "stop", Said(text="no", finish="content_filter")),
        ("responses", {"content": "", "refusal": "no"}, "stop", Said(refusal="no", finish="stop")),
        (
            "messages",
            {"tool_calls": [DOTTED]},
            None,
            Said(tools=[Tool("sum_2e_1", "sum", "{}")], finish="tool_calls"),
        ),
        ("responses", {"tool_calls": [DOTTED]}, "stop", Said(tools=[Tool("sum.1", "sum", "{}")], finish="tool_calls")),
        ("messages", {"function_call": CALLED}, "function_call", Said(tools=[Tool("x", "sum")], finish="tool_calls")),
    ],
)
def test_words_of_another_dialect_are_no_difference(
    caller: str, message: dict[str, Any], finish: str | None, told: Said
) -> None:
    """But whatever else is not as it was recorded is one."""
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE}).encode()
    each = true_play()
    each = replace(each, caller=caller, recording=replace(each.recording, pieces=(body,)))
    each.saw.choices[0] = told
    assert compare(each).differences == []
    told.text += "!"
    assert [difference.what for difference in compare(each).differences] == ["text"]


def test_error_that_was_none_and_the_bill_of_an_error_are_found() -> None:
    cut, refused = true_play(), true_play(400)
    cut.saw.error = "cut"
    refused.row["cost_nano_usd"] = 7
    assert [difference.what for each in (cut, refused) for difference in compare(each).differences] == [
        "error",
        "billed",
    ]


@pytest.mark.parametrize(
    ("usage", "classes", "is_cut"),
    [
        (USAGE, (100, 0, 0, 20, 0, 0), False),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": 60}}, (40, 60, 0, 20, 0, 0), False),
        (
            USAGE | {"completion_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 125},
            (100, 0, 0, 20, 5, 0),
            False,
        ),
        (USAGE | {"total_tokens": 150}, (100, 0, 0, 20, 30, 0), False),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": 160}}, (0, 100, 0, 20, 0, 0), True),
    ],
)
def test_bill_is_read_from_every_shape(usage: dict[str, Any], classes: tuple[int, ...], is_cut: bool) -> None:
    bill = bill_of(Reading(choices={0: Said(text="four")}, usages=[usage, dict.fromkeys(USAGE, 0)]))
    assert bill is not None
    assert (bill.classes[:6], bill.is_cut) == (classes, is_cut)
