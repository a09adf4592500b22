"""Read and write the items of responses that are kept: what a call goes on with, and what a page of them shows.

Decides what of an earlier answer a next target is told: all items but reasoning that only its provider could look up,
and no ids, by which a provider would look for what it does not have; but that of reasoning of an own engine's, by which
the gateway knows it.

Source: platform.openai.com/docs/api-reference/responses (create, input-items).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from gateway.formats.malformed import UNREADABLE
from gateway.formats.responses.written import UNSIGNED
from gateway.formats.splice import members_of, splice
from gateway.formats.typed import refuse

LARGEST_PAGE = 100
_PAGE = 20
_NO_ITEMS = b"[]"
_PLACE = re.compile(r"\binput\[(\d+)\][\w.\[\]]*")
_PREFIXES = {"function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_", "custom_tool_call": "ctc_"}


class _Item(Struct):
    type: str = "message"
    role: Any = None
    id: Any = None
    content: Raw = Raw(b"null")
    encrypted_content: Any = None


class _Output(Struct):
    output: list[Raw] = []


class _History(Struct):
    output: list[_Item] = []


_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_output = msgspec.json.Decoder(_Output).decode
_decode_history = msgspec.json.Decoder(_History).decode


def as_items(asked: bytes) -> bytes:
    """Return the items of an ``input``, which may be one text, or null, as an array. Raises GatewayError."""
    if asked.startswith(b'"'):
        return b'[{"type":"message","role":"user","content":[{"type":"input_text","text":%b}]}]' % asked
    if not asked.startswith(b"["):
        return _NO_ITEMS if asked == b"null" else refuse("input", "must be a string or an array of items")
    return asked


def can_go_on(response: bytes) -> bool:
    """Return whether a call can go on from a response: its output is items, whatever the upstream wrote."""
    try:
        _decode_history(response)
    except UNREADABLE:
        return False
    return True


def continued(before: bytes, response: bytes, asked: bytes) -> bytes:
    """Return the items of a call that goes on: those before the response, its output, and what is asked now."""
    said = [_told(bytes(item)) for item in _decode_output(response).output]
    arrays = (before, b"[%b]" % b",".join(filter(None, said)), asked)
    return b"[%b]" % b",".join(filter(None, (array.strip()[1:-1].strip() for array in arrays)))


def kept_items(body: bytes, asked: bytes) -> int:
    """Return how many items of a body stand before those asked; 0 where they cannot be counted, and so are refused."""
    try:
        return len(_decode_items(members_of(body)["input"])) - len(_decode_items(asked))
    except UNREADABLE:
        return 0


def names_a_place(said: str) -> bool:
    """Return whether a sentence names the place of an item."""
    return _PLACE.search(said) is not None


def in_callers_count(said: str, kept: int) -> str:
    """Write the places that a sentence names as the caller counts them, whose call has so many kept items before it."""
    return _PLACE.sub(lambda found: _place(found, kept), said)


def _place(found: re.Match[str], kept: int) -> str:
    number = int(found[1])
    return "previous_response_id" if number < kept else found[0].replace(found[1], str(number - kept), 1)


def _told(item: bytes) -> bytes:
    known = _decode_item(item)
    if known.type == "reasoning" and not known.encrypted_content:
        return item if str(known.id).startswith(UNSIGNED) else b""
    return splice(item, members_of(item), {"id": None})


class Page(NamedTuple):
    """Which items are asked for."""

    limit: int = _PAGE
    newest_first: bool = True
    after: str | None = None


def page_of(query: Mapping[str, str]) -> Page:
    """Read the parameters of ``GET .../input_items``. Raises GatewayError."""
    limit, order = query.get("limit", str(_PAGE)), query.get("order", "desc")
    if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= LARGEST_PAGE:
        refuse("limit", f"must be from 1 to {LARGEST_PAGE}")
    if order not in {"asc", "desc"}:
        refuse("order", "must be 'asc' or 'desc'")
    return Page(int(limit), order == "desc", query.get("after"))


def list_items(response_id: str, items: bytes, page: Page) -> bytes:
    """Write a page of the items that a response was the answer to. Raises GatewayError for an unknown ``after``."""
    shown = [_shown(response_id, number, bytes(raw)) for number, raw in enumerate(_decode_items(items))]
    if page.newest_first:
        shown.reverse()
    ids = [item_id for item_id, _ in shown]
    if page.after is not None and page.after not in ids:
        refuse("after", "must be the id of an item of this response")
    start = 0 if page.after is None else ids.index(page.after) + 1
    chosen = shown[start : start + page.limit]
    ends = {"first_id": chosen[0][0] if chosen else None, "last_id": chosen[-1][0] if chosen else None}
    data = [Raw(item) for _, item in chosen]
    return msgspec.json.encode({"object": "list", "data": data, **ends, "has_more": start + page.limit < len(shown)})


def _shown(response_id: str, number: int, item: bytes) -> tuple[str, bytes]:
    """Return an item's id, which we make where it has none, and the item in its full form."""
    known, members = _decode_item(item), members_of(item)
    item_id = known.id or f"{_PREFIXES.get(known.type, 'msg_')}{response_id.removeprefix('resp_')}{number}"
    changes: dict[str, bytes | None] = {"id": msgspec.json.encode(item_id)}
    if known.type == "message":
        changes["type"] = b'"message"'
        if bytes(known.content).startswith(b'"'):
            kind = b"output_text" if known.role == "assistant" else b"input_text"
            changes["content"] = b'[{"type":"%b","text":%b}]' % (kind, bytes(known.content))
    return str(item_id), splice(item, members, changes)
