"""The interface of a framing: cuts the bytes of a streamed answer into events. Most upstreams use that of ``sse``."""

from typing import Protocol


class Framing(Protocol):
    """Cuts one stream, fed in order. What the data of an event means is left to the formats."""

    whole: frozenset[bytes]
    """The first byte of an answer that is no stream but one object, or a page."""

    @property
    def rest(self) -> bytes:
        """The bytes behind the last complete event. Never empty while the upstream is in the middle of one."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that are complete now. Raises UpstreamError (UPSTREAM_PROTOCOL) for one that cannot be."""

    def finish(self) -> list[bytes]:
        """Return the events that only the end of the stream completes."""

    def data(self, event: bytes) -> bytes | None:
        """Return what an event says; None: nothing."""
