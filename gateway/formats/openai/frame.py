"""Reads many events of a stream at once, undecoded, where an engine writes the same text around every token.

The events in the middle of a stream are one text but for their contents: a prefix, the content as JSON writes it, a
suffix. So the contents of a read can be taken out by position; put back between prefixes and suffixes they must give
the read again, which proves the positions, and joined by spaces they must be one JSON string. A space belongs neither
to an escape nor to a character, so that proves that every content is a sound string by itself: no quote, no line end,
no half of a pair. Then the read is so many events like the one that the frame was learnt from, and this is known after
a few calls for any number of tokens. Whatever is not proved is left to be decoded.
"""

import re

import msgspec

from gateway.formats.openai.answer import Tap
from gateway.formats.sse import data_of

# Within one line, so that to empty it changes nothing but a string.
_CONTENT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments)": ?"((?:[^"\\\r\n]++|\\[^\r\n])++)"')

_LF = ord("\n")
"""A number: to look for one among bytes is far faster than for bytes of length one."""

_decode_text = msgspec.json.Decoder(str).decode


class Frame:
    """What stands around the content in events that differ in nothing else."""

    __slots__ = ("_around_bytes", "_begin", "_end", "_joint", "_line", "_lines", "_prefix", "_suffix")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._around_bytes = len(prefix) + len(suffix)
        self._joint = suffix + prefix
        self._line = prefix.count(b"\n")
        self._lines = self._joint.count(b"\n")
        self._begin = len(prefix) - prefix.rfind(b"\n") - 1
        self._end = -suffix.index(b"\n")

    @property
    def merges(self) -> bool:
        """Whether one event with all contents says what several with one each say: the frame appends to no list."""
        return self._joint.count(b"[") <= 1

    def read(self, data: bytes) -> tuple[list[bytes], int] | None:
        """Return the content of each event in ``data``, as JSON writes it, and the UTF-8 bytes of all; else None."""
        inner = data.removeprefix(self._prefix).removesuffix(self._suffix)
        if len(data) - len(inner) != self._around_bytes:
            return None
        contents = [inner]
        if _LF in inner:
            # To search for one byte is far faster than for two; for the whole frame it is slowest.
            lines = data.split(b"\n")[self._line : -1 : self._lines]
            contents = [line[self._begin : self._end] for line in lines]
            if self._prefix + self._joint.join(contents) + self._suffix != data:
                return None
            inner = b" ".join(contents)
        if b"" in contents:
            return None
        try:
            text = _decode_text(b'"%b"' % inner)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        # The spaces between the contents are not theirs.
        size = len(text) if text.isascii() else len(text.encode())
        return contents, size - len(contents) + 1

    def end_of_run(self, data: bytes, start: int) -> int:
        """Return where a run of such events would end, ``start`` if none begins there, -1 if none will end."""
        if not data.startswith(self._prefix, start):
            return start
        end = data.rfind(self._suffix, start)
        return end if end < 0 else end + len(self._suffix)

    def write(self, contents: list[bytes]) -> bytes:
        """Return one event with all these contents."""
        return self._prefix + b"".join(contents) + self._suffix


def learn(event: bytes) -> Frame | None:
    """Return the frame of an event that bears content; None if it counts for something without that string."""
    content = _CONTENT.search(event)
    # An event that ends in CR was only complete with the byte behind it.
    if content is None or not event.endswith(b"\n"):
        return None
    prefix, suffix = event[: content.start(1)], event[content.end(1) :]
    emptied = Tap()
    chunk = emptied.read(data_of(prefix + suffix) or b"")
    if emptied.content_events or emptied.finish_reason is not None or chunk.usage is not None:
        return None
    return Frame(prefix, suffix)
