"""Reads a stream of chat chunks as a caller does: text, usage, cost, error, end marker."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ChatStream:
    """Feed it what arrives; it counts as a caller would."""

    text: list[str] = field(default_factory=list)
    """Pieces of content, one for each event that had any: of the scripted model, one per token."""
    usage: dict[str, Any] | None = None
    cost_usd: str | None = None
    """The gateway's closing comment."""
    done: bool = False
    error: dict[str, Any] | None = None
    _rest: bytes = b""

    def feed(self, data: bytes) -> int:
        """Read whole events and return how many of them brought content."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        before = len(self.text)
        for event in events:
            self._read(event)
        return len(self.text) - before

    def _read(self, event: bytes) -> None:
        if event.startswith(b": x-tollway-cost-usd "):
            self.cost_usd = event.split()[-1].decode()
        if not event.startswith(b"data: "):
            return
        if event == b"data: [DONE]":
            self.done = True
            return
        chunk = json.loads(event.removeprefix(b"data: "))
        self.error = chunk.get("error") or self.error
        self.usage = chunk.get("usage") or self.usage
        self.text += [text for choice in chunk.get("choices", ()) if (text := choice["delta"].get("content"))]
