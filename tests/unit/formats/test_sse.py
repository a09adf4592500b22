"""The splitter cuts a byte stream into events wherever the network happened to cut it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.sse import Splitter, data_of

_PIECES = [b"data: {}", b"data:", b":", b"event: x", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"a"]


def split(chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    """Feed all chunks and return the events and what is left."""
    splitter = Splitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.finish(), splitter.rest


@given(st.lists(st.sampled_from(_PIECES), max_size=40).map(b"".join), st.data())
def test_any_chunking_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    """Events depend on the bytes alone, never on how they were cut, and none of the bytes is lost."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    whole, rest = split([stream])
    assert split([stream[a:b] for a, b in pairwise(edges)]) == (whole, rest)
    assert split([stream[i : i + 1] for i in range(len(stream))]) == (whole, rest)
    assert b"".join(whole) + rest == stream


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_specification_ends_an_event(end: bytes) -> None:
    """LF, CRLF and CR streams are cut alike."""
    stream = b"event: a" + end + b"data: 1" + end + end + b"data: 2" + end + end
    events, rest = split([stream])
    assert [data_of(event) for event in events] == [b"1", b"2"]
    assert rest == b""


def test_a_whole_event_is_returned_as_the_same_object() -> None:
    """The usual case copies nothing."""
    chunk = b'data: {"a": 1}\n\n'
    assert Splitter().feed(chunk)[0] is chunk


def test_crlf_cut_in_its_middle_is_one_line_end() -> None:
    """A chunk that ends in CR does not end the event before its LF is there."""
    splitter = Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == []
    assert splitter.feed(b"\ndata: 2") == [b"data: 1\r\n\r\n"]
    assert splitter.rest == b"data: 2"


@pytest.mark.parametrize("chunks", [[b"data: 0123456789\n\n"], [b"data: ", b"0123456789"], [b"0" * 17]])
def test_an_event_over_the_limit_is_refused(chunks: list[bytes]) -> None:
    """Complete or not, an event longer than the limit is an error of the upstream."""
    splitter = Splitter(limit=12)
    for chunk in chunks[:-1]:
        splitter.feed(chunk)
    with pytest.raises(UpstreamError) as caught:
        splitter.feed(chunks[-1])
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def test_many_events_together_may_be_longer_than_the_limit() -> None:
    """The limit is for one event, not for a chunk."""
    assert Splitter(limit=12).feed(b"data: 1\n\n" * 5) == [b"data: 1\n\n"] * 5


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data\n\n", b""),
        (b": ping\n\n", None),
        (b"event: error\nid: 7\n\n", None),
        (b"\n\n", None),
        (b"\ndata: a\n\n", b"a"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"database: a\n\n", None),
        (b"event: a\nevent: b\ndata: c\n\n", b"c"),
        (b"event: a\ndata: c\n\n", b"c"),
        (b"event: a\ndata: c\ndata: d\n\n", b"c\nd"),
        (b"event: a\rdata: b\ndata: c\n\n", b"b\nc"),
    ],
)
def test_data_is_read_as_specified(event: bytes, data: bytes | None) -> None:
    """Data lines are joined, one space behind the colon is dropped, comments and other fields are passed over."""
    assert data_of(event) == data
