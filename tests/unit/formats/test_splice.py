"""Members are edited in place, and nothing else moves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.outline import outline_of
from gateway.formats.splice import members_of, splice, without


def edited(body: bytes, changes: dict[str, bytes | None]) -> bytes:
    """Splice with the body's own members."""
    return splice(body, members_of(body), changes)


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (b'{"a": 1, "b" : 2}', {"a": b"3"}, b'{"a": 3, "b" : 2}'),
        (b' { "a":1\n,"b":2 } ', {"b": b"[]"}, b' { "a":1\n,"b":[] } '),
        (b'{"a":1,"b":2,"c":3}', {"a": None}, b'{"b":2,"c":3}'),
        (b'{"a":1,"b":2,"c":3}', {"b": None}, b'{"a":1,"c":3}'),
        (b'{"a":1,"b":2,"c":3}', {"c": None}, b'{"a":1,"b":2}'),
        (b'{"a":1,"b":2}', {"a": None, "b": None}, b"{}"),
        (b'{"a":1, "b":2, "c":3}', {"a": None, "b": None}, b'{ "c":3}'),
        (b'{"a":1,"b":2}', {"a": None, "b": None, "c": b"4"}, b'{"c":4}'),
        (b"{}", {"a": b"1"}, b'{"a":1}'),
        (b'{"a":1 }', {"z": b"true"}, b'{"a":1 ,"z":true}'),
        (b'{"a,":1,"b":2}', {"a,": None}, b'{"b":2}'),
        (b'{"a":1,"b,":2}', {"a": None, "b,": b"3"}, b'{"b,":3}'),
        (b'{"mod\\u0065l":"x","y\\"":"}"}', {"model": b'"z"'}, b'{"mod\\u0065l":"z","y\\"":"}"}'),
        (b'{"a":"b\\":1,","b":1}', {"b": b"2"}, b'{"a":"b\\":1,","b":2}'),
        (b'{"a":{"b":1},"b":1}', {"b": b"2"}, b'{"a":{"b":1},"b":2}'),
    ],
)
def test_only_the_named_members_change(body: bytes, changes: dict[str, bytes | None], expected: bytes) -> None:
    """Spaces, order, escapes and look-alikes in strings survive, whichever way the members were found."""
    assert edited(body, changes) == expected
    assert splice(body, outline_of(body).members, changes) == expected


def test_body_without_a_change_is_the_same_object() -> None:
    """Removing what is not there copies nothing."""
    body = b'{"a": 1}'
    assert edited(body, {"b": None}) is body


def test_members_of_another_body_are_refused() -> None:
    """Offsets are verified, so a mistake cannot produce another request."""
    with pytest.raises(ValueError, match="members"):
        splice(b'{"a": 1, "b": 2}', {"a": b"2", "b": b"2"}, {"b": b"3"})


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=3), _VALUES, max_size=6),
    st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), st.none() | _VALUES.map(str), max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_splicing_means_what_editing_the_object_means(
    given_members: dict[str, object],
    changes: dict[str, str | None],
    indent: int | None,
    ascii_only: bool,
) -> None:
    """For any object and changes, the text parses to the edited object."""
    body = json.dumps(given_members, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    members = json.loads(body)
    raw = {name: None if value is None else json.dumps(value).encode() for name, value in changes.items()}
    expected = {name: value for name, value in {**members, **changes}.items() if changes.get(name, 0) is not None}
    assert json.loads(edited(body, raw)) == expected


@given(
    st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), _VALUES, min_size=1, max_size=6),
    st.integers(0, 5),
    st.sampled_from([None, 1]),
)
def test_body_without_a_member_has_the_members_of_one_read_anew(
    given_members: dict[str, object], which: int, indent: int | None
) -> None:
    """Whichever way the members were found."""
    body = json.dumps(given_members, indent=indent).encode()
    name = list(given_members)[which % len(given_members)]
    for members in (members_of(body), outline_of(body).members):
        shorter, left = without(body, members, name)
        assert shorter == edited(body, {name: None})
        assert dict(left) == members_of(shorter)
        assert splice(shorter, left, dict.fromkeys(left, b"1")) == edited(shorter, dict.fromkeys(left, b"1"))
