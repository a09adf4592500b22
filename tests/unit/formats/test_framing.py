"""A framing is one file: the events of a format come as they do in its usual framing, however they are cut."""

import json
from collections.abc import Callable
from struct import pack, unpack_from

import pytest

from gateway.formats.anthropic.messages import AnthropicAdapter
from gateway.formats.framing import Framing
from tests.contract.exchange import ROOT, load
from tests.ground.builders import build_call, build_envelope, build_target, chat_body

RECORDED = load(ROOT / "anthropic" / "text-stream" / "exchange.json").upstream_response.encode()
PAYLOADS = [line.removeprefix(b"data: ") for line in RECORDED.splitlines() if line.startswith(b"data: ")]


class Ndjson:
    """A JSON object a line."""

    whole = frozenset((b"<",))

    def __init__(self) -> None:
        """Begin a stream."""
        self.rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """See ``Framing``."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return lines

    def finish(self) -> list[bytes]:
        """Return the last line, whose end may be missing."""
        last, self.rest = self.rest, b""
        return [last]

    def data(self, event: bytes) -> bytes | None:
        """See ``Framing``."""
        return event.strip() or None


class Lengths:
    """A length before each event, as in AWS's event streams without their headers and sums."""

    whole: frozenset[bytes] = frozenset()

    def __init__(self) -> None:
        """Begin a stream."""
        self.rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """See ``Framing``."""
        self.rest += chunk
        events = []
        while len(self.rest) >= 4 and len(self.rest) >= (end := 4 + unpack_from(">I", self.rest)[0]):
            events.append(self.rest[:end])
            self.rest = self.rest[end:]
        return events

    def finish(self) -> list[bytes]:
        """Return nothing: no event waits for the end."""
        return []

    def data(self, event: bytes) -> bytes | None:
        """See ``Framing``."""
        return event[4:]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "assembled"])
@pytest.mark.parametrize(
    ("framing", "written"),
    [(Ndjson, b"\n".join(PAYLOADS)), (Lengths, b"".join(pack(">I", len(each)) + each for each in PAYLOADS))],
)
def test_answer_is_the_same_in_another_framing(
    framing: Callable[[], Framing], written: bytes, stream: bool, size: int
) -> None:
    """The format takes it by one argument."""

    def read(adapter: AnthropicAdapter, answer: bytes) -> list[bytes]:
        call = build_call(build_envelope(chat_body(stream=stream)))
        decoder = adapter.decoder(call, build_target(always_stream=True))
        got = b"".join(decoder.feed(answer[at : at + size]) for at in range(0, len(answer), size)) + decoder.finish()
        assert decoder.complete
        assert b"[DONE]" in got if stream else json.loads(got)["choices"]
        return got.split(b"\n")

    expected = read(AnthropicAdapter(wall_ns=int), RECORDED)
    assert read(AnthropicAdapter(wall_ns=int, framing=framing), written) == expected
