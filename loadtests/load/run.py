"""A run's beginning and end: the shape that was asked for, the summary, and the exit code."""

# mypy: allow-untyped-calls

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import LoadTestShape
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from .figures import Ceilings, append_csv, misses, summarise
from .schedule import tick
from .users import ReplayUser

_DEFAULT_SECONDS = 30.0
_console = logging.getLogger("locust.stats_logger")  # where locust's own tables go


class Shape(LoadTestShape):
    """One of ``SHAPES``, as long as ``--run-time`` (30 s without it)."""

    abstract = True

    def __init__(self, name: str, seconds: float, users: int) -> None:
        super().__init__()
        self._name = name
        self._seconds = seconds
        self._users = users

    def tick(self) -> tuple[int, float] | None:
        """Ask the schedule, in the words of locust."""
        return tick(self._name, self.get_run_time(), self._seconds, self._users)


def choose_shape(environment: Environment, **_: Any) -> None:
    """Take the shape that was asked for. Ends the program for one that no user follows."""
    options = environment.parsed_options
    if options is None or options.shape == "constant":
        return
    if ReplayUser in environment.user_classes:
        raise SystemExit("tollway: a replay has the trace's own shape; leave --shape out.")
    environment.shape_class = Shape(options.shape, options.run_time or _DEFAULT_SECONDS, options.num_users or 1)


def report(environment: Environment, **_: Any) -> None:
    """Sum the run up, judge it, and show both beneath locust's own tables."""
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    assert environment.runner is not None
    environment.runner.quit()  # at Ctrl-C they would still be asking
    if options.csv_prefix:
        gevent.sleep(1.5 * CSV_STATS_INTERVAL_SEC)  # locust writes its CSV at this interval, and not at the end
    stats = environment.stats
    ceilings = Ceilings(options.slo_ttft_ms, options.slo_tpot_ms)
    lines = summarise(stats, ceilings)
    missed = misses(lines, min_goodput=options.min_goodput, max_failures=options.max_failures)
    if missed:
        environment.process_exit_code = 1
    elif options.max_failures is not None and not environment.runner.exceptions:
        environment.process_exit_code = 0
    if options.summary_csv:
        run = {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": environment.host or "",
            "user": " ".join(sorted(user.__name__ for user in environment.user_classes)),
            "shape": options.shape,
            "users": options.num_users,
            "slo_ttft_ms": ceilings.ttft_ms,
            "slo_tpot_ms": ceilings.tpot_ms,
        }
        append_csv(Path(options.summary_csv), lines, run)

    def show(**_: Any) -> None:
        for text in (*lines, *(f"tollway: {sentence}." for sentence in missed)):
            _console.info("%s", text)

    environment.events.quit.add_listener(show)
