"""What the contenders are asked to do. Nothing here knows a contender."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TRACE = Path(__file__).parents[1] / "traces" / "AzureLLMInferenceTrace_conv_2023.csv"
_TRACE_TOKEN_MS = 20.0
_TRACE_CONNECTIONS = 256
_TRACE_MIN_S = 10.0
"""Fewer seconds hold too few arrivals at the trace's own speed: it has 5.5 a second."""


Dialect = Literal["chat", "messages", "responses"]


@dataclass(frozen=True)
class Workload:
    """One point of the table. Without ``requests`` it lasts as long as the bench says."""

    name: str
    connections: int
    tokens: int = 16
    stream: bool = False
    prompt_bytes: int = 60
    pace_ms: float = 0.0
    """Between two tokens of a stream; 0: as fast as the connection takes them."""
    requests: int = 0
    """Per connection; 0: until the time is up."""
    asks: Dialect = "chat"
    """What the caller speaks."""
    speaks: Dialect = "chat"
    """What the upstream speaks."""
    by_default: bool = True
    """Measured when nobody says which; no, where it takes much longer than the others."""
    speed: float = 0.0
    """Of a trace's replay, in multiples of its own clock; 0: no replay."""
    rate: float = 0.0
    """Requests a second, each sent when it is due whether or not the earlier ones have been answered; 0: no rate."""
    delay_ms: float = 0.0
    """What the upstream takes for an answer that is not streamed."""

    @property
    def by_tokens(self) -> bool:
        """Whether its rate is told in tokens per second, not in requests."""
        return self.stream and not self.speed

    @property
    def is_paced(self) -> bool:
        """Whether upstream, trace or client sets the rate, so that only latency and CPU tell contenders apart."""
        return self.pace_ms > 0 or self.rate > 0

    def client_arguments(self, seconds: float) -> list[str]:
        """Spell the workload for ``wire client``; ``seconds`` bounds how long new requests are sent."""
        seconds = max(seconds, _TRACE_MIN_S) if self.speed else seconds
        arguments = ["-connections", str(self.connections), "-seconds", f"{seconds:g}"]
        if self.asks != "chat":
            arguments += ["-path", f"/v1/{self.asks}"]
        if self.speed:
            return [*arguments, "-stream", "-trace", str(TRACE), "-speed", f"{self.speed:g}"]
        arguments += ["-tokens", str(self.tokens), "-prompt-bytes", str(self.prompt_bytes)]
        arguments += ["-rate", f"{self.rate:g}"] if self.rate else ["-requests", str(self.requests)]
        return [*arguments, "-stream"] if self.stream else arguments


def _chat(connections: int) -> Workload:
    return Workload(f"chat-{connections}", connections)


def _full_speed(connections: int) -> Workload:
    return Workload(f"stream-{connections}", connections, tokens=200, stream=True)


def _paced(connections: int) -> Workload:
    return Workload(f"paced-{connections}", connections, tokens=200, stream=True, pace_ms=20.0, requests=1)


def _replay(speed: int) -> Workload:
    # The whole clock runs faster, the engine's too: as many streams run at a time as in the trace's own time.
    return Workload(
        f"trace-x{speed}", _TRACE_CONNECTIONS, stream=True, speed=float(speed), pace_ms=_TRACE_TOKEN_MS / speed
    )


WORKLOADS: tuple[Workload, ...] = (
    _chat(1),
    _chat(16),
    _chat(64),
    _chat(256),
    Workload("open-800", 128, rate=800.0, delay_ms=22.0),
    Workload("prompt60k-16", 16, prompt_bytes=60_000),
    _full_speed(1),
    _full_speed(64),
    _paced(64),
    _paced(512),
    Workload("anthropic-64", 64, tokens=200, stream=True, speaks="messages"),
    Workload("messages-64", 64, tokens=200, stream=True, asks="messages", speaks="messages"),
    Workload("messages-to-chat-64", 64, tokens=200, stream=True, asks="messages"),
    Workload("responses-64", 64, tokens=200, stream=True, asks="responses", speaks="responses"),
    Workload("responses-to-chat-64", 64, tokens=200, stream=True, asks="responses"),
    _replay(1),
    _replay(10),
    _replay(50),
    Workload("slow-2000", 2000, tokens=100, stream=True, pace_ms=100.0, requests=1, by_default=False),
)
