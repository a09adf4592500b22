"""The breaker: what opens it and to which callers, for how long, and which attempt passes to find out."""

from collections.abc import Sequence

import pytest

from gateway.errors import ErrorKind
from gateway.targets.breaker import HISTORY, LONGEST_PAUSE_S, MAX_KEYS, Breaker
from gateway.types import Sample

S = 1_000_000_000


def result(
    *,
    ok: bool = False,
    trips: bool = True,
    retry_after_s: float | None = None,
    kind: str | None = None,
    body: str | None = None,
) -> Sample:
    """Make an attempt's result; with the digest of a ``body``, a failure that a request may bring about."""
    return Sample(
        ok=ok,
        trips_breaker=trips and not ok,
        body_digest=body,
        input_tokens=1,
        output_tokens=1,
        ttft_ms=None,
        tpot_ms=None,
        retry_after_s=retry_after_s,
        error_kind=kind,
    )


FAILED, OK, CALLERS_FAULT = result(), result(ok=True), result(trips=False)
CREDENTIALS = result(kind=ErrorKind.UPSTREAM_CREDENTIALS)
CRASH = result(kind=ErrorKind.UPSTREAM_CUT, body="same")


def attempt(breaker: Breaker, now_ns: int, sample: Sample | None, key: str | None = None, took_s: float = 0) -> None:
    """Begin an attempt at this moment and end it ``took_s`` later."""
    breaker.settle(breaker.admit(now_ns, key), now_ns, now_ns + round(took_s * S), sample, key)


def opened(now_ns: int = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        attempt(breaker, now_ns, FAILED)
    return breaker


def test_life_cycle() -> None:
    """Closed, three failures, open for a second, one probe; it takes a second to fail: open; it succeeds: closed."""
    breaker = opened()
    assert breaker.state(0) == "open"
    assert "1.0 s more" in (breaker.refusal(0) or "")
    assert breaker.state(S - 1) == "open"
    assert breaker.state(S) == "half_open"
    assert breaker.refusal(S) is None
    attempt(breaker, S, FAILED, took_s=1)
    assert breaker.retry_after_s(2 * S) == pytest.approx(1.0), "two seconds from when it began"
    attempt(breaker, 3 * S, OK)
    assert breaker.state(3 * S) == "closed"
    assert breaker.is_quiet
    for _ in range(2):
        attempt(breaker, 3 * S, FAILED)
    assert breaker.state(3 * S) == "closed"
    attempt(breaker, 3 * S, FAILED)
    assert breaker.retry_after_s(3 * S) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("took_s", "pauses_s"),
    [
        (0.0, [1, 1, 1, 1, 1]),  # a refused connection
        (0.1, [1, 2, 2, 2, 2]),
        (0.3, [1, 2, 4, 6, 6]),
        (1.0, [1, 2, 4, 8, 8]),
        (4.0, [1, 2, 4, 8, 8]),
    ],
)
def test_pause_scales_with_what_a_try_costs(took_s: float, pauses_s: Sequence[float]) -> None:
    """Twenty times the length of the try, at least a second, at most eight, each at most twice the one before."""
    breaker, now_ns, pauses = opened(), 0, [1.0]
    for _ in range(4):
        now_ns += round(pauses[-1] * S)
        assert breaker.refusal(now_ns) is None
        attempt(breaker, now_ns, FAILED, took_s=took_s)
        pauses.append(breaker.retry_after_s(now_ns + round(took_s * S)) + took_s)
    assert [max(each, took_s) for each in pauses] == pytest.approx([max(each, took_s) for each in pauses_s])


def test_half_open_lets_one_through() -> None:
    """While the probe is under way all others are refused, and its result alone counts."""
    breaker = opened()
    bystander = breaker.admit(S // 2)
    probe = breaker.admit(S)
    assert breaker.refusal(S) is not None
    assert breaker.state(S) == "half_open"
    uninvited = breaker.admit(S)
    breaker.settle(bystander, S // 2, S, OK)
    breaker.settle(uninvited, S, S, FAILED)
    assert breaker.state(S) == "half_open"
    assert breaker.refusal(S) is not None
    breaker.settle(probe, S, S, OK)
    assert breaker.state(S) == "closed"


def test_silent_probe_keeps_others_away_for_eight_seconds_only() -> None:
    """The next probe passes beside it, and its late failure takes nothing from that one."""
    breaker = opened()
    silent = breaker.admit(S)
    assert breaker.refusal(S + round(LONGEST_PAUSE_S * S) - 1) is not None
    assert breaker.refusal(9 * S) is None
    second = breaker.admit(9 * S)
    breaker.settle(silent, S, 21 * S, FAILED)
    assert breaker.refusal(21 * S) is None, "twelve seconds after the second probe began"
    breaker.settle(second, 9 * S, 22 * S, OK)
    assert breaker.state(22 * S) == "closed"


def test_probe_without_a_verdict_leaves_its_place_to_the_next() -> None:
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


def test_old_failures_are_forgotten() -> None:
    """Nine failures, each between good answers, do not count when twenty good ones have followed."""
    breaker = Breaker()
    for number in range(18):
        attempt(breaker, 0, FAILED if number % 2 else OK)
    for _ in range(HISTORY):
        attempt(breaker, 0, OK)
    assert breaker.is_quiet
    attempt(breaker, 0, FAILED)
    assert breaker.state(0) == "closed"


def test_rest_of_a_crowd_does_not_prolong_an_outage() -> None:
    """Fifty attempts fail together: the pause is that of three. Late ones do not open it again after a recovery."""
    breaker = Breaker()
    crowd = [breaker.admit(0) for _ in range(50)]
    for ticket in crowd[:40]:
        breaker.settle(ticket, 0, 0, FAILED)
    assert breaker.retry_after_s(0) == pytest.approx(1.0)
    attempt(breaker, S, OK)
    for ticket in crowd[40:]:
        breaker.settle(ticket, 0, S, FAILED)
    assert breaker.state(S) == "closed"


def test_retry_after_is_honoured_at_once_and_within_reason() -> None:
    """One 429 with ``Retry-After: 7`` keeps all away for 7 s; an hour counts as five minutes."""
    breaker = Breaker()
    attempt(breaker, 0, result(retry_after_s=7), key="a")
    assert breaker.retry_after_s(0, "b") == pytest.approx(7)
    breaker = Breaker()
    attempt(breaker, 0, result(retry_after_s=3600))
    assert breaker.retry_after_s(0) == pytest.approx(300)


@pytest.mark.parametrize("keys", [(None, None), ("a", "a"), ("a", "b")])
def test_second_refused_credential_in_a_row_opens_it_for_a_minute(keys: Sequence[str | None]) -> None:
    """No retry mends it; a single one may be a slip of the provider's."""
    breaker = Breaker()
    attempt(breaker, 0, CREDENTIALS, key=keys[0])
    attempt(breaker, 0, OK)
    attempt(breaker, 0, CREDENTIALS, key=keys[0])
    assert breaker.state(0) == "closed"
    attempt(breaker, 0, CREDENTIALS, key=keys[1])
    assert breaker.retry_after_s(0, "c") == pytest.approx(60)
    attempt(breaker, 60 * S, CREDENTIALS)
    assert breaker.retry_after_s(60 * S) == pytest.approx(60)


# What one caller provokes, after it what another one meets, and to whom the target is closed at the end.
PROVOKED: dict[str, tuple[list[tuple[str, Sample]], set[str]]] = {
    "one key, the same body": ([("a", CRASH)] * 3, {"a"}),
    "one key, many bodies": ([("a", result(body=str(number))) for number in range(40)], {"a"}),
    "two failures are no row": ([("a", CRASH)] * 2, set()),
    "another key meets it": ([*[("a", CRASH)] * 3, ("b", CRASH)], {"a", "b", "c"}),
    "another key's success between": ([*[("a", CRASH)] * 3, ("b", OK), ("b", CRASH)], {"a"}),
    "two keys make a row": ([("a", CRASH), ("b", CRASH), ("a", CRASH)], {"a", "b", "c"}),
    "two keys make no row of two": ([("a", CRASH), ("b", CRASH)], set()),
    "own success ends the own row": ([("a", CRASH), ("a", CRASH), ("a", OK), ("a", CRASH)], set()),
    "another's success does not": ([("a", CRASH), ("a", CRASH), ("b", OK), ("a", CRASH)], {"a"}),
    "every other request of a key": ([("a", OK), ("a", CRASH)] * 10, {"a"}),
    "every other request of two keys": ([("a", OK), ("a", CRASH), ("b", OK), ("b", CRASH)] * 5, {"a", "b", "c"}),
    "an outage has no witness": ([("a", FAILED)] * 3, {"a", "b", "c"}),
    "outage behind provoked failures": ([*[("a", CRASH)] * 9, ("b", FAILED)], {"a"}),
    "provoked failures hide no outage": (
        [("b", FAILED), *[("a", CRASH)] * 40, ("b", FAILED), ("c", FAILED)], {"a", "b", "c"}
    ),
    "403 provoked": ([("a", result(kind=ErrorKind.UPSTREAM_CREDENTIALS, body="x"))] * 5, {"a"}),
    "Retry-After provoked": ([("a", result(retry_after_s=300, body="x"))], {"a"}),
}  # fmt: skip


@pytest.mark.parametrize(("met", "closed_to"), PROVOKED.values(), ids=PROVOKED)
@pytest.mark.parametrize("in_other_process", [False, True])
def test_provoked_failures_close_it_to_their_own_key_alone(
    met: Sequence[tuple[str, Sample]], closed_to: set[str], in_other_process: bool
) -> None:
    """Until another key meets them too; a process that only hears of the attempts comes to the same verdict."""
    breaker = Breaker()
    for key, sample in met:
        if in_other_process:
            breaker.settle_other(0, 0, sample, key)
        elif breaker.refusal(0, key) is None:
            attempt(breaker, 0, sample, key=key)
    assert {key for key in ("a", "b", "c") if breaker.refusal(0, key)} == closed_to
    for key in closed_to:
        assert breaker.retry_after_s(0, key) > 0


@pytest.mark.parametrize(
    ("bodies", "is_open"),
    [
        ("aaaaaaaaaa", False),
        ("ababababab", False),
        ("abc", True),
        ("aaabc", True),
        ("ab.c", False),
        ("a.b.a.b.a.b.a.b.a.b.a.b", False),
        ("a.b.c.a.b.c.a.b.c.a", True),
    ],
)
def test_three_bodies_are_witnesses_where_there_is_one_key(bodies: str, is_open: bool) -> None:
    """Each letter is a body that failed, a dot an answer between."""
    breaker = Breaker()
    for body in bodies:
        attempt(breaker, 0, OK if body == "." else result(body=body))
    assert (breaker.state(0) == "open") == is_open


def test_provoked_failures_of_one_key_do_not_keep_it_closed() -> None:
    """The target was closed to all; the attacker comes first each time, and the next caller is let through still."""
    breaker = opened()
    attempt(breaker, S, CRASH, key="a")
    assert breaker.refusal(S, "b") is not None
    attempt(breaker, 2 * S, CRASH, key="a")
    assert breaker.refusal(2 * S, "b") is None
    attempt(breaker, 2 * S, CRASH, key="a")
    assert breaker.refusal(2 * S, "a") is not None, "to its own key it is closed"
    attempt(breaker, 2 * S, OK, key="b")
    assert [breaker.refusal(2 * S, key) for key in "abc"] == [None] * 3


def test_key_is_probed_by_its_own_requests() -> None:
    """After a pause one of them passes; its success opens the target to the key again."""
    breaker = Breaker()
    for _ in range(3):
        attempt(breaker, 0, CRASH, key="a")
    assert breaker.refusal(S, "a") is None
    probe = breaker.admit(S, "a")
    assert "probe is under way" in (breaker.refusal(S, "a") or "")
    breaker.settle(probe, S, S, OK, "a")
    assert breaker.refusal(S, "a") is None


def test_state_per_key_is_bounded() -> None:
    """Of five hundred keys that fail, each between answers to another one, 64 are remembered."""
    breaker = Breaker()
    for number in range(500):
        for _ in range(3):
            attempt(breaker, 0, CRASH, key=f"key-{number}")
        for _ in range(HISTORY):
            attempt(breaker, 0, OK, key="good")
    closed = [number for number in range(500) if breaker.refusal(0, f"key-{number}")]
    assert closed == list(range(500 - MAX_KEYS, 500))


@pytest.mark.parametrize("key", [None, "a"])
def test_first_content_of_a_probe_closes_it(key: str | None) -> None:
    """However long the rest takes; what becomes of that is a result of the time before, and takes no other's place."""
    for late in (FAILED, CRASH, OK, None):
        breaker = opened()
        probe = breaker.admit(S, key)
        assert breaker.refusal(S + 1, "b") is not None
        breaker.begun(probe, S + S // 2, key)
        assert breaker.state(S + S // 2) == "closed"
        for _ in range(3):
            breaker.settle(probe, S, 60 * S, late, key)
        assert breaker.state(60 * S) == "closed"
        assert breaker.refusal(60 * S, key) is None


def test_first_content_of_a_keys_probe_closes_it_to_the_key() -> None:
    breaker = Breaker()
    for _ in range(3):
        attempt(breaker, 0, CRASH, key="a")
    probe = breaker.admit(S, "a")
    assert breaker.refusal(S + 1, "a") is not None
    breaker.begun(probe, S + 1, "a")
    assert breaker.refusal(S + 1, "a") is None
    breaker.settle(probe, S, 60 * S, CRASH, "a")
    assert breaker.refusal(60 * S, "a") is None


def test_first_content_of_others_closes_nothing() -> None:
    """Of attempts that began before it opened, of one that was let through although open, of an earlier probe."""
    breaker = Breaker()
    before = breaker.admit(0)
    for _ in range(3):
        attempt(breaker, 0, FAILED)
    for ticket in (before, breaker.admit(S // 2)):
        breaker.begun(ticket, S // 2)
        assert breaker.state(S // 2) == "open"
    probe = breaker.admit(S)
    breaker.begun(probe, S)
    for _ in range(3):
        attempt(breaker, 2 * S, FAILED)
    breaker.begun(probe, 2 * S)
    assert breaker.state(2 * S) == "open"


@pytest.mark.parametrize("named", [result(retry_after_s=100), CREDENTIALS])
@pytest.mark.parametrize("late", [FAILED, result(kind=ErrorKind.UPSTREAM_CONNECT), None, CALLERS_FAULT])
def test_earlier_probe_does_not_shorten_the_pause_of_a_later_one(named: Sample, late: Sample | None) -> None:
    breaker = opened()
    silent = breaker.admit(S)
    attempt(breaker, 9 * S, named)
    told_s = breaker.retry_after_s(9 * S)
    assert told_s >= 60
    breaker.settle(silent, S, 10 * S, late)
    assert breaker.retry_after_s(9 * S) == pytest.approx(told_s)


def test_earlier_probe_without_a_verdict_leaves_the_place_to_the_later_one() -> None:
    breaker = opened()
    silent = breaker.admit(S)
    breaker.admit(9 * S)
    breaker.settle(silent, S, 10 * S, None)
    assert breaker.refusal(10 * S) is not None


def test_probe_of_a_key_that_was_forgotten_meanwhile_counts_for_no_later_opening() -> None:
    """The key's circuit went with the outage, and a new one has a probe of its own."""
    breaker = Breaker()
    for _ in range(3):
        attempt(breaker, 0, CRASH, key="a")
    forgotten = breaker.admit(S, "a")
    for _ in range(3):
        attempt(breaker, S, FAILED, key="b")
    attempt(breaker, 3 * S, OK, key="b")
    assert breaker.is_quiet
    for _ in range(3):
        attempt(breaker, 4 * S, CRASH, key="a")
    breaker.admit(6 * S, "a")
    breaker.settle(forgotten, S, 6 * S, OK, "a")
    assert "probe is under way" in (breaker.refusal(6 * S, "a") or "")


NAMED = result(retry_after_s=100)


@pytest.mark.parametrize("opening", [[NAMED], [CREDENTIALS] * 2, [FAILED] * 3])
@pytest.mark.parametrize("began_s", [4, 6])
def test_answer_in_another_process_closes_it_only_if_it_began_since(opening: Sequence[Sample], began_s: int) -> None:
    """What was under way when the upstream named its time, or refused the credential, says nothing of that."""
    breaker = Breaker()
    for sample in opening:
        attempt(breaker, 5 * S, sample)
    breaker.settle_other(began_s * S, 7 * S, OK)
    assert (breaker.state(5 * S + 1) == "open") == (began_s < 5)


def test_answer_in_another_process_does_not_end_the_pause_of_a_later_probe() -> None:
    breaker = opened()
    attempt(breaker, 5 * S, NAMED)
    breaker.settle_other(3 * S, 7 * S, OK)
    assert breaker.retry_after_s(7 * S) == pytest.approx(98)


def test_late_lessons_of_failures_do_not_open_it_again() -> None:
    """Neither to all nor to their key: they are of the outage that is over."""
    breaker = opened()
    attempt(breaker, 5 * S, OK)
    for sample in [FAILED, CRASH, CREDENTIALS, NAMED] * 3:
        breaker.settle_other(4 * S, 9 * S, sample, "a")
    assert breaker.state(9 * S) == "closed"
    assert breaker.refusal(9 * S, "a") is None
    for _ in range(3):
        breaker.settle_other(9 * S, 9 * S, FAILED, "a")
    assert breaker.state(9 * S) == "open"


DEATH_OF_A_REPLICA = result(trips=False, kind=ErrorKind.UPSTREAM_CUT, body="killer")


@pytest.mark.parametrize("in_other_process", [False, True])
def test_request_that_ends_replicas_closes_it_to_its_own_key(*, in_other_process: bool) -> None:
    """Others could serve, so it is no verdict on the target, whoever meets it."""
    breaker = Breaker()
    for key in ("a", "b", "a", "a", "b"):
        if in_other_process:
            breaker.settle_other(0, 0, DEATH_OF_A_REPLICA, key)
        else:
            attempt(breaker, 0, DEATH_OF_A_REPLICA, key=key)
    assert [breaker.refusal(0, key) is None for key in ("a", "b", "c", None)] == [False, True, True, True]
    assert breaker.state(0) == "closed"
