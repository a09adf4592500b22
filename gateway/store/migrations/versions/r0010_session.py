"""A column for the session that a call belongs to, by its key."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column to the calls; those that are there belong to none."""
    op.add_column("calls", sa.Column("session", sa.Text, nullable=True))
