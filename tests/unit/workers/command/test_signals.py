"""A stop request: raised once, where the main thread is, and held back where it would be harmful."""

import signal
from collections.abc import Iterator

import pytest

from workers.command.signals import StopRequested, reload_on_hangup, stop_deferred, stop_on_signals


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Give the test runner its handlers back."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_and_a_second_does_not_disturb_the_clean_up(signum: signal.Signals) -> None:
    stop_on_signals()
    with pytest.raises(StopRequested):
        signal.raise_signal(signum)
    signal.raise_signal(signum)


def test_a_stop_is_held_back_until_the_block_has_ended() -> None:
    stop_on_signals()
    reached = []

    def block() -> None:
        with stop_deferred():
            signal.raise_signal(signal.SIGTERM)
            reached.append(True)

    with pytest.raises(StopRequested):
        block()
    assert reached


def test_a_hangup_reloads_where_no_terminal_can_be_closed() -> None:
    stop_on_signals()
    asked = reload_on_hangup()
    assert asked.empty()
    signal.raise_signal(signal.SIGHUP)
    assert asked.get_nowait() == signal.SIGHUP
    with pytest.raises(StopRequested):
        signal.raise_signal(signal.SIGTERM)


def test_a_hangup_reloads_without_any_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``<&-``: Python has no ``sys.stdin`` then."""
    monkeypatch.setattr("sys.stdin", None)
    test_a_hangup_reloads_where_no_terminal_can_be_closed()


def test_a_closed_terminal_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: fd == 0)
    stop_on_signals()
    reload_on_hangup()
    with pytest.raises(StopRequested):
        signal.raise_signal(signal.SIGHUP)
