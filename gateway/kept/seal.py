"""Encrypt the responses that are kept for later calls.

AES-256 in GCM (NIST SP 800-38D) with a random nonce of 96 bits for each text; where it is kept is authenticated too, so
that nothing can be put in another's place. A text is compressed first. What encrypts is imported with the first text:
it takes 7 MB of each process, and many gateways never keep any.
"""

import hmac
import secrets
import zlib

KEY_BYTES = 32
_NONCE_BYTES = 12
_SHA256 = "sha256"


class UnsealableError(Exception):
    """It was not sealed with this key for this place, or not whole."""


class Seal:
    """One secret of at least 32 bytes, and what is made with it."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._names_key = hmac.digest(secret, b"names", _SHA256)
        self._cipher = AESGCM(hmac.digest(secret, b"content", _SHA256))

    def place(self, *names: str) -> bytes:
        """Return where something is kept: the same for the same names, and without the secret nothing says which."""
        return hmac.digest(self._names_key, "\0".join(names).encode(), _SHA256)

    def close(self, text: bytes, place: bytes) -> bytes:
        """Encrypt a text for a place."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, zlib.compress(text, 1), place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Decrypt what was closed for a place. Raises UnsealableError."""
        from cryptography.exceptions import InvalidTag

        try:
            return zlib.decompress(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place))
        except (InvalidTag, ValueError, zlib.error):
            raise UnsealableError from None
