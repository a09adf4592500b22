"""Read values of a body that is translated into another dialect, and refuse by its place what cannot be translated.

Which members there are is the dialect's affair.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw

from gateway.formats.chat import Part, Text, UntranslatableError, untranslatable
from gateway.formats.splice import asks_nothing, members_of

_AS_WRITTEN = frozenset({"arguments", "content", "input", "input_schema", "output", "parameters", "schema"})
"""Members in which an empty value says something."""
_DATA_URL = re.compile(rb'"data:([a-z]+)\\?/(?:x-)?([a-z0-9.+-]+)(?:;[^;,"]+)*;base64,', re.IGNORECASE)
_raws = msgspec.json.Decoder(list[Raw]).decode


def typed(place: str, decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    """Read what stands at a place; members that ask for nothing may be unknown. Raises UntranslatableError."""
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            return decoder.decode(_without_nothing(bytes(raw)))
    except msgspec.ValidationError as error:
        raise untranslatable(place, error) from None


def string(raw: Raw, place: str) -> Raw:
    """Return what is spliced into other strings, once it is one."""
    if not bytes(raw).startswith(b'"'):
        raise UntranslatableError(place, "it must be a string")
    return raw


def object_of(raw: Raw, place: str) -> Raw:
    """Return an object, once it is one."""
    if not bytes(raw).startswith(b"{"):
        raise UntranslatableError(place, "it must be an object")
    return raw


def texts(raw: Raw, place: str) -> list[Part]:
    """Return a text; none for an empty one, which not every provider takes."""
    return [] if bytes(string(raw, place)) == b'""' else [Text(raw)]


def arguments_of(arguments: str | None) -> Raw:
    """Carry the arguments over as they are: to decode and encode them would change numbers and white space.

    What a model wrote that is no JSON object, for which its caller has answered it, becomes one that holds it: refused,
    the conversation could not go on.
    """
    if not arguments or arguments.isspace():
        return Raw(b"{}")
    try:
        msgspec.json.decode(arguments, type=dict[str, Raw])
    except (msgspec.DecodeError, RecursionError):
        return Raw(msgspec.json.encode({"unreadable": arguments}))
    return Raw(arguments.encode())


def data_of_url(url: Raw) -> tuple[Raw, str | None]:
    """Return what a ``data:`` URL holds in Base64, and its media type; any other URL as it is, and None."""
    raw = bytes(url)
    head = _DATA_URL.match(raw)
    if head is None:
        return url, None
    kind = head[2].decode().lower()
    return Raw(b'"' + raw[head.end() :]), f"{head[1].decode().lower()}/{'jpeg' if kind in ('jpg', 'pjpeg') else kind}"


def _without_nothing(raw: bytes) -> bytes:
    """Leave out of objects the members that ask for nothing, as SDKs write them that know newer ones than we do."""
    if raw.startswith(b"["):
        return b"[%b]" % b",".join(_without_nothing(bytes(each)) for each in _raws(raw))
    if not raw.startswith(b"{"):
        return raw
    kept: dict[str, Raw] = {}
    for name, value in members_of(raw).items():
        if name in _AS_WRITTEN:
            kept[name] = Raw(value)
        elif not asks_nothing(value) or value.startswith(b'"'):
            kept[name] = Raw(_without_nothing(value))
    return msgspec.json.encode(kept)
