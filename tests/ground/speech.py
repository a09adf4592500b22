"""Audio recordings, the forms that upload them, and an upstream that transcribes."""

import io
import wave
from typing import Any

from gateway.formats.multipart import boundary_of, parts_of
from tests.ground.script import Answer, Seen, json_answer

BOUNDARY = b"boundary-of-tests"


def wav(seconds: float = 1.5) -> bytes:
    """Record silence: 16 kHz, 16 bits, mono."""
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(int(16_000 * seconds) * 2))
    return recording.getvalue()


def form(**fields: Any) -> bytes:
    """Write a form: bytes are a file, None leaves a part out."""
    written = b""
    for name, value in ({"model": "auto", "file": wav()} | fields).items():
        if value is None:
            continue
        filename = b'; filename="speech.wav"' if isinstance(value, bytes) else b""
        content = value if isinstance(value, bytes) else str(value).encode()
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (BOUNDARY, name.encode(), filename)
        written += head + content + b"\r\n"
    return written + b"--%b--\r\n" % BOUNDARY


def fields_of(seen: Seen) -> dict[str, bytes]:
    """Read the form that an upstream was sent, by the boundary that it was told."""
    assert seen.headers["content-type"] == f'multipart/form-data; boundary="{boundary_of(seen.body).decode()}"'
    return {part.name: seen.body[part.start : part.end] for part in parts_of(seen.body)}


def transcribe(seen: Seen) -> Answer:
    """Answer as OpenAI's whisper-1 does: with the number of bytes for a text, billed by whole seconds."""
    fields = fields_of(seen)
    text = f"{len(fields['file'])} bytes"
    kind = fields.get("response_format", b"json").decode()
    if kind in {"text", "srt", "vtt"}:
        plain = text + "\n" if kind == "text" else f"1\n00:00:00,000 --> 00:00:01,500\n{text}\n"
        headers = (("content-type", "text/plain; charset=utf-8"),)
        return Answer(headers=headers, chunks=(plain.encode(),), framing="content-length")
    usage = {"type": "duration", "seconds": 2}
    if kind == "json":
        return json_answer({"text": text, "usage": usage})
    segment: dict[str, Any] = {"id": 0, "start": 0.0, "end": 1.5, "text": text, "seek": 0, "tokens": [1]}
    segment |= {"temperature": 0.0, "avg_logprob": -0.5, "compression_ratio": 1.0, "no_speech_prob": 0.1}
    verbose = {"task": "transcribe", "language": "english", "duration": 1.5, "segments": [segment]}
    return json_answer({**verbose, "text": text, "usage": usage})
