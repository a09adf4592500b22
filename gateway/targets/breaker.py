"""Decides whether a target may be sent requests at all, from how its last attempts ended.

*Closed*: all pass. *Open*: none passes until a time. *Half open*: that time is over, and one attempt passes, the
probe. Its first content closes the breaker, however long the rest takes; its failure before that opens it anew. A probe
that is still silent after ``LONGEST_PAUSE_S`` no longer keeps the next one from passing, and one that ends without a
verdict (the caller left, or was at fault) makes room for the next at once.

*What opens it.* Two kinds of failure (``provocable`` in ``gateway.errors``) are counted apart:

- What no request brings about (no connection, silence, 429, 503, 529) counts by itself, for any caller: three in a row,
  or ten among the last twenty results, for a target that fails every other request never fails three times in a row.
  Of a refused credential (401, 402) two in a row are enough. An upstream that says when to come back
  (``Retry-After``) is taken at its word at once.
- What a request may bring about (400 that is about us, 403, 404, any other 5xx, an answer that breaks off) proves
  nothing while one caller alone meets it. Three in a row, or ten among twenty, close the target to the key that met
  them, and to all as soon as there is a second key among them. With one key or none that would be all callers; so there
  the witnesses are the requests: three different bodies.

A success ends every row. A caller's own fault neither counts nor ends one. What one of several replicas died of is no
verdict on the target, but where a request may have brought it about, it counts for the key that did.

*How long it stays open.* A try may cost callers about a twentieth of the time: the pause is twenty times what the last
try took, at least 1 s, and doubles from there (1, 2, 4, 8 s) rather than to jump. It is never more than 8 s, and is
counted from when the try began; so a target that has recovered gets the first request that comes 10 s later, however
long it was away. Exceptions: what the upstream named, up to 300 s, and 60 s for a refused credential, which only a
person mends, and providers lock accounts that knock too often.

The result of an attempt that began before the last opening or closing is ignored, unless it is a probe of this opening:
of fifty requests caught in an outage, three open the breaker and the other forty-seven do not prolong it.

*Several processes.* Each has its own breaker and is sent the results of the others' attempts: a failure there counts
as one here, with its key or body, and an answer there closes it here; both only if they began since this one last
opened or closed. A half-open one may let through one probe per process.

State changes only in ``admit``, ``begun``, ``settle`` and ``settle_other``, between which nothing awaits, so one probe
means one, at any concurrency. While nothing has failed lately, ``is_quiet`` says so, and there is nothing to ask or to
keep.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

from gateway.errors import LONGEST_RETRY_AFTER_S, ErrorKind
from gateway.types import Sample

State = Literal["closed", "open", "half_open"]

FAILURES_IN_A_ROW = 3
REFUSED_CREDENTIALS_IN_A_ROW = 2
HISTORY = 20
FAILURES_IN_HISTORY = 10
DIFFERENT_BODIES = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 8.0
PAUSE_PER_TRY = 20.0
"""Seconds of pause for each second that a failed try took."""
CREDENTIAL_PAUSE_S = 60.0
MAX_KEYS = 64
"""Keys to which one target is closed, or may soon be; beyond this the one that failed longest ago passes again."""

_CREDENTIALS = ErrorKind.UPSTREAM_CREDENTIALS.value


class Pass(NamedTuple):
    """What an attempt was let through as; handed back with its first content and its result."""

    probe_until_ns: int | None = None
    """Until when this probe keeps the next one away; None: it is none."""
    of_key_until_ns: int | None = None
    """The same at the circuit of its key."""


ORDINARY = Pass()
"""No probe of anything."""


class _Failure(NamedTuple):
    """A failure as it is remembered."""

    witness: str | None
    """The key or the body's digest where a request may have brought it about; None: none does."""
    is_credentials: bool


_OF_A_KEY = _Failure(None, is_credentials=False)
"""Any failure in the circuit of one key: what counts there is how many there are."""


class _Circuit:
    """Closed, open or half open; what opens it is decided by the breaker. Times are monotonic nanoseconds."""

    __slots__ = ("_pause_s", "_probes", "_until_ns", "_why", "changed_ns", "history")

    def __init__(self, changed_ns: int = 0) -> None:
        self.changed_ns = changed_ns
        """When it last opened, stayed open after a probe, or closed."""
        self.history: list[_Failure | None] = []
        """The last results since a failure, oldest first; None is a success."""
        self._until_ns: int | None = None
        self._pause_s = FIRST_PAUSE_S
        self._probes: set[int] = set()
        """Those of this opening that are under way, by until when each keeps the next one away."""
        self._why = ""

    @property
    def is_closed(self) -> bool:
        return self._until_ns is None

    def state(self, now_ns: int) -> State:
        if self._until_ns is None:
            return "closed"
        return "open" if now_ns < self._until_ns and not self._probes else "half_open"

    def refusal(self, now_ns: int) -> str | None:
        if self._until_ns is None or now_ns >= self._until_ns:
            return None
        if self._probes:
            return f"half open, its probe is under way ({self._why})"
        return f"open for {self.retry_after_s(now_ns):.1f} s more ({self._why})"

    def retry_after_s(self, now_ns: int) -> float:
        return max(0.0, ((self._until_ns or now_ns) - now_ns) / 1e9)

    def admit(self, now_ns: int) -> int | None:
        """Return until when an attempt that begins now keeps the next one away, if it is a probe."""
        if self._until_ns is None or now_ns < self._until_ns:
            return None
        until_ns = self._until_ns = now_ns + round(LONGEST_PAUSE_S * 1e9)
        self._probes.add(until_ns)
        return until_ns

    def settles(self, probe_until_ns: int | None, began_ns: int) -> bool:
        """Whether an attempt's result counts: as a probe of this opening, or else of the time since it closed."""
        if probe_until_ns is None:
            return self._until_ns is None and began_ns >= self.changed_ns
        is_probe = self.is_probed_by(probe_until_ns)
        self._probes.discard(probe_until_ns)
        return is_probe

    def is_probed_by(self, probe_until_ns: int | None) -> bool:
        """Whether that is a probe of this opening that has not ended."""
        return probe_until_ns in self._probes

    def leave_place(self, probe_until_ns: int | None, now_ns: int) -> None:
        """Let the next attempt be the probe, if it is this one, which ended without a verdict, that keeps it away."""
        if self._until_ns is not None and self._until_ns == probe_until_ns:
            self._until_ns = now_ns

    def remember(self, result: _Failure | None) -> None:
        """Keep a result; successes alone are nothing to keep."""
        if result is not None or self.history:
            self.history.append(result)
            del self.history[:-HISTORY]
            if not any(self.history):
                self.history.clear()

    def row(self) -> list[_Failure]:
        """Return the failures since the last success, the newest first."""
        return [each for each in takewhile(lambda each: each is not None, reversed(self.history)) if each is not None]

    def open(self, began_ns: int, now_ns: int, sample: Sample, probe_until_ns: int | None) -> None:
        """Open, or stay open, after a failed try."""
        self.changed_ns = now_ns
        if self._until_ns is None:
            self._pause_s = FIRST_PAUSE_S
        if sample.error_kind == _CREDENTIALS:
            self._why, until_ns = "credentials refused", now_ns + round(CREDENTIAL_PAUSE_S * 1e9)
        elif sample.retry_after_s:
            pause_s = min(sample.retry_after_s, LONGEST_RETRY_AFTER_S)
            self._why, until_ns = "asked to retry later", now_ns + round(pause_s * 1e9)
        else:
            took_s = (now_ns - began_ns) / 1e9
            pause_s = min(self._pause_s, max(FIRST_PAUSE_S, PAUSE_PER_TRY * took_s))
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._why, until_ns = sample.error_kind or "failing", max(now_ns, began_ns + round(pause_s * 1e9))
        is_latest = self._until_ns is None or self._until_ns == probe_until_ns
        # What another probe has begun or met since stays.
        self._until_ns = until_ns if is_latest else max(until_ns, self._until_ns or 0)

    def close(self, now_ns: int) -> None:
        self.changed_ns = now_ns
        self._until_ns = None
        self._probes.clear()
        self.history.clear()


class Breaker:
    """One target's breaker. Times are monotonic nanoseconds.

    ``key``: the caller's, where several are configured; None: they are not, and the witnesses are the bodies.
    """

    __slots__ = ("_all", "_keys", "_last_witness", "is_quiet")

    def __init__(self) -> None:
        self.is_quiet = True
        """Nothing has failed lately: all pass."""
        self._all = _Circuit()
        self._keys: dict[str, _Circuit] = {}
        """Of keys whose requests have failed lately in a way that a request may bring about."""
        self._last_witness: str | None = None
        """Of the probe that failed last."""

    def state(self, now_ns: int) -> State:
        """Return the state at this moment, for all keys together."""
        return self._all.state(now_ns)

    def refusal(self, now_ns: int, key: str | None = None) -> str | None:
        """Return why no attempt may begin now; None when one may."""
        if self.is_quiet:
            return None
        if refusal := self._all.refusal(now_ns):
            return f"breaker {refusal}"
        circuit = self._keys.get(key or "")
        refusal = None if circuit is None else circuit.refusal(now_ns)
        return f"breaker for this key {refusal}" if refusal else None

    def is_half_open(self, key: str | None = None) -> bool:
        """Whether an attempt that is not refused would be a probe."""
        circuit = self._keys.get(key or "")
        return not self._all.is_closed or (circuit is not None and not circuit.is_closed)

    def retry_after_s(self, now_ns: int, key: str | None = None) -> float:
        """Return how long the breaker stays open."""
        circuit = self._keys.get(key or "")
        waits_s = [each.retry_after_s(now_ns) for each in (self._all, circuit) if each is not None]
        return max(waits_s)

    def view(self, now_ns: int, key: str | None = None) -> tuple[str | None, float | None, bool]:
        """Return ``refusal``, then ``retry_after_s``, and whether it lets a probe through: never both of these.

        What was measured before and in the outage must not keep a target from being tried.
        """
        if refusal := self.refusal(now_ns, key):
            return refusal, self.retry_after_s(now_ns, key), False
        return None, None, self.is_half_open(key)

    def admit(self, now_ns: int, key: str | None = None) -> Pass:
        """Count an attempt that begins now; the first one of a half-open breaker is its probe."""
        if self.is_quiet:
            return ORDINARY
        circuit = self._keys.get(key or "")
        return Pass(self._all.admit(now_ns), None if circuit is None else circuit.admit(now_ns))

    def begun(self, ticket: Pass, now_ns: int, key: str | None = None) -> None:
        """Take an attempt's first content: a probe's closes what it was let through by."""
        circuit = self._keys.get(key or "")
        if circuit is not None and circuit.is_probed_by(ticket.of_key_until_ns):
            circuit.close(now_ns)
        if self._all.is_probed_by(ticket.probe_until_ns):
            self._close(now_ns)
        self._tidy()

    def settle(self, ticket: Pass, began_ns: int, now_ns: int, sample: Sample | None, key: str | None = None) -> None:
        """Take an attempt's result; None and a caller's fault are no verdict on the target."""
        if sample is not None and not (sample.ok or _is_failure(sample)):
            sample = None
        if self.is_quiet and (sample is None or sample.ok):
            return
        circuit = self._circuit(key, sample)
        if self._all.settles(ticket.probe_until_ns, began_ns):
            self._take(began_ns, now_ns, sample, key, ticket.probe_until_ns)
        if circuit is not None and circuit.settles(ticket.of_key_until_ns, began_ns):
            _take_of_key(circuit, began_ns, now_ns, sample, ticket.of_key_until_ns)
        self._tidy()

    def settle_other(self, began_ns: int, now_ns: int, sample: Sample, key: str | None = None) -> None:
        """Take the result of an attempt that another process of this gateway let through."""
        if not (_is_failure(sample) or (sample.ok and not self.is_quiet)):
            return
        circuit = self._circuit(key, sample)
        if began_ns >= self._all.changed_ns:
            if self._all.is_closed:
                self._take(began_ns, now_ns, sample, key, None)
            elif sample.ok:  # an answer there leaves nothing to probe here
                self._close(now_ns)
        if circuit is not None and began_ns >= circuit.changed_ns:
            if circuit.is_closed:
                _take_of_key(circuit, began_ns, now_ns, sample, None)
            elif sample.ok:
                circuit.close(now_ns)
        self._tidy()

    def _close(self, now_ns: int) -> None:
        self._all.close(now_ns)
        self._keys.clear()  # what they met was the target's own trouble

    def _take(
        self, began_ns: int, now_ns: int, sample: Sample | None, key: str | None, probe_until_ns: int | None
    ) -> None:
        """Take a result that counts for all keys."""
        circuit = self._all
        if sample is None or not (sample.ok or sample.trips_breaker):
            circuit.leave_place(probe_until_ns, now_ns)
        elif sample.ok:
            if probe_until_ns is None:
                circuit.remember(None)
            else:
                self._close(now_ns)
        elif probe_until_ns is not None:
            witness = _witness(sample, key)
            if witness is not None and witness == self._last_witness:
                # One caller, or one request, alone does not keep it closed.
                circuit.leave_place(probe_until_ns, now_ns)
            else:
                circuit.open(began_ns, now_ns, sample, probe_until_ns)
            self._last_witness = witness
        else:
            failure = _Failure(_witness(sample, key), sample.error_kind == _CREDENTIALS)
            row = circuit.row()
            # More of one witness proves nothing more, and would only push out what others met.
            if failure.witness is None or sum(each.witness == failure.witness for each in row) < FAILURES_IN_A_ROW:
                circuit.remember(failure)
                row.append(failure)
            history = [each for each in circuit.history if each is not None]
            witnesses = DIFFERENT_BODIES if key is None else 2
            if (
                (failure.witness is None and sample.retry_after_s)
                or _proves(row, FAILURES_IN_A_ROW, witnesses)
                or _proves(history, FAILURES_IN_HISTORY, witnesses)
            ):
                circuit.open(began_ns, now_ns, sample, None)
                self._last_witness = failure.witness

    def _circuit(self, key: str | None, sample: Sample | None) -> _Circuit | None:
        """Return the circuit of a key; one is made for the first failure that its request may have brought about."""
        if key is None:
            return None
        circuit = self._keys.get(key)
        if circuit is None and sample is not None and sample.body_digest is not None:
            if len(self._keys) >= MAX_KEYS:
                del self._keys[next(iter(self._keys))]
            circuit = self._keys[key] = _Circuit(self._all.changed_ns)
        return circuit

    def _tidy(self) -> None:
        for key, circuit in list(self._keys.items()):
            if circuit.is_closed and not circuit.history:
                del self._keys[key]
        self.is_quiet = self._all.is_closed and not self._all.history and not self._keys


def _take_of_key(
    circuit: _Circuit, began_ns: int, now_ns: int, sample: Sample | None, probe_until_ns: int | None
) -> None:
    """Take a result that counts for one key; what no request brings about counts for all alone."""
    if sample is None or not (sample.ok or sample.body_digest is not None):
        circuit.leave_place(probe_until_ns, now_ns)
    elif sample.ok:
        if probe_until_ns is None:
            circuit.remember(None)
        else:
            circuit.close(now_ns)
    else:
        circuit.remember(_OF_A_KEY)
        failures = len(circuit.history) - circuit.history.count(None)
        if (
            probe_until_ns is not None
            or sample.retry_after_s
            or len(circuit.row()) >= FAILURES_IN_A_ROW
            or failures >= FAILURES_IN_HISTORY
        ):
            circuit.open(began_ns, now_ns, sample, probe_until_ns)


def _is_failure(sample: Sample) -> bool:
    """Whether it counts against the target, for all or for its own key."""
    return sample.trips_breaker or sample.body_digest is not None


def _witness(sample: Sample, key: str | None) -> str | None:
    return None if sample.body_digest is None else key or sample.body_digest


def _proves(failures: Sequence[_Failure], enough: int, witnesses: int) -> bool:
    """Whether that many failures are enough, those that no request brings about apart from those that one may."""
    plain = [each for each in failures if each.witness is None]
    provocable = [each for each in failures if each.witness is not None]
    refused = sum(each.is_credentials for each in plain)
    return (
        len(plain) >= enough
        or (enough == FAILURES_IN_A_ROW and refused >= REFUSED_CREDENTIALS_IN_A_ROW)
        or (len(provocable) >= enough and len({each.witness for each in provocable}) >= witnesses)
    )
