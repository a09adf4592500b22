"""A column for the members of a call that its target was not sent, by name."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column to the calls; of those that are there nothing was left out."""
    op.add_column("calls", sa.Column("left_out", sa.JSON, nullable=False, server_default="[]"))
