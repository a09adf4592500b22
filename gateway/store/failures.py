"""Turns a database's error into one sentence for the operator: which file, what is the matter, what to do.

The driver's own text is shown only where it speaks of tables; otherwise it may quote a row or an address.
"""

import os
import sqlite3
from pathlib import Path

_MOVE_AWAY = "move it away, with its -wal and -shm, and start the gateway, which makes a new one"
_GUIDE = "docs/guide/state.md"
DAMAGED = f"is damaged: save what can be read of it ({_GUIDE}), or {_MOVE_AWAY}"
GONE = f"is gone: put it back, or restart the gateway, which makes a new one ({_GUIDE})"

_SENTENCES = {
    sqlite3.SQLITE_NOTADB: f"is not an SQLite database: {_MOVE_AWAY}",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_BUSY: "is locked by another program: end that, or wait until it is done",
    sqlite3.SQLITE_LOCKED: "is locked by another program: end that, or wait until it is done",
    sqlite3.SQLITE_FULL: "has no room to grow: free some of its disk",
    sqlite3.SQLITE_READONLY: "may not be written: give the gateway's user the right to write it and its directory",
}


def explain(error: BaseException | None, path: Path | None) -> str:
    """Return the sentence for a driver's error; ``path``: the database's file, where it has one."""
    if path is None:
        return f"the ledger's database cannot be used ({type(error).__name__})"
    return f"the ledger's database {path} {_explain_sqlite(error, path)}"


def _explain_sqlite(error: BaseException | None, path: Path) -> str:
    # The low byte is the kind, the rest a detail.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if (sentence := _SENTENCES.get(code)) is not None:
        return sentence
    match code:
        case sqlite3.SQLITE_CANTOPEN:
            return _why_not_opened(path)
        case sqlite3.SQLITE_IOERR:
            return f"cannot be read or written, its disk is full or fails ({getattr(error, 'sqlite_errorname', '')})"
        case _:
            return f"has not the tables of this gateway ({error}): {_MOVE_AWAY}"


def _why_not_opened(path: Path) -> str:
    if not path.exists():
        return GONE
    if not path.is_file():
        return f"is not a file: {_MOVE_AWAY}"
    if not os.access(path, os.R_OK | os.W_OK):
        return "may not be opened: give the gateway's user the right to read and write it"
    return "cannot be opened: see that the files beside it (-wal, -shm) and its directory may be read and written"
