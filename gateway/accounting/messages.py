"""The messages between the gateway and its applier: one JSON object a line, in both directions over a socket pair.

Rows do not go this way: the applier reads them from the journal's files.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from gateway.config.snapshot import Storage
from gateway.trace import Trace
from gateway.types import CallRecord, LedgerEntry

Call = tuple[CallRecord, tuple[LedgerEntry, ...]]
"""A finished call and its attempts by time."""


class Begin(Struct, frozen=True, kw_only=True):
    """What to do; the first line."""

    state_dir: str
    database_url: str
    journal_dir: str
    recover: tuple[str, ...] = ()
    """Journals to recover: their gateways are dead, and they are locked. None: only our applier has died."""
    makes_database: bool = False
    storage: Storage
    apply_interval_s: float
    delete_interval_s: float


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A later line from the gateway: look into the journal now; and what else it says."""

    storage: Storage | None = None
    """The configuration has changed to this."""
    number: int = 0
    """Of a question, for one of these."""
    call_id: str | None = None
    trace_of_key: tuple[str, str] | None = None
    end: bool = False
    """Close the database and end."""


NOTHING_APPLIED = (0, 0)
"""The position that an applier which has begun reports first: no line has moved for it."""


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line from the applier, with one of these. The first that is ``applied`` or ``stuck`` says whether it began."""

    applied: tuple[int, int] | None = None
    """All lines before this position are in a durable commit."""
    stuck: str | None = None
    """Why lines cannot be applied at present."""
    errno: int | None = None
    """With ``stuck``: it was the system's error, at that path."""
    path: str | None = None
    alarm: str | None = None
    """What the operator has to know."""
    log: tuple[str, int, str] | None = None
    """Logger, level and text."""
    answered: int | None = None
    """The number of the question that this answers, with neither call nor trace when there is none."""
    call: Call | None = None
    trace: Trace | None = None
    failed: bool = False
    """It could not be answered."""


decode_begin: Callable[[bytes], Begin] = msgspec.json.Decoder(Begin).decode
decode_order: Callable[[bytes], Order] = msgspec.json.Decoder(Order).decode
decode_report: Callable[[bytes], Report] = msgspec.json.Decoder(Report).decode


def line_of(message: Begin | Order | Report) -> bytes:
    """Return a message as it is sent."""
    return msgspec.json.encode(message) + b"\n"
