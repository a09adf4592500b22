"""The breaker: when it opens, for how long, and whom it lets through to find out."""

import pytest

from gateway.errors import ErrorKind
from gateway.targets.breaker import HISTORY, Breaker
from gateway.types import Sample

S = 1_000_000_000


def result(
    *, ok: bool = False, trips: bool = True, retry_after_s: float | None = None, kind: str | None = None
) -> Sample:
    return Sample(
        ok=ok,
        trips_breaker=trips and not ok,
        input_tokens=1,
        output_tokens=1,
        ttft_ms=None,
        tpot_ms=None,
        in_flight_at_start=1,
        retry_after_s=retry_after_s,
        error_kind=kind,
    )


FAILED, OK, CALLERS_FAULT = result(), result(ok=True), result(trips=False)


def attempt(breaker: Breaker, now_ns: int, sample: Sample | None) -> None:
    breaker.settle(breaker.admit(now_ns), now_ns, sample)


def opened(now_ns: int = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        attempt(breaker, now_ns, FAILED)
    return breaker


def test_the_whole_life_cycle() -> None:
    """Closed, three failures, open for a second, one probe; it fails: two seconds; it succeeds: closed as new."""
    breaker = opened()
    assert breaker.state(0) == "open"
    assert "1.0 s more" in (breaker.refusal(0) or "")
    assert breaker.state(S - 1) == "open"
    assert breaker.state(S) == "half_open"
    assert breaker.refusal(S) is None
    attempt(breaker, S, FAILED)
    assert breaker.retry_after_s(S) == pytest.approx(2.0)
    attempt(breaker, 3 * S, OK)
    assert breaker.state(3 * S) == "closed"
    for _ in range(2):
        attempt(breaker, 3 * S, FAILED)
    assert breaker.state(3 * S) == "closed"
    attempt(breaker, 3 * S, FAILED)
    assert breaker.retry_after_s(3 * S) == pytest.approx(1.0)


def test_pauses_double_up_to_a_limit() -> None:
    """1, 2, 4, 8, 16, then 30 seconds for as long as probes fail."""
    breaker, now_ns, pauses = opened(), 0, []
    for _ in range(7):
        pauses.append(breaker.retry_after_s(now_ns))
        now_ns += round(pauses[-1] * S)
        attempt(breaker, now_ns, FAILED)
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30])


def test_half_open_lets_one_through() -> None:
    """While the probe is under way everybody else is refused, and its result alone counts."""
    breaker = opened()
    bystander = breaker.admit(S // 2)
    probe = breaker.admit(S)
    assert breaker.refusal(S) is not None
    uninvited = breaker.admit(S)
    breaker.settle(bystander, S, OK)
    breaker.settle(uninvited, S, FAILED)
    assert breaker.state(S) == "half_open"
    assert breaker.refusal(S) is not None
    breaker.settle(probe, S, OK)
    assert breaker.state(S) == "closed"


def test_a_probe_without_a_verdict_leaves_its_place_to_the_next() -> None:
    """A caller who left, or asked for nonsense, says nothing of the target; it stays half open."""
    breaker = opened()
    for no_verdict in (None, CALLERS_FAULT):
        attempt(breaker, S, no_verdict)
        assert breaker.state(S) == "half_open"
        assert breaker.refusal(S) is None


def test_faults_of_callers_never_open_it_and_never_excuse_it() -> None:
    """A hundred bad requests change nothing; between two failures and the third they do not help either."""
    breaker = Breaker()
    for _ in range(100):
        attempt(breaker, 0, CALLERS_FAULT)
    assert breaker.state(0) == "closed"
    for sample in (FAILED, FAILED, CALLERS_FAULT, FAILED):
        attempt(breaker, 0, sample)
    assert breaker.state(0) == "open"


def test_every_other_failure_opens_it_in_time() -> None:
    """Never three in a row, but half of the last twenty."""
    breaker = Breaker()
    for number in range(HISTORY):
        assert breaker.state(0) == "closed"
        attempt(breaker, 0, FAILED if number % 2 else OK)
    assert breaker.state(0) == "open"


def test_the_rest_of_a_crowd_does_not_prolong_an_outage() -> None:
    """Fifty attempts fail together: the pause is that of three. Late ones do not open it again after a recovery."""
    breaker = Breaker()
    crowd = [breaker.admit(0) for _ in range(50)]
    for ticket in crowd[:40]:
        breaker.settle(ticket, 0, FAILED)
    assert breaker.retry_after_s(0) == pytest.approx(1.0)
    attempt(breaker, S, OK)
    for ticket in crowd[40:]:
        breaker.settle(ticket, S, FAILED)
    assert breaker.state(S) == "closed"


def test_retry_after_is_honoured_at_once_and_within_reason() -> None:
    """One 429 with ``Retry-After: 7`` keeps everybody away for 7 s; an hour counts as five minutes."""
    breaker = Breaker()
    attempt(breaker, 0, result(retry_after_s=7))
    assert breaker.retry_after_s(0) == pytest.approx(7)
    breaker = Breaker()
    attempt(breaker, 0, result(retry_after_s=3600))
    assert breaker.retry_after_s(0) == pytest.approx(300)


def test_a_refused_credential_opens_it_for_a_minute() -> None:
    """No retry mends it."""
    breaker = Breaker()
    attempt(breaker, 0, result(kind=ErrorKind.UPSTREAM_CREDENTIALS))
    assert breaker.retry_after_s(0) == pytest.approx(60)
