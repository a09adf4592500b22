"""The header fields of an HTTP/1 message, read alike by the callers' server and the upstreams' client."""

import re
from collections.abc import Iterable

_BLANKS = re.compile(r"(?<![ \t])[ \t]+\n")


def read_fields(names: Iterable[bytes], values: Iterable[bytes]) -> tuple[list[str], dict[str, str]]:
    """Return the names in lower case, and a value for each name: of repeated ones the first.

    Both come as the parser cut them, the last field first. Blanks behind a value are no part of it (RFC 9110, 5.5).
    """
    lowered = str(b"\n".join(names), "latin-1").lower().split("\n")  # no field holds a line feed
    text = str(b"\n".join(values) + b"\n", "latin-1")
    if " \n" in text or "\t\n" in text:
        text = _BLANKS.sub("\n", text)
    return lowered, dict(zip(lowered, text.split("\n"), strict=False))  # of values there is an empty one more
