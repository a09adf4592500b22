"""The cause of a failure, of an attempt and of a call; and a word to releases that know no migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns; a release before this one now refuses the database instead of reading half of it."""
    op.add_column("attempts", sa.Column("cause", sa.Text))
    op.add_column("calls", sa.Column("cause", sa.Text))
    op.execute("UPDATE schema_version SET version = 6")
