"""Raises Ctrl-C, SIGTERM and a closed terminal as one exception in the main thread, once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """Raised in the main thread, wherever it is, by the first signal that asks to stop.

    Not an ``Exception``, so that nothing on the way swallows it.
    """


def stop_on_signals() -> None:
    """Install the handlers; call it again after a library has replaced them."""
    for signum in _STOPPING:
        signal.signal(signum, _stop)


def reload_on_hangup() -> SimpleQueue[int]:
    """Return a queue that gets an entry for each SIGHUP from now on.

    Where standard input is a terminal, it stays empty: there SIGHUP is the terminal's end, and stops the command.
    """
    # Of the queues only this one may be put to from a signal's handler.
    asked: SimpleQueue[int] = SimpleQueue()
    # Not `sys.stdin`, which is none where it was closed.
    if not os.isatty(0):
        signal.signal(signal.SIGHUP, lambda signum, _: asked.put(signum))
    return asked


@contextmanager
def stop_deferred() -> Iterator[None]:
    """Hold a stop request back until the block has ended, such as one that makes what a clean-up must know of."""
    asked: list[int] = []
    before = {signum: signal.signal(signum, lambda signum, _: asked.append(signum)) for signum in _STOPPING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if asked:
        signal.raise_signal(asked[0])


def stop_on_end_of_stdin() -> None:
    """Take the end of standard input for SIGTERM: a parent that dies, in whatever way, takes this process along."""
    threading.Thread(target=_wait_for_end_of_stdin, daemon=True).start()


def _wait_for_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(_signum: int, _frame: object) -> None:
    # The clean-up that follows must not be interrupted by an impatient second Ctrl-C.
    for signum in _STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    raise StopRequested
