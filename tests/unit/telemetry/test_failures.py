"""One line for each failure, and one for a flood of them."""

import asyncio
import logging

import pytest

from gateway.errors import MEANINGS, ErrorKind, GatewayError, UpstreamError
from gateway.shortage import ShortageError
from gateway.simulation.virtual_time import run_virtual
from gateway.telemetry.failures import MAX_KINDS, PAUSE_S, FailureLog

REFUSED = UpstreamError(ErrorKind.UPSTREAM_CONNECT, "The upstream could not be reached.", cause="refused")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(each.levelno, each.getMessage()) for each in caplog.records if each.name == "tollway.failures"]


def test_line_says_what_failed_and_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        FailureLog().note(REFUSED, call_id="req_1", target_id="small", then="went on to large")

    run_virtual(scenario())
    line = "failed: request req_1, target small, kind upstream_connect, cause refused, then went on to large"
    assert told(caplog) == [(logging.WARNING, line)]


def test_status_and_sentence_of_an_upstream_stand_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        error = UpstreamError(ErrorKind.UPSTREAM_CREDENTIALS, "x", upstream_status=401, said="The key is revoked.")
        FailureLog().note(error, call_id="req_1", target_id="small", then="the caller was told")

    run_virtual(scenario())
    ((level, line),) = told(caplog)
    assert level == logging.ERROR
    assert "cause The key is revoked., then the caller was told, upstream_status 401" in line


@pytest.mark.parametrize("kind", ErrorKind)
def test_level_is_the_tables(kind: ErrorKind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        FailureLog().note(GatewayError(kind, "x"), call_id="req_1", target_id=None, then="the caller was told 400")

    run_virtual(scenario())
    assert [level for level, _ in told(caplog)] == [MEANINGS[kind].log_level]


def test_flood_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand alike are two lines, another kind has its own, and after the pause a new line is due."""

    async def scenario() -> None:
        log = FailureLog()
        for number in range(1_000):
            log.note(REFUSED, call_id=f"req_{number}", target_id="small", then="went on to large")
        log.note(REFUSED, call_id="req_x", target_id="large", then="the caller was told")
        await asyncio.sleep(PAUSE_S + 1)
        log.note(REFUSED, call_id="req_y", target_id="small", then="went on to large")
        await asyncio.sleep(PAUSE_S + 1)

    run_virtual(scenario())
    lines = [line for _, line in told(caplog)]
    assert [line.split(",")[0] for line in lines] == [
        "failed: request req_0",
        "failed: request req_x",
        "failed: upstream_connect at small 999 times more within 10 s",
        "failed: request req_y",
    ]


def test_shortage_of_ours_is_one_line_for_all_targets(caplog: pytest.LogCaptureFixture) -> None:
    """It says what to do about it, at ERROR."""

    async def scenario() -> None:
        log = FailureLog()
        for number in range(1_000):
            log.note(ShortageError("threads"), call_id="req_1", target_id=f"t{number}", then="the caller was told")

    run_virtual(scenario())
    ((level, line),) = told(caplog)
    assert level == logging.ERROR
    assert "target t0, kind own_shortage, cause threads: raise the limit of threads (ulimit -u" in line


def test_counts_are_logged_at_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    """What came since the last line is not lost with the process, and is not told twice."""

    async def scenario() -> None:
        log = FailureLog()
        for number in range(3):
            log.note(REFUSED, call_id=f"req_{number}", target_id="small", then="went on to large")
        log.note(REFUSED, call_id="req_x", target_id="large", then="went on to small")
        log.stop()
        await asyncio.sleep(PAUSE_S + 1)

    run_virtual(scenario())
    assert [line.split(",")[0] for _, line in told(caplog)] == [
        "failed: request req_0",
        "failed: request req_x",
        "failed: upstream_connect at small 2 times more within 10 s",
    ]


def test_fault_of_ours_is_one_record_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Another fault is another one, and the same again is counted."""

    async def scenario() -> None:
        log = FailureLog()
        for fault in (KeyError("a"), KeyError("b"), TypeError("c")):
            error = GatewayError(ErrorKind.INTERNAL, "x")
            error.__cause__ = fault
            log.note(error, call_id="req_1", target_id=None, then="the caller was told 500")
        log.stop()

    run_virtual(scenario())
    records = [each for each in caplog.records if each.name == "tollway.failures"]
    assert [type(each.exc_info[1]) for each in records[:2] if each.exc_info] == [KeyError, TypeError]
    assert [each.getMessage() for each in records] == [
        "failed: request req_1, kind internal, cause KeyError, then the caller was told 500",
        "failed: request req_1, kind internal, cause TypeError, then the caller was told 500",
        "failed: internal 1 times more within 10 s",
    ]


def test_distinct_kinds_of_failure_have_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond it the failures of all other targets are one flood: neither memory nor the log grows without end."""

    async def scenario() -> int:
        log = FailureLog()
        for number in range(MAX_KINDS + 50):
            log.note(REFUSED, call_id="req", target_id=f"any/{number}", then="the caller was told")
        return len(log._since)

    assert run_virtual(scenario()) == MAX_KINDS + 1
    assert len(told(caplog)) == MAX_KINDS + 1
