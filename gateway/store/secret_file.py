"""A secret that is made once in the state directory, and read by every process and start after that."""

import contextlib
import os
from pathlib import Path

from gateway.errors import StateUnusableError


def secret_of(path: Path, size_bytes: int) -> bytes:
    """Return what the file holds; the first to ask makes it, readable by its owner alone.

    Raises StateUnusableError when it has another size, and OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        return _whole(path, size_bytes)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(os.urandom(size_bytes))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its secret is that of all
    except OSError:  # a file system without links
        draft.replace(path)
    draft.unlink(missing_ok=True)
    return _whole(path, size_bytes)


def _whole(path: Path, size_bytes: int) -> bytes:
    secret = path.read_bytes()
    if len(secret) != size_bytes:
        msg = f"{path} should hold {size_bytes} bytes and has {len(secret)}: put it back, or delete it"
        raise StateUnusableError(msg)
    return secret
