"""Transcripts of speech in OpenAI's dialect: the caller's form goes up, the upstream's own bytes come down."""

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.multipart import boundary_of, parts_of, replace
from gateway.formats.openai.answer import parse
from gateway.formats.openai.failure import failure_in_stream
from gateway.formats.openai.transcription import read_transcript
from gateway.tariff import Usage
from gateway.types import Envelope


def form_for(envelope: Envelope, upstream_model: str) -> tuple[str, bytes]:
    """Return content type and body of the form with another model in it."""
    body = envelope.body
    if envelope.model != upstream_model:
        model = next(part for part in parts_of(body) if part.name == "model")
        body = replace(body, model, upstream_model.encode())
    return f'multipart/form-data; boundary="{boundary_of(body).decode()}"', body


class TranscriptDecoder:
    """Hold a transcript until it is whole; see ``formats.base.Decoder``. There is no first token, and so no TTFT."""

    def __init__(self, envelope: Envelope) -> None:
        self._is_json = envelope.members.get("response_format", b"json").endswith(b"json")
        self.content_type = "application/json" if self._is_json else "text/plain; charset=utf-8"
        self.usage: Usage | None = None
        self.content_events = self.content_bytes = self.dropped_events = 0
        self.shows_reasoning = self.complete = False
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Keep the bytes; until all are there, another target can still be tried."""
        self._body += chunk
        check_size(len(self._body))
        return b""

    def finish(self) -> bytes:
        """Return the upstream's own bytes. A text may be empty: nobody spoke."""
        body = bytes(self._body)
        if self._is_json:
            answer, self.usage = read_transcript(body)
            if answer.error or answer.object == "error":
                raise failure_in_stream(parse(body))
            if not isinstance(answer.text, str):
                raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without a transcript.")
        elif body.lstrip()[:1] == b"<":
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent a page instead of a transcript.")
        self.complete = True
        return body
