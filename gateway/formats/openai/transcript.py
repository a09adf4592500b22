"""Decodes answers that come in one piece, embeddings and transcripts, and passes on the upstream's own bytes."""

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.multipart import boundary_of, parts_of, replace
from gateway.formats.openai.answer import Tap, parse
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


class _Whole(Tap):
    """Hold an answer until all of it is there; see ``Decoder``. There is no first token, and so no TTFT."""

    content_type = "application/json"

    def __init__(self, _envelope: Envelope) -> None:
        super().__init__()
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Keep the bytes; until all are there, another target can still be tried."""
        self._body += chunk
        check_size(len(self._body))
        return b""


class EmbeddingsDecoder(_Whole):
    """Pass vectors on untouched."""

    def finish(self) -> bytes:
        """Return the upstream's own bytes."""
        body = bytes(self._body)
        if not body:
            raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream sent an empty answer.")
        answer = self.read_embeddings(body)
        if answer.is_error(beside=bool(answer.data)):
            raise failure_in_stream(parse(body))
        if not answer.data:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without embeddings.")
        self.complete = True
        return body


class TranscriptDecoder(_Whole):
    """Pass a transcript on untouched."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        self._usage: Usage | None = None
        self._is_json = envelope.members.get("response_format", b"json").endswith(b"json")
        self.content_type = "application/json" if self._is_json else "text/plain; charset=utf-8"

    @property
    def usage(self) -> Usage | None:
        """Its tokens, or the length of the speech."""
        return self._usage

    def finish(self) -> bytes:
        """Return the upstream's own bytes. A text may be empty: there was no speech."""
        body = bytes(self._body)
        if self._is_json:
            answer, self._usage = read_transcript(body)
            if answer.error or answer.object == "error":
                raise failure_in_stream(parse(body))
            if not isinstance(answer.text, str):
                raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without a transcript.")
        elif body.lstrip()[:1] == b"<":
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent a page instead of a transcript.")
        self.complete = True
        return body
