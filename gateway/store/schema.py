"""Creates the tables of a new database, and migrates those of an earlier release."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect

from gateway.errors import StateUnusableError
from gateway.store.engine import Database
from gateway.store.tables import FIRST_REVISION, REVISION, metadata

_log = logging.getLogger("tollway.store")


def prepare_schema(database: Database) -> None:
    """Bring the database to this version's tables: create them, or migrate an earlier version's.

    Raises StateUnusableError, and leaves the database alone, when another version wrote it that this one cannot read.
    All in one transaction: of several processes that begin at once the first migrates, and the others find it done.
    """
    with database.reading() as connection:
        if _revision(connection) == REVISION:
            _require_tables(connection)
            return
    # Only now, since it takes a while; and before the lock is taken, for which others wait.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    known = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
    with database.writing() as connection:
        found = _revision(connection)
        if found is not None and found not in known:
            msg = (
                f"the ledger's database has schema version {found}, this gateway knows {known[-1]} to {known[0]}; "
                "use the gateway that wrote it, or another database"
            )
            raise StateUnusableError(msg)
        config.attributes["connection"] = connection
        if found == FIRST_REVISION and not inspect(connection).has_table("alembic_version"):
            command.stamp(config, found)
        command.upgrade(config, REVISION)
    if found not in (None, REVISION):
        _log.info("the ledger's database was migrated from schema version %s to %s", found, REVISION)


def _revision(connection: Connection) -> str | None:
    """Return the revision of a database; None: it is empty."""
    tables = inspect(connection)
    query = None
    if tables.has_table("alembic_version"):
        query = "SELECT version_num FROM alembic_version"
    elif tables.has_table("schema_version"):
        # Written before there were migrations.
        query = "SELECT version FROM schema_version"
    found = None if query is None else connection.exec_driver_sql(query).scalar_one_or_none()
    return None if found is None else str(found).zfill(4)


def _require_tables(connection: Connection) -> None:
    missing = set(metadata.tables) - set(inspect(connection).get_table_names())
    if missing:
        msg = f"the ledger's database has no table {min(missing)}: put back what was there, or use another database"
        raise StateUnusableError(msg)
