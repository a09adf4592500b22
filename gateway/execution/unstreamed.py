"""Remembers which targets refuse to stream, and asks those for whole answers where the caller wants no stream.

OpenAI streams some models to verified organisations only (help.openai.com, "API organization verification"), and not
every server behind an OpenAI-compatible address streams. Asked once more without, they answer; that they did is
remembered, so that not every call asks twice, and forgotten, so that a target which has learnt to stream is measured.
"""

import re

from msgspec.structs import replace

from gateway.clock import Clock
from gateway.errors import ErrorKind, UpstreamError
from gateway.types import Candidate, Target

REMEMBERED_S = 600.0
_MOST = 1024
_REFUSING = frozenset({400, 422, 501})
_ABOUT_THE_PROMPT = frozenset({ErrorKind.UPSTREAM_FLAGGED, ErrorKind.CONTEXT_LENGTH})
_STREAM = re.compile(rb"(?<![a-z])stream", re.IGNORECASE)
"""The word, also in the name of a member; an "upstream" says nothing."""


class StreamRefusedError(UpstreamError):
    """The upstream refuses a request for a reason that its answer connects with streaming, which we wanted."""

    def __init__(self, status: int) -> None:
        super().__init__(
            ErrorKind.UPSTREAM_UNSUPPORTED, "The upstream does not stream this request.", upstream_status=status
        )


class Unstreamed:
    """Remembers targets, in this process. A restart, and another address, begin anew."""

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.monotonic_ns
        self._until_ns: dict[tuple[str, str], int] = {}

    def learn(self, target: Target) -> None:
        """Note that a target which had refused to stream has answered without."""
        key = target.id, target.base_url
        self._until_ns.pop(key, None)
        if len(self._until_ns) >= _MOST:
            del self._until_ns[next(iter(self._until_ns))]
        self._until_ns[key] = self._now_ns() + round(REMEMBERED_S * 1e9)

    def holds(self, target: Target) -> bool:
        """Return whether a target refuses to stream, as far as is known."""
        until_ns = self._until_ns.get((target.id, target.base_url)) if self._until_ns else None
        return until_ns is not None and self._now_ns() < until_ns


def refuses_stream(error: UpstreamError, body: bytes) -> bool:
    """Return whether an error may be about streaming. A mistake costs one more request, which then shows what it is.

    It is about something else where it names another member, or is about what the prompt says or how long it is.
    """
    return (
        error.upstream_status in _REFUSING
        and error.kind not in _ABOUT_THE_PROMPT
        and (error.param or "stream").startswith("stream")
        and _STREAM.search(body) is not None
    )


def without_stream(candidate: Candidate) -> Candidate:
    """Return the candidate as one that is streamed only to callers who want a stream."""
    return replace(candidate, target=replace(candidate.target, always_stream=False))
