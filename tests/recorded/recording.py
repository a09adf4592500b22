"""Recorded exchanges on disk: which there are, and the answer of each as a provider sent it.

The form of a file is that of the recordings' own README: one JSON object with ``provider``, ``operation`` and a
``response`` of status, headers and either a ``body`` or the pieces of one in ``chunks``.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPERATIONS = ("chat", "completions", "embeddings", "transcriptions", "messages", "responses")
"""Those that have a format now."""
_PASSED_ON = ("content-type", "retry-after", "x-request-id", "request-id")


@dataclass(frozen=True)
class Recording:
    """One exchange, as far as its answer goes."""

    name: str
    provider: str
    operation: str
    model: str
    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]
    streamed: bool

    @property
    def body(self) -> bytes:
        """The whole answer."""
        return b"".join(self.pieces)

    @property
    def modes(self) -> tuple[str, ...]:
        """How it can be played: a stream passed on or put together, anything else whole."""
        return ("streamed", "assembled") if self.streamed else ("whole",)


def load(folder: Path) -> tuple[list[Recording], Counter[tuple[str, str]]]:
    """Read the recordings of a folder; of those without a format yet, count provider and operation."""
    recordings, not_yet = [], Counter[tuple[str, str]]()
    for file in sorted(folder.glob("*/*.json")):
        exchange = json.loads(file.read_text())
        provider, operation = exchange["provider"], exchange["operation"]
        if operation in OPERATIONS:
            recordings.append(_recording(f"{provider}/{file.stem}", exchange))
        else:
            not_yet[provider, operation] += 1
    return recordings, not_yet


def _recording(name: str, exchange: dict[str, Any]) -> Recording:
    response = exchange["response"]
    headers = {key.lower(): value for key, value in response["headers"].items()}
    pieces = response["chunks"] if "chunks" in response else [response["body"]]
    streamed = "chunks" in response and response["status"] == 200
    headers.setdefault("content-type", "text/event-stream" if streamed else "application/json")
    return Recording(
        name=name,
        provider=exchange["provider"],
        operation=exchange["operation"],
        model=exchange.get("model") or "",
        status=response["status"],
        headers=tuple((key, headers[key]) for key in _PASSED_ON if key in headers),
        pieces=tuple(piece.encode(errors="surrogatepass") for piece in pieces if piece),
        streamed=streamed,
    )
