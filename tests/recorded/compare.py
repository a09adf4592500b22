"""Compare what a caller saw and what the ledger holds with the recording: a line with figures for each difference."""

from typing import NamedTuple

from tests.recorded.callers import DIALECTS
from tests.recorded.money import Bill, bill_of, prices_of
from tests.recorded.play import Played
from tests.recorded.reading import Reading, Said, read_bytes
from tests.recorded.words import in_words_of, usage_in_words_of

CLASSES = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "audio_ms",
    "audio_input_tokens", "image_input_tokens", "audio_output_tokens", "image_output_tokens", "cache_write_1h_tokens",
    "web_searches",
)  # fmt: skip
_LONGEST = 60
"""Characters of a value that are shown."""


class Difference(NamedTuple):
    """One thing that is not as recorded."""

    what: str
    recorded: str
    saw: str


class Compared(NamedTuple):
    """What came of one play."""

    differences: list[Difference]
    bill: Bill | None = None
    """What should have been billed."""
    reworded: frozenset[str] = frozenset()
    """What the caller's dialect says in other words, or not at all."""


def compare(each: Played) -> Compared:
    """Compare all of one play."""
    recording = each.recording
    said = read_bytes(recording.operation, recording.status, recording.body, streamed=recording.streamed)
    found: list[Difference] = []
    if bool(said.error) != bool(each.saw.error):
        found.append(Difference("error", _short(said.error or "none"), each.saw.error or "none"))
    if said.error and not recording.streamed:
        if each.row.get("cost_nano_usd") and recording.status >= 300:
            found.append(Difference("billed", "nothing for an error", f"{each.row['cost_nano_usd']} nano-USD"))
        return Compared(found)
    if said.error:
        _compare_beginnings(found, said, each.saw)
    if said.error or each.saw.error:
        return Compared(found)
    bill, reworded = bill_of(said, prices_of(recording.model)), set[str]()
    told = bill
    if _is_translated(each):
        said, reworded = in_words_of(each.caller, said)
        if bill is not None:
            told, of_usage = usage_in_words_of(each.caller, bill)
            reworded |= of_usage
    _compare_said(found, said, each.saw)
    if bill is None or told is None:
        _differ(found, "origin", "estimated", each.row.get("usage_origin"))
    else:
        _compare_told(found, told, each)
        _compare_billed(found, bill, each)
    return Compared(found, bill, frozenset(reworded))


def _is_translated(each: Played) -> bool:
    return each.recording.operation in DIALECTS and each.caller != each.recording.operation


def recorded_beside(each: Played) -> set[str]:
    """Return the kinds of what was recorded that not every dialect has a word for."""
    recording = each.recording
    return read_bytes(recording.operation, recording.status, recording.body, streamed=recording.streamed).beside


def _compare_beginnings(found: list[Difference], said: Reading, saw: Reading) -> None:
    """Of a stream that ends in an error, what was handed on must be how it began."""
    for index, theirs in saw.choices.items():
        ours = said.choices.get(index, Said())
        for what in ("text", "reasoning"):
            if not getattr(ours, what).startswith(getattr(theirs, what)):
                _differ(found, what, getattr(ours, what), getattr(theirs, what))


def _compare_said(found: list[Difference], said: Reading, saw: Reading) -> None:
    for index in sorted(said.choices.keys() | saw.choices.keys()):
        ours, theirs = said.choices.get(index, Said()), saw.choices.get(index, Said())
        for what in ("text", "reasoning", "refusal", "tools", "finish"):
            _differ(found, what, getattr(ours, what), getattr(theirs, what))
    _differ(found, "vectors", said.vectors, saw.vectors)


def _compare_told(found: list[Difference], told: Bill, each: Played) -> None:
    """Compare the usage that the caller sees: of another dialect its classes too, for these have been written anew."""
    counted = bill_of(each.saw)
    if not _is_translated(each):
        _differ(found, "usage told", told.told, counted.told if counted else None)
    elif counted is None or told.prompt_is_counted:
        _differ(found, "usage told", told.classes, counted.classes if counted else None)
    else:
        _differ(found, "usage told", told.classes[3:], counted.classes[3:])
        _differ(found, "prompt told", each.row.get("input_tokens"), counted.input)


def _compare_billed(found: list[Difference], bill: Bill, each: Played) -> None:
    row = tuple(each.row.get(name) for name in CLASSES)
    if bill.prompt_is_counted:
        _differ(found, "usage billed", bill.classes, row)
        _differ(
            found,
            "cost",
            bill.cost_nano_usd(each.recording.provider, prices_of(each.recording.model)),
            each.row.get("cost_nano_usd"),
        )
    else:
        _differ(found, "usage billed", bill.classes[3:6], row[3:6])
        _differ(found, "prompt estimated", True, bool(row[0]))
    _differ(found, "origin", "estimated" if bill.is_cut else "provider", each.row.get("usage_origin"))
    _differ(found, "upstream's price", bill.price_nano_usd or 0, each.row.get("upstream_cost_nano_usd"))


def _differ(found: list[Difference], what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        found.append(Difference(what, _short(ours), _short(theirs)))


def _short(value: object) -> str:
    """Show figures and names; of a text only its length, for it is not ours to print."""
    if isinstance(value, list):
        return f"{len(value)} [{', '.join(_short(each) for each in value)}]"[:_LONGEST]
    text = " ".join(str(value).split())
    return f"{len(text)} characters" if isinstance(value, str) and len(text) > _LONGEST else text
