"""What a provider may do to a caller: sixteen faults and some neighbours, as a table that a reader extends by a line.

Each is played in three ways: to a caller who streams (``stream``), to one who does not while the gateway asks for a
stream (``assembled``), and to one who does not while it asks for the whole answer (``plain``).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.faults.judge import Truth, Verdict
from tests.ground.model import ScriptedModel, word
from tests.ground.script import Answer, Chunk, Seen, error_answer, json_answer
from tests.ground.upstream import Script

Mode = Literal["stream", "assembled", "plain"]
MODES: tuple[Mode, ...] = ("stream", "assembled", "plain")

TOKENS = 60
BEFORE_THE_FAULT = 40
"""Tokens that have come when an answer breaks."""
FILTERED = 10
"""Tokens before a provider's filter ends an answer."""
DATED = "first-model-2026-11-01"
"""What a provider calls its model in an answer, where that is not what was asked for."""
MODEL = ScriptedModel(tokens=TOKENS, tpot_s=0.005)

WHOLE = Truth(text="".join(map(word, range(TOKENS))), finish_reason="stop")
FILTER = Truth(text="".join(map(word, range(FILTERED))), finish_reason="content_filter")
ALONE = "there is no other target"
RESCUE = "left to a later release: rescue in mid-stream"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One misbehaviour of the first of two targets; the second is healthy."""

    name: str
    once: Script | None = None
    """Of the first request alone."""
    always: Script = MODEL.answer
    """Of all others."""
    second: Script = MODEL.answer
    alone: bool = False
    """There is no second target."""
    calls: int = 1
    """One behind the other."""
    outage: bool = False
    """The target's port is closed for a minute, while calls go on."""
    truth: Truth = WHOLE
    """What the caller should be told."""
    expected: Mapping[Mode, Verdict] = field(default_factory=dict)
    """``pass`` where nothing is said."""
    why: str = ""
    """Said of every ``safe`` that is expected."""

    def expects(self, mode: Mode) -> Verdict:
        """Return the least that is accepted."""
        return self.expected.get(mode, "pass")


def is_streamed(seen: Seen) -> bool:
    """Tell whether the gateway asked for a stream."""
    return bool(seen.json.get("stream"))


def in_two(seen: Seen) -> Answer:
    """Make the healthy answer one that can break: a stream as it is, an object as two writes."""
    answer = MODEL.answer(seen)
    if is_streamed(seen):
        return answer
    (body,) = [Chunk(item) if isinstance(item, bytes) else item for item in answer.chunks]
    half = len(body.data) * BEFORE_THE_FAULT // TOKENS
    parts = (body._replace(data=body.data[:half], tokens=BEFORE_THE_FAULT), Chunk(body.data[half:]))
    return replace(answer, chunks=parts)


def broken_at(seen: Seen) -> int:
    """Return the number of writes before the fault: a stream's first says the role."""
    return 1 + BEFORE_THE_FAULT if is_streamed(seen) else 1


def cut(seen: Seen) -> Answer:
    """Close the connection in the middle of the answer."""
    return replace(in_two(seen), cut_after=broken_at(seen))


def cut_in_good_order(seen: Seen) -> Answer:
    """End the HTTP body in the middle of the answer, as a server does whose engine has died."""
    answer = in_two(seen)
    return replace(answer, chunks=tuple(answer.chunks)[: broken_at(seen)])


def stall(seen: Seen) -> Answer:
    """Fall silent in the middle of the answer."""
    return replace(in_two(seen), stall_after=broken_at(seen))


def malformed(seen: Seen) -> Answer:
    """Send half a JSON object, framed as if it were whole: between two events of a stream, or as the answer."""
    answer, at = in_two(seen), broken_at(seen)
    chunks = list(answer.chunks)
    if not is_streamed(seen):
        return replace(answer, chunks=tuple(chunks[:1]))
    chunks.insert(at, Chunk(b'data: {"id":"chatcmpl-scripted","choices":[{"index":0,"delta":{"cont\n\n'))
    return replace(answer, chunks=tuple(chunks))


def without_end(seen: Seen) -> Answer:
    """Leave out what says that the answer is over: ``[DONE]``, or of an object the last HTTP chunk."""
    if is_streamed(seen):
        return replace(MODEL, sends_done=False).answer(seen)
    return replace(MODEL.answer(seen), framing="chunked", cut_after=1)


def rewritten(model: ScriptedModel, old: bytes, new: bytes) -> Callable[[Seen], Answer]:
    """Answer as the model does, in other words."""

    def answer(seen: Seen) -> Answer:
        healthy = model.answer(seen)
        chunks = [Chunk(item) if isinstance(item, bytes) else item for item in healthy.chunks]
        return replace(healthy, chunks=tuple(each._replace(data=each.data.replace(old, new)) for each in chunks))

    return answer


def no_prefill(seen: Seen) -> Answer:
    """Refuse to go on from a text of the assistant's, as some models do."""
    if seen.json["messages"][-1]["role"] == "assistant":
        return error_answer(400, "This model does not support assistant message prefill.")
    return MODEL.answer(seen)


TOO_LONG = json_answer(
    {
        "error": {
            "message": "This model's maximum context length is 8192 tokens. However, your messages have 9000 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    status=400,
)
RESET = Answer(hang_up=True, reset=True)
SILENCE = Answer(raw=b"", stall_after=0)
_SAFE_IN_ALL: Mapping[Mode, Verdict] = {"stream": "safe", "assembled": "safe", "plain": "safe"}

FAULTS: tuple[Fault, ...] = (
    Fault(name="429 once, with Retry-After", once=error_answer(429, retry_after_s=1)),
    Fault(name="429 always", always=error_answer(429), calls=6),
    Fault(name="500 once", once=error_answer(500)),
    Fault(name="503 always", always=error_answer(503), calls=6),
    Fault(name="reset before the headers", always=RESET),
    Fault(name="silence", always=SILENCE),
    Fault(name="first token after 20 s", always=replace(MODEL, ttft_s=20.0).answer),
    Fault(name="cut after 40 of 60", always=cut, expected={"stream": "safe"}, why=RESCUE),
    Fault(name="stall after 40 of 60", always=stall, expected={"stream": "safe"}, why=RESCUE),
    Fault(name="malformed chunk", always=malformed),
    Fault(name="malformed chunk, nothing behind", always=malformed, alone=True, expected={"plain": "safe"}, why=ALONE),
    Fault(name="no end marker", always=without_end),
    Fault(name="context length", always=TOO_LONG),
    Fault(
        name="content filter",
        always=rewritten(replace(MODEL, tokens=FILTERED), json.dumps("stop").encode(), b'"content_filter"'),
        truth=FILTER,
    ),
    Fault(name="fallback refuses a prefill", always=cut, second=no_prefill, expected={"stream": "safe"}, why=RESCUE),
    Fault(name="one minute's outage and return", outage=True),
    Fault(
        name="usage and model told truly",
        always=rewritten(replace(MODEL, usage="twice"), b'"first-model"', json.dumps(DATED).encode()),
        truth=replace(WHOLE, first_model=DATED),
    ),
    Fault(name="cut after 40 of 60, HTTP ends well", always=cut_in_good_order, expected={"stream": "safe"}, why=RESCUE),
    Fault(name="429 once, nothing behind", once=error_answer(429, retry_after_s=1), alone=True),
    Fault(name="500 once, nothing behind", once=error_answer(500), alone=True),
    Fault(name="reset once, nothing behind", once=RESET, alone=True),
    Fault(
        name="silence, nothing behind",
        always=SILENCE,
        alone=True,
        expected=_SAFE_IN_ALL,
        why=ALONE,
    ),
)
