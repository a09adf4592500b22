"""The interface of authentication: from a request's headers to the principal that they prove."""

from collections.abc import Mapping
from typing import Protocol

from gateway.types import Principal


class Authenticator(Protocol):
    """Authenticate a request, before its body is looked at."""

    async def authenticate(self, headers: Mapping[str, str], keys: Mapping[bytes, Principal]) -> Principal:
        """Return the principal that the headers prove.

        ``headers``: names in lower case. ``keys``: SHA-256 of a key -> whose it is, from the request's snapshot; empty
        when no keys are configured. Raises GatewayError: AUTHENTICATION; STORAGE_UNAVAILABLE when it could not be found
        out, which must never be reported as a wrong key.
        """
