"""Reads requests for transcripts of speech, and their answers, as OpenAI has them ("Create transcription").

Decides what a form must hold, how long its recording may be, and what of an answer is billed. The recording itself is
looked at only for its length.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.allowance import openai_allowance
from gateway.formats.errors import openai_error
from gateway.formats.malformed import UNREADABLE
from gateway.formats.multipart import FormPart, parts_of
from gateway.formats.sse import COMMENT
from gateway.formats.typed import refuse
from gateway.formats.usage import MAX_AUDIO_MS, audio_ms, merged, usage_of
from gateway.tariff import Usage
from gateway.types import Endpoint, Envelope, Operation

FORMATS = ("json", "verbose_json", "diarized_json", "text", "srt", "vtt")
_READ = frozenset(("file", "model", "stream", "response_format", "prompt"))
_MAX_FIELD_BYTES = 1 << 20
_BYTES_PER_MS = 16
"""MP3 at 128 kbit/s; speech is mostly recorded at less, so that the guess is rather short. WAV tells by itself."""
_RATES_OF_WAV = re.compile(rb"RIFF....WAVEfmt .{8}(....)(....)(..)", re.DOTALL)
"""Samples a second, bytes a second, bytes a sample."""


class Transcript(Struct):
    """What accounting reads of an answer in JSON."""

    text: Any = None
    usage: Any = None
    duration: Any = None
    error: Any = None
    object: Any = None


_decode_transcript = msgspec.json.Decoder(Transcript).decode


class FormEndpoint(Struct, kw_only=True):
    """OpenAI's endpoint with a form."""

    path: str
    operation: Operation
    summary: str
    schema: Mapping[str, Any]
    has_tokens: bool = False
    id_header: bytes = b"x-request-id"
    keep_alive: bytes = COMMENT
    dialect: str = "openai"

    error = staticmethod(openai_error)
    allowance = staticmethod(openai_allowance)

    def decode(self, body: bytes) -> Envelope:
        """See ``Endpoint.decode``."""
        return _decode_form(self, body)


TRANSCRIPTIONS = FormEndpoint(
    path="/v1/audio/transcriptions",
    operation="transcriptions",
    summary="Transcribe speech",
    schema={
        "file": {"type": "string", "format": "binary"},
        "response_format": {"enum": list(FORMATS), "default": "json"},
        "language": {"type": "string"},
    },
)


def _decode_form(endpoint: Endpoint, body: bytes) -> Envelope:
    parts = {part.name: part for part in parts_of(body)}
    for name in parts:
        if name not in _READ and name.casefold() in _READ:
            refuse(name.casefold(), "must be written in lower case")
    recording = parts.get("file")
    if recording is None or not recording.is_file:
        refuse("file", "must be a file with the recording")
    members = {part.name: _field(body, part) for part in parts.values() if not part.is_file}
    model = members.get("model", b"").decode(errors="replace")
    if not model:
        refuse("model", "must be a non-empty string that names a model or a route")
    if members.get("stream", b"false").lower() not in (b"false", b"0", b""):
        refuse("stream", "must not be true: transcripts come in one piece")
    if members.get("response_format", b"json").decode(errors="replace") not in FORMATS:
        refuse("response_format", f"must be one of {', '.join(FORMATS)}")
    return Envelope(
        endpoint=endpoint,
        body=body,
        members=members,
        model=model,
        stream=False,
        include_usage=False,
        max_output_tokens=0,
        choices=1,
        streamable=False,
        needs=frozenset(("transcriptions",)),
        content_bytes=len(members.get("prompt", b"")),
        prompts=0,
        audio_ms=_length_ms(body, recording),
    )


def read_transcript(data: bytes) -> tuple[Transcript, Usage | None]:
    """Read an answer in JSON. Raises UpstreamError (UPSTREAM_PROTOCOL)."""
    try:
        answer = _decode_transcript(data)
    except UNREADABLE:
        raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent something that is no transcript.") from None
    report = merged(None, answer.usage) or {}
    usage = usage_of(report)
    if usage is None or not usage.read_tokens:
        length_ms = audio_ms(report.get("seconds")) or audio_ms(answer.duration)
        price = 0 if usage is None else usage.upstream_cost_nano_usd
        usage = Usage(audio_ms=length_ms, upstream_cost_nano_usd=price) if length_ms else None
    return answer, usage


def _length_ms(body: bytes, recording: FormPart) -> int:
    size = recording.end - recording.start
    wav = _RATES_OF_WAV.match(body, recording.start, recording.end)
    samples, bytes_per_s, width = (int.from_bytes(each, "little") for each in wav.groups()) if wav else (0, 0, 0)
    bytes_per_s = min(bytes_per_s, samples * width)  # no player reads the former, so it could be anything
    return min(size * 1000 // bytes_per_s if bytes_per_s else size // _BYTES_PER_MS, MAX_AUDIO_MS)


def _field(body: bytes, part: FormPart) -> bytes:
    if part.end - part.start > _MAX_FIELD_BYTES:
        refuse(part.name, f"must not be longer than {_MAX_FIELD_BYTES} bytes")
    return body[part.start : part.end]
