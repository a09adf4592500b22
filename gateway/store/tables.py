"""The tables. Flat columns for what is summed and searched, JSON for what is only shown again.

Money is integer nano-dollars and times are integer nanoseconds since 1970 (UTC), both in 64 bits: 9.2 billion dollars,
and the year 2262. The columns of a table are in the order of its Struct's fields, which the inserts rely on. An index
costs every call a microsecond or two: there is one for each question that is asked, and no more. Bump
``SCHEMA_VERSION`` with every change.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, Table, Text, text

SCHEMA_VERSION = 5

metadata = MetaData()
_IN_A_TRACE = text("trace_id IS NOT NULL")

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

attempts = Table(
    "attempts",
    metadata,
    # Ours, never the provider's id: providers repeat theirs, and rows vanish (litellm #28376).
    Column("attempt_id", Text, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("team_id", Text),
    Column("route", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("started_at_ns", BigInteger, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("tpot_ms", Float),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("audio_ms", BigInteger, nullable=False),
    Column("usage_origin", Text, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
    Column("cost_origin", Text, nullable=False),
    Column("price_version", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer),
    Column("error_kind", Text),
    Column("trace_id", Text),
    Index("attempts_by_call", "call_id"),
    Index("attempts_by_time", "started_at_ns"),
    # Of those that have one: a call without costs nothing here.
    Index("attempts_by_trace", "trace_id", sqlite_where=_IN_A_TRACE, postgresql_where=_IN_A_TRACE),
)

calls = Table(
    "calls",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("received_at_ns", BigInteger, nullable=False),
    Column("operation", Text, nullable=False),
    Column("key_id", Text),
    Column("route", Text),
    Column("policy_version", Text),
    Column("stream", Boolean, nullable=False),
    Column("input_tokens_estimate", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error_kind", Text),
    Column("target_id", Text),
    Column("reason", Text),
    Column("considered", JSON, nullable=False),
    Column("dropped", JSON, nullable=False),
    Column("attempt_ids", JSON, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
    Column("ttft_ms", Float),
    Column("tpot_ms", Float),
    Column("duration_ms", Float, nullable=False),
    Column("overhead_ms", Float),
    Column("bridged_for", Text),
)
