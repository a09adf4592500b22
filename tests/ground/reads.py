"""Draws how a stream arrives: in which reads."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st


def drawn_reads(draw: st.DrawFn, events: Sequence[bytes]) -> list[bytes]:
    """Cut a stream of events into reads: mostly of whole events, one or several."""
    stream = b"".join(events)
    edges, at = {0, len(stream)}, 0
    for event in events:
        at += len(event)
        if draw(st.integers(0, 2)):
            edges.add(at)
    edges |= draw(st.sets(st.integers(0, len(stream)), max_size=2))
    return [stream[a:b] for a, b in pairwise(sorted(edges))]
