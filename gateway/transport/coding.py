"""Decodes compressed answers. We ask for none (``identity``); a proxy on the way may compress all the same.

gzip and deflate are decoded as they arrive, in pieces of bounded size: how much an answer may hold in all is limited
where it is read. Any other coding fails an answer by name; of an error only its body is lost.
"""

import zlib
from collections.abc import Callable, Mapping

from gateway.errors import ErrorKind, UpstreamError
from gateway.transport.base import UpstreamStream, pour_by_reads

_PIECE_BYTES = 1 << 18
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_WINDOW_BITS = -15
"""RFC 9110, 8.4.1.2: some send deflate without its zlib frame."""
_SHOWN_CHARACTERS = 40


def decoded(answer: UpstreamStream, coding: str) -> UpstreamStream:
    """Return an answer's body without its coding. Raises UpstreamError (UPSTREAM_PROTOCOL) for one not known here."""
    name = coding.strip().lower()
    if name == "identity":
        return answer
    if name not in _WINDOW_BITS and 200 <= answer.status < 300:
        shown = coding[:_SHOWN_CHARACTERS]
        raise UpstreamError(
            ErrorKind.UPSTREAM_PROTOCOL,
            f"The upstream's answer is coded as {shown!r}, which was not asked for; "
            "have the upstream, or the proxy before it, honour 'accept-encoding: identity'.",
        )
    return _Decoded(answer, name)


class _Decoded:
    """An answer whose body is decoded as it is read; see ``UpstreamStream``."""

    def __init__(self, answer: UpstreamStream, coding: str) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer
        self._bits = _WINDOW_BITS.get(coding)
        self._inflater = None if self._bits is None else zlib.decompressobj(self._bits)
        self._coded = b""
        self._began = False

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be decoded."""
        return self._answer.complete and not self._coded

    async def read(self) -> bytes:
        """Return what can be decoded of what has arrived, at most a piece: see ``UpstreamStream.read``."""
        while True:
            self._coded = self._coded or await self._answer.read()
            if not self._coded:
                if self._began and self._inflater is not None and not self._inflater.eof:
                    raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream's coded answer ends within itself.")
                return b""
            if data := self._decode():
                return data

    def _decode(self) -> bytes:
        """Decode at most a piece of what is there; nothing of a coding that is not known."""
        if self._inflater is None or self._bits is None:
            self._coded = b""
            return b""
        if self._inflater.eof:  # gzip may consist of several members
            self._inflater = zlib.decompressobj(self._bits)
        try:
            data = self._inflater.decompress(self._coded, _PIECE_BYTES)
        except zlib.error:
            if self._began or self._bits != _WINDOW_BITS["deflate"]:
                raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer cannot be decoded.") from None
            self._bits = _RAW_WINDOW_BITS
            self._inflater = zlib.decompressobj(self._bits)
            return self._decode()
        self._began = True
        self._coded = self._inflater.unconsumed_tail or self._inflater.unused_data
        return data

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand on what is decoded: see ``UpstreamStream.pour``."""
        return await pour_by_reads(self, take)
