"""Recognises the keys of the configuration file.

Decides which header carries a key (``Authorization: Bearer K``, as OpenAI's SDK and anthropic's from 2.12 send it,
``x-api-key: K``, as Anthropic documents, or ``api-key: K``, as Azure's clients do) and whether it is one of ours. All
that a request carries are tried in this order, for a client may send one of its own beside ours; the first that is
known decides, and a request with none is refused once. What a key may do is left to later stages.

Why no timing tells a key: what is looked up is not the key but its SHA-256. How long a dictionary takes to compare two
digests may depend on how many leading bytes agree, but a caller cannot choose the digest of what he sends, so there is
no way to walk towards a right one byte by byte; and every key, right or wrong, is hashed whole first. Nothing is
cached, for a digest takes less than a microsecond.
"""

import hashlib
from collections.abc import Mapping

from gateway.errors import ErrorKind, GatewayError
from gateway.types import Principal

ANONYMOUS = Principal(key_id="anonymous")
_MAX_KEY_CHARACTERS = 1024
_HOW = "Send it as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'."


class StaticKeys:
    """Keys known by their digest, from the snapshot of each request; so a reload adds and removes keys at once."""

    async def authenticate(self, headers: Mapping[str, str], keys: Mapping[bytes, Principal]) -> Principal:
        """Look the key up; without configured keys everyone is ``anonymous``. Raises GatewayError: AUTHENTICATION."""
        if not keys:
            return ANONYMOUS
        authorization = headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        sent = (token if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""), headers.get("api-key", ""))
        for key in sent:
            if _is_key(key := key.strip()):
                principal = keys.get(hashlib.sha256(key.encode("ascii")).digest())
                if principal is not None:
                    return principal
        raise GatewayError(ErrorKind.AUTHENTICATION, f"{_fault(sent, authorization)} {_HOW}")


def _is_key(text: str) -> bool:
    return 0 < len(text) <= _MAX_KEY_CHARACTERS and text.isascii() and text.isprintable()


def _fault(sent: tuple[str, ...], authorization: str) -> str:
    keys = [key.strip() for key in sent if key.strip()]
    if any(map(_is_key, keys)):
        return "This API key is not known here."
    if keys:
        return "The API key is malformed: too long, or with characters that no key holds."
    if authorization and authorization.partition(" ")[0].lower() != "bearer":
        return "The Authorization header does not hold a bearer token."
    return "An API key is missing."
