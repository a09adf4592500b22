"""Tells what a call is for: the key of ``models.NAME.quality`` by which its candidates are compared."""

from gateway.types import Call

HEADER = "x-tollway-task"


def task_of(call: Call) -> str | None:
    """Return the task that the caller names in a header, else the route's; None: neither names one."""
    return call.headers.get(HEADER, "").strip() or call.route.task
