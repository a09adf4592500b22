"""Tables for what remains of deleted rows: counts of refused calls, and sums of calls and attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the tables, and an index of the calls that went nowhere, which are the first to be deleted."""
    op.create_table(
        "refusals",
        sa.Column("refused_id", sa.Text, primary_key=True),
        sa.Column("since_ns", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("error_kind", sa.Text),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "sums",
        sa.Column("day_ns", sa.BigInteger, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("team_id", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("target_id", sa.Text, primary_key=True),
        sa.Column("upstream_model", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("audio_ms", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "calls_refused",
        "calls",
        ["received_at_ns"],
        sqlite_where=sa.text("attempt_ids = '[]'"),
        postgresql_where=sa.text("attempt_ids::text = '[]'"),
    )
