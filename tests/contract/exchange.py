"""The exchange files: what a caller sent, what the provider must get, what it answers, what the caller must get.

One file per case, ``tests/exchanges/<provider>/<case>/exchange.json``, read strictly: what nobody plays is an error.
``source`` says which document of the provider it was written from, or when it was recorded.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.providers.registry import PROVIDER_TYPES
from gateway.tariff import Usage
from gateway.types import Call, Operation, Secret, Target
from tests.ground.builders import ENDPOINT, build_call, build_envelope, build_target

ROOT = Path(__file__).parent.parent / "exchanges"
BASE_URL = "http://provider.test"
ATTEMPT_ID = "att_0001"
CREDENTIAL = "sk-test-1234567890"


class TargetPart(Struct, forbid_unknown_fields=True):
    """The target, as far as it matters here."""

    provider_type: str
    upstream_model: str
    max_output_tokens: int | None = None
    always_stream: bool = False


class UpstreamRequestPart(Struct, forbid_unknown_fields=True):
    """What the provider must get, behind the base URL."""

    path: str
    body: dict[str, Any]


class UpstreamResponsePart(Struct, forbid_unknown_fields=True):
    """What the provider answers: a body, or events (objects, or a string such as ``[DONE]``)."""

    status: int
    headers: dict[str, str]
    body: Any = None
    events: list[Any] | None = None

    def encode(self) -> bytes:
        """Write the answer as it comes off the wire; an event is named after its ``type``, if it has one."""
        if self.events is None:
            return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()
        written = []
        for event in self.events:
            name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            written.append(f"{name}data: {data}\n\n")
        return "".join(written).encode()


class CompletionPart(Struct, forbid_unknown_fields=True):
    """A whole answer to the caller."""

    id: str
    model: str
    message: dict[str, Any]
    finish_reason: str
    usage: dict[str, Any] | None


class StreamPart(Struct, forbid_unknown_fields=True):
    """A streamed answer to the caller: the deltas of its one choice, in order. No finish reason: it never ends."""

    id: str
    model: str
    deltas: list[dict[str, Any]]
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


class ErrorPart(Struct, forbid_unknown_fields=True):
    """How the attempt fails."""

    kind: str
    status: int
    message: str
    retry_after_s: float | None = None


class AnswerPart(Struct, forbid_unknown_fields=True):
    """What the caller must get; a stream may be followed by an error."""

    completion: CompletionPart | None = None
    stream: StreamPart | None = None
    embeddings: dict[str, Any] | None = None
    error: ErrorPart | None = None


class UsagePart(Usage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be billed."""


class Exchange(Struct, forbid_unknown_fields=True):
    """One case."""

    source: str
    target: TargetPart
    request: dict[str, Any]
    upstream_request: UpstreamRequestPart
    upstream_response: UpstreamResponsePart
    answer: AnswerPart
    operation: Operation = "chat"
    usage: UsagePart | None = None
    note: str = ""

    def call(self, **members: Any) -> Call:
        """Build the caller's call, with some members of its body replaced."""
        body = json.dumps(self.request | members, ensure_ascii=False).encode()
        return build_call(build_envelope(body) if self.operation == "chat" else ENDPOINT[self.operation].decode(body))

    def build_target(self, *, always_stream: bool = False) -> Target:
        """Build the target."""
        provider_type = PROVIDER_TYPES[self.target.provider_type]
        return build_target(
            adapter=provider_type.adapter,
            base_url=BASE_URL,
            upstream_model=self.target.upstream_model,
            max_output_tokens=self.target.max_output_tokens,
            always_stream=always_stream or self.target.always_stream,
            credential=Secret(CREDENTIAL),
            signer=provider_type.signer,
        )


def load(path: Path) -> Exchange:
    """Read one exchange file."""
    return msgspec.json.decode(path.read_bytes(), type=Exchange)
