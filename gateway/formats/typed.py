"""Open a caller's body and check its members against types; a member that is wrong is refused by its path.

What the types are, and how a member that is wrong is described, is the endpoint's part.
"""

import re
from collections.abc import Callable, Mapping
from typing import Never, TypeVar

import msgspec

from gateway.errors import ErrorKind, GatewayError
from gateway.formats.outline import Outline, outline_of
from gateway.formats.unambiguous import SMALL_BYTES, members_of_object

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_Read = TypeVar("_Read")
_MustBe = Callable[[str], str]
"""Says of a place what should be there."""


def open_body(body: bytes) -> tuple[Outline | None, Mapping[str, bytes], bytes, Mapping[str, bytes]]:
    """Return a body's outline (None: it is small), its members, and the text and members that types are read from.

    In these two, long strings of a large body are marks. Raises GatewayError (INVALID_REQUEST) when the body is not one
    unambiguous JSON object. A chat's endpoint, on the path of nearly every call, does this itself.
    """
    if len(body) <= SMALL_BYTES:
        members = members_of_object(body)
        return None, members, body, members
    outline = outline_of(body)
    return outline, outline.members, outline.text, outline.short_members


def read_typed(read: Callable[[bytes], _Read], text: bytes, outline: Outline | None, must_be: _MustBe) -> _Read:
    """Read a body that is one JSON object, or its outline's text. Raises GatewayError (INVALID_REQUEST)."""
    try:
        return read(text)
    except msgspec.ValidationError as error:
        if outline is not None:
            outline.check_grammar()
        refuse(path := path_of(error) or "body", must_be(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if outline is None:
            raise  # it has been proved before
        raise outline.fault(error) from None


def path_of(error: msgspec.ValidationError) -> str:
    """Return where in the body a member is wrong or missing: ``messages[0].role``."""
    shown = str(error)
    at, missing = _PATH.search(shown), _MISSING.search(shown)
    path = at[1] if at is not None else ""
    return path if missing is None else f"{path}.{missing[1]}".removeprefix(".")


def refuse(param: str, what: str) -> Never:
    """Raise GatewayError (INVALID_REQUEST) that names a place."""
    raise GatewayError(ErrorKind.INVALID_REQUEST, f"'{param}' {what}.", param=param)
