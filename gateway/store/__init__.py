"""The ledger's rows in SQL: SQLite by default, anything SQLAlchemy speaks to by URL."""
