"""The header fields of an HTTP/1 message, read alike by the callers' server and the upstreams' client."""

import re
from collections.abc import Iterable

_BLANKS = re.compile(r"(?<![ \t])[ \t]+\n")
_LISTS = frozenset(
    ("accept", "accept-encoding", "access-control-request-headers", "anthropic-beta", "openai-beta", "tracestate")
)
"""Lists that a message may spread over several lines (RFC 9110, 5.3).

Of what frames or codes a body, names a host or holds a key, the first line alone counts.
"""


def read_fields(names: Iterable[bytes], values: Iterable[bytes]) -> tuple[list[str], dict[str, str]]:
    """Return the names in lower case, and a value for each name: of repeated ones the first, or all of a list.

    Both come as the parser cut them, the last field first. Blanks behind a value are no part of it (RFC 9110, 5.5).
    """
    lowered = str(b"\n".join(names), "latin-1").lower().split("\n")  # no field holds a line feed
    text = str(b"\n".join(values) + b"\n", "latin-1")
    if " \n" in text or "\t\n" in text:
        text = _BLANKS.sub("\n", text)
    fields = dict(zip(lowered, text.split("\n"), strict=False))  # of values there is an empty one more
    if len(fields) != len(lowered):
        sent = list(zip(lowered, text.split("\n"), strict=False))[::-1]
        for name in fields.keys() & _LISTS:
            fields[name] = ", ".join(value for each, value in sent if each == name and value)
    return lowered, fields
