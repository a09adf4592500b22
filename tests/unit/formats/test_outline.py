"""The outline of a large body says what the body says, and a fault in it is reported at its position in the body."""

import json
import re
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.formats.malformed import WINDOW_BYTES
from gateway.formats.openai.decode import CHAT
from gateway.formats.outline import (
    LONG_BYTES,
    MAX_BLANK_BYTES,
    MAX_ESCAPES,
    MAX_MEMBERS,
    MAX_NUMBERS,
    MAX_PARTS,
    outline_of,
)
from gateway.formats.splice import members_of, splice
from gateway.types import Envelope

LARGE = 200_000
HEAD = b'{"model":"a","messages":[{"role":"user","content":"'
UNITS = {
    "prose": b"The quick brown fox. ",
    "line ends": b"\\n",
    "quotes": b'\\"',
    "backslashes": b"\\\\",
    "an escaped letter": b"\\u00e9",
    "pairs": b"\\ud83d\\ude00",
    "two bytes": "é".encode(),
    "four bytes": "😀".encode(),
    "backslashes before a u": b"\\\\ud83d",
}


def chat(body: bytes) -> Envelope:
    """Decode a chat request."""
    return CHAT.decode(body)


def place_of_fault(body: bytes) -> str:
    """Return where msgspec finds the fault of a whole body."""
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(body)
    found = re.search(r"byte (\d+)", str(caught.value))
    read = body[: int(found[1]) if found is not None else None].decode()
    return f"line {read.count(chr(10)) + 1}, column {len(read) - read.rfind(chr(10))}."


def request(content: bytes, tail: bytes = b'"}]}') -> bytes:
    """Write a request with this text, as it stands in JSON."""
    return HEAD + content + tail


@pytest.mark.parametrize("piece", [b'\\"', b"\\\\", b'\\\\\\"', b"\\\\\\\\"])
@pytest.mark.parametrize("window_bytes", [LONG_BYTES, 5 * LONG_BYTES, 21 * LONG_BYTES, 21 * LONG_BYTES + WINDOW_BYTES])
def test_string_ends_at_the_same_quote_wherever_a_window_cuts_its_escapes(piece: bytes, window_bytes: int) -> None:
    """Windows grow, each beginning where a pair of a backslash and its character does."""
    for shift in range(1, 6):
        content = b'\\"' + b"x" * (window_bytes - 2 - shift) + piece * 3
        members = outline_of(request(content, b'"}],"user":"b"}')).members
        assert (members["user"], chat(request(content)).content_bytes) == (b'"b"', len(json.loads(b'"%b"' % content)))


@pytest.mark.parametrize("character", ["é", "请", "😀"])
def test_escape_far_behind_long_characters_is_none_of_their_business(character: str) -> None:
    """A window without escapes may end within a character, and the next one, with an escape, may begin there."""
    for shift in range(8):
        content = b"x" * shift + character.encode() * (LARGE // 3) + b"\\n" + character.encode() * 20
        assert chat(request(content)).content_bytes == len(json.loads(b'"' + content + b'"').encode())


@pytest.mark.parametrize(
    "behind", [b' "', b' " }', b' "a', b'\n{"model":"b"}', b",", b'"\\x":1,"\\x":2}', b' "\\ud800":1,"\\ud800":2}']
)
def test_bytes_behind_a_large_object_are_refused(behind: bytes) -> None:
    """And twice what is no name within it: as those of a small body are."""
    for body in (request(b"x" * LARGE) + behind, request(b"x" * LARGE)[:-1] + b"," + behind):
        with pytest.raises(GatewayError, match="The body"):
            chat(body)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_long_string_is_measured_wherever_it_is_cut(unit: bytes) -> None:
    """It is looked at in pieces, none of which may end within an escape, a pair of halves or a character."""
    for shift in range(12):
        content = b"x" * shift + unit * (LARGE // len(unit))
        envelope = chat(request(content))
        assert envelope.content_bytes == len(json.loads(b'"' + content + b'"').encode())
        assert envelope.members == members_of(envelope.body)


FAULTS = {
    "a lone half": (b"\\ud83d", "half of a surrogate pair"),
    "a second half": (b"\\ude00", "half of a surrogate pair"),
    "no escape": (b"\\q", ""),
    "a control character": (b"\x01", ""),
    "a line end": (b"\n", ""),
    "no UTF-8": (b"\xff", "not UTF-8 at byte"),
}


@pytest.mark.parametrize("before", [0, 5, LARGE, LARGE + 7])
@pytest.mark.parametrize(("fault", "expected"), FAULTS.values(), ids=FAULTS)
def test_fault_within_a_long_string_is_reported_with_its_position(fault: bytes, expected: str, before: int) -> None:
    """As in a short one."""
    body = request(("é" * before).encode() + fault + b"x" * LARGE)
    with pytest.raises(GatewayError) as caught:
        chat(body)
    assert (expected or place_of_fault(body)) in caught.value.message


@pytest.mark.parametrize("tail", [b'"}]]', b'"}]', b'","x":1,}]}', b'"}],"n":1}}', b'"}]]}', b"", b'","x', b'"}]}{}'])
def test_fault_behind_a_long_string_is_reported_with_its_position(tail: bytes) -> None:
    """In the body, not in its outline."""
    body = b"\n" + request(b"two words " * (LARGE // 10), tail)
    with pytest.raises(GatewayError) as caught:
        chat(body)
    assert place_of_fault(body) in caught.value.message


LIMITS = {
    "members": (b'"y":1,' + b",".join(b'"%d":1' % n for n in range(MAX_MEMBERS)), "more than 1000 members"),
    "numbers": (b'"x":[' + b"1," * (MAX_NUMBERS + 1) + b"1]", "too many parts"),
    "strings": (b'"x":[' + b'"",' * MAX_PARTS + b'""]', "too many parts"),
    "strings, quotes and all": (b'"x":[' + b'"\\"",' * MAX_PARTS + b'""]', "too many parts"),
    "blanks between numbers": (b'"x":[' + b"1     ," * (MAX_BLANK_BYTES // 5) + b"1 ]", "more than 1000000 blanks"),
    "blanks between strings": (b'"x":[' + b'"" ,%b' % (b" " * 999) * (MAX_BLANK_BYTES // 999) + b'""]', "without"),
    "escapes": (b'"x":[' + b'"%b",' % (b"\\n" * 500) * (MAX_ESCAPES // 500) + b'"\\n"]', "send them as UTF-8"),
    "brackets": (b'"x":[' + b"[]," * (MAX_PARTS // 2) + b"[]]", "too many parts"),
    "digits": (b'"x":' + b"1" * LARGE, "number that is too large"),
    "name": (b'"' + b"x" * LARGE + b'":1', "name is longer than"),
    "twice": (b'"x":"' + b"x" * LARGE + b'","x":1', "member twice"),
    "twice, far apart": (b'"x"' + b" " * LARGE + b':1,"\\u0078":1', "member twice"),
    "model": (b'"n":1,"model":"' + b"x" * LARGE + b'"', "'model', 'role' or 'type'"),
}


@pytest.mark.parametrize(("members", "expected"), LIMITS.values(), ids=LIMITS)
def test_body_of_more_parts_than_a_request_needs_is_refused(members: bytes, expected: str) -> None:
    """Each is work that grows with the body, in one call or in all."""
    model = b"" if b'"model"' in members else b'"model":"a",'
    with pytest.raises(GatewayError, match=expected):
        chat(b'{"messages":[{"role":"user","content":"hi"}],' + model + members + b" " * LARGE + b"}")


def test_body_with_many_messages_and_images_is_outlined() -> None:
    """As many as a long session has, indented as a person writes them."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    said = [{"role": "user", "content": [{"type": "text", "text": "What is it? " * 9}, image]}]
    answered = [{"role": "assistant", "content": "A cat, I should say. " * 20}]
    body = json.dumps({"model": "m", "messages": (said + answered) * 2_300}, indent=2).encode()
    assert chat(body).image_count == 2_300


def test_quotes_that_are_escaped_are_no_strings() -> None:
    """Wherever the body is cut to count them."""
    body = request(b'\\"' * (2 * MAX_PARTS), b'","x":"\\\\"}]}')
    assert chat(body).content_bytes == 2 * MAX_PARTS


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
_LONG = st.builds(lambda text, times: text * times, _TEXT, st.sampled_from([1, LONG_BYTES]))
_VALUE = st.recursive(
    st.none() | st.integers() | _LONG,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)  # of hundreds of kilobytes
@given(st.dictionaries(_TEXT, _VALUE, max_size=5), st.booleans(), st.integers(0, 2))
@pytest.mark.slow
def test_members_of_a_large_body_are_those_of_any(values: Mapping[str, object], ascii_only: bool, blanks: int) -> None:
    """Cut out where they stand, and edited there, whatever lies between."""
    members = {**values, "model": "m"}
    places = json.dumps(members).count(", ") + json.dumps(members).count(": ")
    padding = " " * min(LARGE * blanks // 2, MAX_BLANK_BYTES // places - 1)
    text = json.dumps(members, ensure_ascii=ascii_only, separators=(f"{padding},\n", f":{padding}"))
    body = text.encode()
    outline = outline_of(body)
    outline.check_grammar()
    assert outline.members == members_of(body)
    assert {name: json.loads(raw) for name, raw in outline.members.items()} == {**values, "model": "m"}
    for changes in (
        {"model": b"1"},
        {"model": None},
        {"new": b"1"},
        dict.fromkeys(values, b"2"),
        dict.fromkeys(values),
    ):
        changed = json.loads(splice(body, outline.members, changes))
        assert changed == json.loads(splice(body, members_of(body), changes))
