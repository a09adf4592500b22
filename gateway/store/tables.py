"""The tables, made from the Structs that they keep. Flat columns for what is summed and searched, JSON for the rest.

A field of ``LedgerEntry``, ``Usage``, ``CallRecord`` or ``RefusedCalls`` is a column: to add one, add the field, with a
default, since journals and rows of the release before do not have it, and a revision in ``migrations/versions``. Money
is integer nano-dollars and times are integer nanoseconds since 1970 (UTC), both in 64 bits: 9.2 billion dollars, and
the year 2262. An index costs every call a microsecond or two: there is one for each question that is asked, no more.
"""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.types import TypeEngine

from gateway.tariff import Amounts, Usage
from gateway.types import CallRecord, LedgerEntry, RefusedCalls

FIRST_REVISION = "0005"
"""What a database is that was written before there were migrations."""
REVISION = "0011"
"""The newest in ``migrations/versions``: what a database is brought to before it is used."""

metadata = MetaData()
_IN_A_TRACE = text("trace_id IS NOT NULL")
REFUSED = {"sqlite": text("attempt_ids = '[]'"), "postgresql": text("attempt_ids::text = '[]'")}
"""What tells a call without attempts, by dialect; said exactly so, it finds its index."""
_SQL_TYPES: dict[Any, type[TypeEngine[Any]]] = {str: Text, int: BigInteger, float: Float, bool: Boolean, tuple: JSON}
_INTEGER_FIELDS = {"status"}
"""Whole numbers that need no 64 bits."""


def _columns(struct: type[msgspec.Struct], primary_key: str) -> Iterator[Column[Any]]:
    """Yield a column for each field in order, those of ``Usage`` in its place."""
    for field in msgspec.structs.fields(struct):
        if field.type is Usage:
            for part in msgspec.structs.fields(Usage):
                yield _column("usage_origin" if part.name == "origin" else part.name, part.type)
        else:
            yield _column(field.name, field.type, primary_key=field.name == primary_key)


def _column(name: str, annotation: Any, *, primary_key: bool = False) -> Column[Any]:
    nullable = get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)
    if nullable:
        (annotation,) = [each for each in get_args(annotation) if each is not NoneType]
    origin = get_origin(annotation) or annotation
    sql_type = Integer if name in _INTEGER_FIELDS else _SQL_TYPES[str if origin is Literal else origin]
    return Column(name, sql_type, nullable=nullable, primary_key=primary_key)


attempts = Table(
    "attempts",
    metadata,
    # The key is ours, never the provider's id: providers repeat theirs, and rows vanish (litellm #28376).
    *_columns(LedgerEntry, "attempt_id"),
    Index("attempts_by_call", "call_id"),
    Index("attempts_by_time", "started_at_ns"),
    # Of those that have one: a call without costs nothing here.
    Index("attempts_by_trace", "trace_id", sqlite_where=_IN_A_TRACE, postgresql_where=_IN_A_TRACE),
)

calls = Table(
    "calls",
    metadata,
    *_columns(CallRecord, "call_id"),
    # Of those that went nowhere, which are the first to be deleted.
    Index("calls_refused", "received_at_ns", sqlite_where=REFUSED["sqlite"], postgresql_where=REFUSED["postgresql"]),
)

refusals = Table("refusals", metadata, *_columns(RefusedCalls, "refused_id"))

SUM_KEYS = ("day_ns", "key_id", "team_id", "route", "target_id", "upstream_model", "outcome")
"""``day_ns``: when the day began (UTC). No team is an empty one."""
SUMMED = ("calls", "attempts", *Amounts.__struct_fields__, "cost_nano_usd")
sums = Table(
    "sums",
    metadata,
    # Of calls and attempts that were deleted: what they were together.
    *(Column(name, BigInteger if name == "day_ns" else Text, primary_key=True) for name in SUM_KEYS),
    *(Column(name, BigInteger, nullable=False) for name in SUMMED),
)

# Only for releases that knew no migrations: they read it, and refuse a database that is not theirs.
Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
