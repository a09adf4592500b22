"""Writes texts, reasoning and tool calls one after another, for dialects whose streams have only one open at a time.

Engines may send the pieces of several tool calls, or blanks, in any order. What comes within the arguments of a call is
held until they are whole. How a piece is begun, added to and ended is the dialect's affair.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.malformed import UNREADABLE

encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class OneByOne:
    """What is open, and what is held."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ""
        """The kind of the piece that is open; empty: none is."""
        self._open_tool: int | None = None
        self._arguments: list[str] = []
        """Of the call that is open."""
        self._whole: bool | None = False
        """Whether they are whole; None: it is to be seen."""
        self._held: list[Callable[[], bytes]] = []
        """Pieces of other kinds, in order."""
        self._kept_bytes = 0

    @abstractmethod
    def _begun(self, kind: str, tool: tuple[str, str]) -> bytes:
        """Begin a piece. ``tool``: of a call, its id and its name."""

    @abstractmethod
    def _added(self, text: str) -> bytes:
        """Add to the piece that is open."""

    @abstractmethod
    def _ended(self) -> bytes:
        """End the piece that is open."""

    def arguments(self, index: int, fragment: str) -> bytes:
        """Add to the arguments of a call. Raises UpstreamError when they were whole before."""
        if not fragment:
            return b""
        released = b"" if index == self._open_tool else self._release()
        if index == self._open_tool:
            self._count(fragment)
            self._arguments.append(fragment)
            if fragment.strip():
                self._whole = None if fragment.rstrip().endswith("}") else False
            return released + self._added(fragment)
        if not self._held:
            if not fragment.strip():
                return released
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream added to a tool call that was complete.")
        return released + self._hold(partial(self.arguments, index, fragment), fragment)

    def _add(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        opened = b""
        if self._open != kind:
            opened = self._release()
            if self._is_within():
                return opened + self._hold(partial(self._add, kind, text), text)
            opened += self._start(kind)
        return opened + self._added(text)

    def _begin_tool(self, index: int, kind: str, call_id: str, name: str) -> bytes:
        opened = self._release()
        if self._is_within():
            return opened + self._hold(partial(self._begin_tool, index, kind, call_id, name), name)
        opened += self._start(kind, (call_id, name))
        self._open_tool = index
        return opened

    def _say_held(self) -> bytes:
        """Write all that is held."""
        written = b""
        while self._held:
            written += self._next()
        return written

    def _start(self, kind: str, tool: tuple[str, str] = ("", "")) -> bytes:
        closed = self._close()
        self._open = kind
        return closed + self._begun(kind, tool)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        ended = self._ended()
        self._open, self._open_tool, self._arguments, self._whole, self._kept_bytes = "", None, [], False, 0
        return ended

    def _is_within(self) -> bool:
        """Whether a call is open whose arguments are not whole yet."""
        if self._whole is None:
            self._whole = is_object("".join(self._arguments))
        return self._open_tool is not None and not self._whole

    def _hold(self, verb: Callable[[], bytes], text: str) -> bytes:
        self._count(text)
        self._held.append(verb)
        return b""

    def _count(self, text: str) -> None:
        self._kept_bytes += len(text)
        check_size(self._kept_bytes)

    def _release(self) -> bytes:
        """Write what was held, as far as the calls before it are whole."""
        written = b""
        while self._held and not self._is_within():
            written += self._next()
        return written

    def _next(self) -> bytes:
        """End the piece that is open, and say again what was held: some of it may be held once more."""
        held, self._held = self._held, []
        return self._close() + b"".join([verb() for verb in held])


def event_of(name: str, members: Mapping[str, Any]) -> bytes:
    """Write one event of a stream, whose data says its name too."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **members}))


def is_object(text: str) -> bool:
    """Return whether arguments are a JSON object."""
    try:
        _decode_object(text)
    except UNREADABLE:
        return False
    return True
