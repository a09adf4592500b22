"""Tells sessions apart without keeping what clients call them, which may be a user's name.

A key is a digest under a secret of the state directory: the same for all processes there and after a restart, and of
no use without it. Sessions of two gateway keys never have one key, whatever they are called.
"""

import secrets
from collections.abc import Mapping
from hashlib import blake2b

from gateway.formats.session import named_session

SECRET_BYTES = 32


class Sessions:
    """Makes the keys; until it is given one, by a secret of its own."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(SECRET_BYTES)

    def key_of(self, key_id: str, headers: Mapping[str, str], members: Mapping[str, bytes]) -> str | None:
        """Return the session's key: 32 hexadecimal digits; None: the client names no session."""
        name = named_session(headers, members)
        if name is None:
            return None
        said = f"{len(key_id)}:{key_id}{name}".encode("utf-8", "surrogatepass")
        return blake2b(said, key=self.secret, digest_size=16).hexdigest()
