"""A stop sequence that ended an answer within the arguments of a call: the call is not to be run."""

import json
from typing import Any

import pytest

from gateway.formats.anthropic.written import Events, Whole
from gateway.formats.chat import Ending

CUT, WHOLE = '{"city": "Par', '{"city": "Paris"}'


def reason(writer: Events | Whole, arguments: str, ending: Ending) -> dict[str, Any]:
    """Write an answer of one call, and return how it says that it ended."""
    written = writer.start("1", "m") + writer.tool(0, "c", "f")
    written += writer.arguments(0, arguments) + writer.end(ending)
    if isinstance(writer, Whole):
        message = json.loads(written)
    else:
        events = [json.loads(line[6:]) for line in written.splitlines() if line.startswith(b"data: ")]
        message = next(each["delta"] for each in events if each["type"] == "message_delta")
    return {name: message[name] for name in ("stop_reason", "stop_sequence")}


@pytest.mark.parametrize("writer", [Events, Whole])
@pytest.mark.parametrize(
    ("arguments", "stop_sequence", "stop_reason"),
    [
        (CUT, "is", "stop_sequence"),
        ("[]", "is", "stop_sequence"),
        (WHOLE, "is", "tool_use"),
        ("", "is", "tool_use"),
        (" ", "is", "tool_use"),
        (WHOLE, None, "tool_use"),
    ],
)
def test_a_stop_sequence_cuts_a_call_whose_arguments_are_not_whole(
    writer: type[Events | Whole], arguments: str, stop_sequence: str | None, stop_reason: str
) -> None:
    ended = reason(writer(), arguments, Ending("stop", stop_sequence=stop_sequence))
    said = stop_sequence if stop_reason == "stop_sequence" else None
    assert ended == {"stop_reason": stop_reason, "stop_sequence": said}
