"""What finding out who calls means to the pipeline. How it is found out is left to the implementations."""

from collections.abc import Mapping
from typing import Protocol

from gateway.types import Principal


class Authenticator(Protocol):
    """Tell who is calling, before the body is looked at."""

    async def authenticate(self, headers: Mapping[str, str], keys: Mapping[bytes, Principal]) -> Principal:
        """Return the principal that the headers prove.

        ``headers``: names in lower case. ``keys``: SHA-256 of a key -> whose it is, from the request's snapshot; empty
        when no keys are configured. Raises GatewayError: AUTHENTICATION; STORAGE_UNAVAILABLE when it could not be found
        out, which must never be told as a wrong key.
        """
