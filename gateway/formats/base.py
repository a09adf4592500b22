"""The interface of an upstream's wire format: writes requests, reads answers and errors. No I/O, no state.

A new OpenAI-compatible provider is one row of ``providers.registry``; any other one is a file with a ``Format`` and a
line there.
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from gateway.errors import ErrorKind, UpstreamError
from gateway.tariff import Usage
from gateway.types import Call, Endpoint, Operation, Target, UpstreamRequest

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer is held until it is known to be one, so its size has a limit."""


class Decoder(Protocol):
    """Turns one upstream answer (status 200) into what the caller gets. One per attempt, fed in order.

    Whether the answer is a stream, and whether the caller wants one, is known from the call and the target; a decoder
    for a streamed answer to a caller who wants none returns ``b""`` from ``feed`` and the assembled body from
    ``finish``.
    """

    content_type: str
    """Of what the caller gets: ``text/event-stream; charset=utf-8`` or ``application/json``."""
    content_events: int
    """Content-bearing events so far (text, reasoning, tool arguments; in any choice). Grows with the first token."""
    content_bytes: int
    """UTF-8 bytes of content in them: with ``content_events``, the bounds of an estimate when usage never comes."""
    shows_reasoning: bool
    """Some of the content was reasoning, so reasoning tokens passed between the first content and the last."""
    dropped_events: int
    """Events that could not be read, and without which the answer went on."""
    complete: bool
    """The answer's own end was seen (``[DONE]`` or ``message_stop``; for JSON, the whole object)."""

    @property
    def service_tier(self) -> str | None:
        """What the upstream says that it served the answer at, which need not be what was asked for; None: nothing."""

    @property
    def usage(self) -> Usage | None:
        """The upstream's own count, of all its reports together. None until it has been seen."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they arrived, in any chunking, and return what can go to the caller, perhaps nothing.

        Returns the same object when nothing changes. Raises UpstreamError when the upstream reports an error in its
        stream, or sends what cannot be understood (UPSTREAM_PROTOCOL).
        """

    def finish(self) -> bytes:
        """Return what is left when the upstream has ended cleanly.

        Raises UpstreamError (UPSTREAM_CUT) if the answer is not complete.
        """


Prepared = Callable[[Target, str], UpstreamRequest]
"""A call in the words of a format: what writes the request to one target, for an attempt with an id.

Model, output limit and stream are set in what is there; nothing else is made anew. The attempt id travels as
``x-tollway-attempt-id``. No caller's header is passed on.
"""


class Format(Protocol):
    """One wire format."""

    dialect: str
    """A call whose caller speaks the same goes up as it is. Any other is translated, a large one beside the loop."""

    may_refuse: bool
    """False: ``refuses`` has nothing to say of any call, and is not asked."""

    def refuses(self, call: Call) -> str | None:
        """Name what this format cannot express of the call (``'logit_bias' ...``), as far as it costs nothing to see.

        It is asked for every target of a route, also for those that are never tried.
        """

    def prepare(self, call: Call) -> Prepared:
        """Say the call in this format. Asked once for a call, when the first target that speaks it is tried.

        Raises UpstreamError, see ``refusal``, for what cannot be expressed: no member is dropped silently.
        """

    def decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder for one answer with status 200."""

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with another status.

        400, 404, 413, 422 about the request are the caller's fault (UPSTREAM_REJECTED, the provider's own message
        passed on with anything that looks like a credential removed; CONTEXT_LENGTH and UPSTREAM_FLAGGED, which is
        moderation, when it says so); 401, 402 and 403 are about our credentials and account; 429 about our quota; 503
        and 529 are overload (with ``Retry-After``); what the model cannot do at all is UPSTREAM_UNSUPPORTED; the rest
        is UPSTREAM_ERROR. What the codes of a provider add is a table in ``classify``.
        """


class CountingEndpoint(Endpoint, Protocol):
    """A path of the callers' that asks only how many tokens a prompt has."""

    count_is: Mapping[str, str]
    """What an answer says beside ``input_tokens``."""


@runtime_checkable
class Counting(Protocol):
    """A format whose upstreams can say how many tokens a call's prompt has."""

    def count(self, call: Call) -> Prepared | None:
        """Write the question; None: this one cannot be asked, or not about this call."""

    def counted(self, body: bytes) -> int | None:
        """Read the answer; None: it says nothing."""


def refusal(reason: str) -> UpstreamError:
    """Make the refusal of a call that a format cannot express; ``reason`` begins with the member in quotes."""
    member = re.match(r"'(\w+)", reason)
    return UpstreamError(ErrorKind.UPSTREAM_UNSUPPORTED, reason, param=member[1] if member else None)


def check_size(held_bytes: int) -> None:
    """Raise UpstreamError (UPSTREAM_PROTOCOL) when more of an answer is held than one may have."""
    if held_bytes > MAX_ANSWER_BYTES:
        raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")


def streams_upstream(call: Call, target: Target) -> bool:
    """Whether the upstream is asked for a stream: the caller wants one, or we do, to measure TPOT."""
    return call.envelope.stream or (
        target.always_stream and call.envelope.streamable and call.envelope.whole_from != target.adapter
    )
