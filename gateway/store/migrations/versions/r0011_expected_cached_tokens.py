"""A column for the cached tokens that were expected of an attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column to the attempts; of those that are there nothing was expected."""
    op.add_column("attempts", sa.Column("expected_cached_tokens", sa.BigInteger, nullable=True))
