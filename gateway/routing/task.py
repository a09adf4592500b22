"""Tells what a call is for: the key of ``models.NAME.quality`` by which its candidates are compared."""

from gateway.formats.typed import refuse
from gateway.types import Call

HEADER = "x-tollway-task"


def task_of(call: Call) -> str | None:
    """Return the task that the caller names in a header, else the route's; None: neither names one.

    Raises GatewayError (INVALID_REQUEST) when it is not for the key to say.
    """
    said, granted = call.headers.get(HEADER, "").strip(), call.principal.may_override
    if said and granted is not None and "task" not in granted:
        refuse(HEADER, f"is not for the key '{call.principal.key_id}' to say (may_override)")
    return said or call.route.task
