"""Measures one attempt: when its content came, how much it was, and what the target's statistics learn from it.

A pure stopwatch: what a decoder has seen goes in; usage, times and the sample that the target's statistics learn from
come out. It holds no lease and writes nothing. What a token costs is decided in ``tariff``.
"""

from collections.abc import Callable
from hashlib import blake2b
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.base import Decoder
from gateway.formats.tokens import estimate_output_tokens, output_bytes
from gateway.tariff import Usage, presume
from gateway.types import Call, Outcome, Sample, Target

_NS_PER_MS = 1e6

OUTCOMES: dict[ErrorKind, Outcome] = {
    ErrorKind.INTERNAL: "failed",
    ErrorKind.OWN_SHORTAGE: "failed",
    ErrorKind.DEADLINE: "timeout",
    ErrorKind.UPSTREAM_CONNECT: "failed",
    ErrorKind.UPSTREAM_TIMEOUT: "timeout",
    ErrorKind.UPSTREAM_STALLED: "timeout",
    ErrorKind.UPSTREAM_CUT: "cut",
    ErrorKind.STALE_CONNECTION: "failed",
    ErrorKind.UPSTREAM_PROTOCOL: "failed",
}
"""Every other kind is ``refused``."""

_UNBILLED: frozenset[Outcome] = frozenset({"refused", "failed"})
"""No upstream we know of bills a request that it refused or never received."""

_NOT_THE_TARGETS = frozenset({ErrorKind.OWN_SHORTAGE, ErrorKind.INTERNAL})
"""Failures of ours: they say nothing of the target, neither of its health nor of its speed."""


class Measured(Struct, frozen=True, gc=False):
    """What one attempt took and used."""

    usage: Usage
    billed: bool
    """The upstream may bill it."""
    duration_ms: float
    ttft_ms: float | None
    tpot_ms: float | None
    gaps_s: list[float]
    """Between its content-bearing chunks (ITL)."""
    dropped_events: int
    """That could not be read, and without which the answer went on."""
    sample: Sample | None
    """None: its end says nothing of the target."""


class Measure:
    """The stopwatch of one attempt; runs from its construction to ``stop``."""

    __slots__ = (
        "_arrivals_ns", "_call", "_events_seen", "_journalled_bytes", "_journalled_tokens", "_now_ns", "_progress",
        "_started_ns", "status", "streamed", "target",
    )  # fmt: skip

    def __init__(self, call: Call, target: Target, now_ns: Callable[[], int]) -> None:
        self.status: int | None = None
        """The upstream's HTTP status; None: it has sent none."""
        self.streamed = True
        """The upstream was asked for a stream. If not, all content comes at the end, and there is a duration only."""
        self._call = call
        self.target = target
        self._now_ns = now_ns
        self._progress: Decoder | None = None
        self._events_seen = self._journalled_tokens = self._journalled_bytes = 0
        self._arrivals_ns: list[int] = []
        """When content came, and more content."""
        self._started_ns = now_ns()

    @property
    def has_succeeded(self) -> bool:
        """Whether the upstream's status is one of success, so that what follows is an answer, and may be billed."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def service_tier(self) -> str | None:
        """See ``Decoder.service_tier``."""
        return None if self._progress is None else self._progress.service_tier

    @property
    def first_content_ns(self) -> int | None:
        """When the first content came; None: none came, or not as a stream."""
        return self._arrivals_ns[0] if self._arrivals_ns and self.streamed else None

    def observe(self, progress: Decoder) -> int:
        """Note what a decoder was fed; return a bound of output tokens to be journalled before they go on, or 0.

        It is ahead and grows by a quarter each time: never below what was relayed, and few lines.
        """
        self._progress = progress
        events = progress.content_events
        if events == self._events_seen:
            return 0
        self._events_seen = events
        self._arrivals_ns.append(self._now_ns())
        if events <= self._journalled_tokens and progress.content_bytes <= self._journalled_bytes:
            return 0
        tokens = estimate_output_tokens(events, progress.content_bytes)
        self._journalled_tokens = tokens + (tokens // 4 if tokens > 32 else 8)
        self._journalled_bytes = output_bytes(self._journalled_tokens)
        return self._journalled_tokens

    def outcome_of(self, error: GatewayError) -> Outcome:
        """Name an error's outcome; behind content, any means an answer that broke off, whose tokens count."""
        outcome = OUTCOMES.get(error.kind, "refused")
        began = self._progress is not None and self._progress.content_events > 0
        return "cut" if began and outcome in _UNBILLED else outcome

    def stop(self, outcome: Outcome, error: GatewayError | None, *, sent: bool) -> Measured:
        """Return what was measured. ``sent``: whether all of the request has left this process."""
        call, progress, arrivals_ns = self._call, self._progress, self._arrivals_ns
        duration_ms = (self._now_ns() - self._started_ns) / _NS_PER_MS
        # A request of which the last byte never left is no work for the upstream: its caller left, or its time ran out,
        # while a name was looked up, a connection made or the body written.
        billed = outcome not in _UNBILLED and (sent if self.status is None else self.has_succeeded)
        usage = self._usage(outcome, billed=billed)
        # What passed between the first content and the last: reasoning too, unless it was hidden.
        shown = usage.output_tokens
        if progress is not None and progress.shows_reasoning:
            shown += usage.reasoning_tokens
        first_ns = self.first_content_ns
        ttft_ms = (first_ns - self._started_ns) / _NS_PER_MS if first_ns is not None else None
        # Not for several choices, nor for what came all at once (a proxy kept it, or two tokens shared a packet).
        tpot_ms = None
        if shown > 1 and len(arrivals_ns) > 1 and call.envelope.choices <= 1:
            tpot_ms = (arrivals_ns[-1] - arrivals_ns[0]) / _NS_PER_MS / (shown - 1)
        sample, cached = None, usage.cached_input_tokens + usage.cached_audio_tokens + usage.cached_image_tokens
        if error is None or error.kind not in _NOT_THE_TARGETS:
            trips_breaker, body_digest = (False, None) if error is None else self._blame(error, duration_ms)
            sample = Sample(
                ok=outcome == "ok",
                trips_breaker=trips_breaker,
                body_digest=body_digest,
                input_tokens=usage.read_tokens,
                cached_tokens=cached if usage.origin != "estimated" else None,
                kept_tokens=cached + usage.cache_write_tokens + usage.cache_write_1h_tokens,
                output_tokens=shown,
                hidden_tokens=usage.written_tokens - shown,
                # Where an answer has no tokens, what the policy may expect is the time to all of it.
                ttft_ms=duration_ms if call.output_cap == 0 and outcome == "ok" else ttft_ms,
                tpot_ms=tpot_ms,
                retry_after_s=None if error is None else error.retry_after_s,
                error_kind=None if error is None else error.kind.value,
                max_output_tokens=call.output_cap,
            )
        gaps_s = [(b - a) / 1e9 for a, b in pairwise(arrivals_ns)] if len(arrivals_ns) > 1 else []
        dropped = progress.dropped_events if progress is not None else 0
        return Measured(usage, billed, duration_ms, ttft_ms, tpot_ms, gaps_s, dropped, sample)

    def _blame(self, error: GatewayError, duration_ms: float) -> tuple[bool, str | None]:
        """Return whether the breaker counts it, and the body's digest where the request may have brought it about."""
        counts, provocable = error.trips_breaker, error.provocable
        timeouts = self.target.timeouts
        if error.kind is ErrorKind.DEADLINE or (
            error.kind is ErrorKind.UPSTREAM_TIMEOUT and isinstance(error, UpstreamError) and not error.upstream_status
        ):
            # We stopped waiting: of a ceiling, or of what was left of the call's time, the target knows nothing.
            counts = not self._events_seen and duration_ms >= min(timeouts.first_token_s, timeouts.total_s) * 1e3
            # All of an answer may take as long as its request makes it.
            provocable = not self.streamed and duration_ms > timeouts.first_token_s * 1e3
        if not counts:
            return False, None
        return True, blake2b(self._call.envelope.body, digest_size=8).hexdigest() if provocable else None

    def _usage(self, outcome: Outcome, *, billed: bool) -> Usage:
        """Trust the upstream's count of a complete answer; otherwise never report less than what was seen."""
        progress = self._progress
        reported = progress.usage if progress is not None else None
        # Zero tokens beside content are no count.
        saw = progress is not None and progress.content_events
        counted = reported is not None and outcome == "ok" and bool(reported.written_tokens or not saw)
        if reported is not None and counted and reported.origin == "provider":
            return replace(reported, origin="engine") if self.target.own_hardware else reported
        return self._estimate(reported, counted=counted) if billed else Usage(origin="estimated")

    def _estimate(self, reported: Usage | None, *, counted: bool) -> Usage:
        """Return what was used at least. ``counted``: the output that was reported is that of the whole answer."""
        progress, call = self._progress, self._call
        seen = estimate_output_tokens(progress.content_events, progress.content_bytes) if progress else 0
        if reported is None:
            presumed = presume(call.input_tokens_estimate, call.envelope.audio_ms, call.envelope.members)
            return replace(presumed, output_tokens=seen)
        has_read = reported.read_tokens or reported.audio_ms
        thought = reported.reasoning_tokens if progress is not None and progress.shows_reasoning else 0
        return replace(
            reported,
            input_tokens=reported.input_tokens if has_read else call.input_tokens_estimate,
            output_tokens=reported.output_tokens if counted else max(seen - thought, reported.output_tokens),
            origin="estimated",
        )
