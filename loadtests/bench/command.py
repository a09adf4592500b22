"""How a bench's command begins and goes round, and how it ends when it is told to."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from loadtests.bench.install import InstallError, build_wire, cache_directory

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def begin() -> tuple[Path, Path]:
    """Take SIGINT and SIGTERM for ``KeyboardInterrupt``; return the cache directory and the client, built.

    Ends the process with one sentence and exit code 1 when the client cannot be built.
    """
    for number in _STOPPING:
        signal.signal(number, _interrupt)
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        return cache, build_wire(cache)
    except InstallError as error:
        sys.exit(str(error))


def repeat(times: int, go_round: Callable[[], None]) -> bool:
    """Go round so often; return whether an interrupt has ended it before."""
    try:
        for _ in range(times):
            go_round()
    except KeyboardInterrupt:
        print("interrupted: what follows is what was measured until then", file=sys.stderr)
        return True
    return False


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """End the run in order, once: a second signal must not interrupt the clean-up."""
    for number in _STOPPING:
        signal.signal(number, lambda _number, _frame: None)
    raise KeyboardInterrupt
