"""Alembic's entry: run the revisions on the connection that ``store.engine`` hands over, within its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
