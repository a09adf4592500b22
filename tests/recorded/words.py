"""Say a recorded answer in the words of another dialect: what its callers are to get of it, and what it cannot say.

Written from the dialects' documentation and apart from the gateway, so that the two can disagree.
"""

import re
from dataclasses import replace
from typing import NamedTuple

from tests.recorded.money import Bill
from tests.recorded.reading import ANY_ID, Reading, Said, Tool

_ID_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
"""In the id of a call; what has another is refused (platform.claude.com/docs/en/api/messages, ``tool_use.id``)."""


class Told(NamedTuple):
    """How an answer is to reach callers of another dialect."""

    said: Reading
    reworded: set[str]
    """What they get in other words, or not at all."""


def in_words_of(caller: str, said: Reading) -> Told:
    """Say an answer. Chat alone has several choices, no reason to end, or one of a provider's own."""
    first, reworded = said.said(0), set[str]()
    if len(said.choices) > 1:
        reworded.add("choices behind the first: left out")
    finish = _finish(first)
    if finish != first.finish:
        reworded.add(f"finish {first.finish}: {finish}")
    told = replace(first, finish=finish, tools=[_with_id(caller, tool) for tool in first.tools])
    if any(not tool.id for tool in first.tools):
        reworded.add("call without an id: one of ours")
    if caller == "messages" and first.refusal:
        reworded.add("refusal: text, and a reason to end")
        told = replace(told, text=first.text + first.refusal, refusal="", finish="content_filter")
    if caller == "messages" and any(_ID_FORBIDDEN.search(tool.id) for tool in first.tools):
        reworded.add("id of a call with other characters: these in hexadecimal")
    return Told(replace(said, choices={0: told}), reworded)


def _finish(said: Said) -> str:
    if said.finish in {"length", "content_filter"}:
        return said.finish
    return "tool_calls" if said.tools else "stop"


def _with_id(caller: str, tool: Tool) -> Tool:
    written = _ID_FORBIDDEN.sub(lambda found: f"_{ord(found[0]):x}_", tool.id) if caller == "messages" else tool.id
    return replace(tool, id=written or ANY_ID)


def usage_in_words_of(caller: str, bill: Bill) -> tuple[Bill, set[str]]:
    """Return the classes that another dialect's usage tells apart, and what it does not; its totals hold all parts."""
    told, reworded = replace(bill), set[str]()
    for part, whole in (("audio_input", "input"), ("image_input", "input"), ("audio_output", "output")):
        if count := getattr(bill, part):
            reworded.add(f"{part}: within {whole}")
            setattr(told, whole, getattr(told, whole) + count)
            setattr(told, part, 0)
    if bill.for_an_hour and caller != "messages":
        reworded.add("cache writes for an hour: as others")
        told.written, told.for_an_hour = told.written + told.for_an_hour, 0
    if bill.searches and caller != "messages":
        reworded.add("count of searches: left out")
        told.searches = 0
    read, wrote = told.input + told.cached + told.written + told.for_an_hour, told.output + told.reasoning
    if bill.told != (read, wrote):
        reworded.add("parts beside their whole: within it")
    told.told = read, wrote
    return told, reworded
