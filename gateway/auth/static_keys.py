"""Recognises the keys of the configuration file.

Decides which header carries a key (``Authorization: Bearer K``, as OpenAI's SDK and anthropic's from 2.12 send it,
``x-api-key: K``, as Anthropic documents, or ``api-key: K``, as Azure's clients do) and whether it is one of ours. What
a key may do is left to later stages.

Why no timing tells a key: what is looked up is not the key but its SHA-256. How long a dictionary takes to compare two
digests may depend on how many leading bytes agree, but a caller cannot choose the digest of what he sends, so there is
no way to walk towards a right one byte by byte; and every key, right or wrong, is hashed whole first. Nothing is
cached, for a digest takes less than a microsecond.
"""

import hashlib
from collections.abc import Mapping

from gateway.errors import ErrorKind, GatewayError
from gateway.types import Principal

_ANONYMOUS = Principal(key_id="anonymous")
_MAX_KEY_CHARACTERS = 1024
_HOW = "Send it as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'."


class StaticKeys:
    """Keys known by their digest, from the snapshot of each request; so a reload adds and removes keys at once."""

    async def authenticate(self, headers: Mapping[str, str], keys: Mapping[bytes, Principal]) -> Principal:
        """Look the key up; without configured keys everyone is ``anonymous``. Raises GatewayError: AUTHENTICATION."""
        if not keys:
            return _ANONYMOUS
        principal = keys.get(hashlib.sha256(_key(headers).encode("ascii")).digest())
        if principal is None:
            raise _refusal("This API key is not known here.")
        return principal


def _key(headers: Mapping[str, str]) -> str:
    """Return the key as sent. A bearer token goes before the others, which an SDK may fill with a placeholder."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    key = token if scheme.lower() == "bearer" else headers.get("x-api-key") or headers.get("api-key", "")
    key = key.strip()
    if not key or len(key) > _MAX_KEY_CHARACTERS or not (key.isascii() and key.isprintable()):
        raise _refusal(_fault(key, authorization))
    return key


def _fault(key: str, authorization: str) -> str:
    if key:
        return "The API key is malformed: too long, or with characters that no key holds."
    if authorization and authorization.partition(" ")[0].lower() != "bearer":
        return "The Authorization header does not hold a bearer token."
    return "An API key is missing."


def _refusal(sentence: str) -> GatewayError:
    return GatewayError(ErrorKind.AUTHENTICATION, f"{sentence} {_HOW}")
