"""What a form for a transcript must hold, how long its recording is taken to be, and what of an answer is billed."""

import io
import json
import wave
from typing import Any

import pytest

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.openai.compatible import CompatibleAdapter
from gateway.formats.openai.transcription import TRANSCRIPTIONS
from gateway.tariff import Usage
from gateway.types import Envelope
from tests.ground.builders import build_call, build_target
from tests.ground.speech import form, wav


def envelope_of(**fields: Any) -> Envelope:
    """Decode a form; a value of None leaves its part out."""
    return TRANSCRIPTIONS.decode(form(**fields))


def test_a_form_is_read() -> None:
    """It writes no tokens that could be predicted, is never streamed, and its file is not among the members."""
    envelope = envelope_of(prompt="Umlaute: ä", language="de", response_format="srt", stream="false")
    assert (envelope.model, envelope.stream, envelope.streamable) == ("auto", False, False)
    assert (envelope.max_output_tokens, envelope.needs) == (0, {"transcriptions"})
    assert (envelope.members["language"], envelope.content_bytes) == (b"de", 11)
    assert "file" not in envelope.members


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16_000, 1, 2.5), (48_000, 2, 1), (8_000, 1, 0)])
def test_wav_says_how_long_it_is(rate: int, channels: int, seconds: float) -> None:
    """By the bytes a second in its header."""
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(rate * seconds) * channels * 2))
    assert envelope_of(file=recording.getvalue()).audio_ms == pytest.approx(seconds * 1000, abs=6)


def test_wav_that_plays_is_no_shorter_than_it_plays() -> None:
    """A rate of bytes that nobody plays by makes no recording cheap: where an answer does not count, this is billed."""
    recording = bytearray(wav(60))
    recording[28:32] = b"\xff" * 4
    with wave.open(io.BytesIO(recording)) as file:
        assert file.getnframes() / file.getframerate() == 60
    assert envelope_of(file=bytes(recording)).audio_ms == pytest.approx(60_000, abs=6)


@pytest.mark.parametrize("start", [b"ID3", b"RIFF0000WAVEfmt " + bytes(16), b"RIFF"])
def test_file_of_unknown_type_is_measured_as_mp3(start: bytes) -> None:
    """Sixteen kilobytes a second."""
    assert envelope_of(file=start.ljust(32_000, b"x")).audio_ms == 2000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"file": None}, "file"),
        ({"file": "text"}, "file"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"stream": "true"}, "stream"),
        ({"stream": "True"}, "stream"),
        ({"response_format": "xml"}, "response_format"),
        ({"Model": "other"}, "model"),
        ({"prompt": "x" * (1 << 20 | 1)}, "prompt"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    """A 400 with ``param``."""
    with pytest.raises(GatewayError) as caught:
        envelope_of(**fields)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


def test_only_the_model_changes_on_the_way_up() -> None:
    """And nothing is copied where it is the same already."""
    body = form()
    call = build_call(TRANSCRIPTIONS.decode(body))
    sent = CompatibleAdapter().prepare(call)(build_target(upstream_model="whisper-1"), "att_1")
    assert sent.body == body.replace(b"\r\n\r\nauto\r\n", b"\r\n\r\nwhisper-1\r\n")
    assert sent.url.endswith("/v1/audio/transcriptions")
    assert dict(sent.headers)["content-type"] == 'multipart/form-data; boundary="boundary-of-tests"'
    assert CompatibleAdapter().prepare(call)(build_target(upstream_model="auto"), "att_1").body is body


def answered(body: bytes, **fields: Any) -> tuple[bytes, Usage | None, str]:
    """Play an upstream's answer in two pieces."""
    call = build_call(envelope_of(**fields))
    decoder = CompatibleAdapter().decoder(call, build_target(always_stream=True))
    assert decoder.feed(body[:5]) == decoder.feed(body[5:]) == b""
    got = decoder.finish()
    assert (decoder.complete, decoder.content_events) == (True, 0)
    return got, decoder.usage, decoder.content_type


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        ({"usage": {"type": "duration", "seconds": 9}}, Usage(audio_ms=9000)),
        (
            {"usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 3}},
            Usage(input_tokens=14, output_tokens=3),
        ),
        ({"duration": 8.47, "segments": []}, Usage(audio_ms=8470)),
        ({"duration": "8.470000267028809"}, Usage(audio_ms=8470)),
        ({"usage": {"type": "duration", "seconds": 9}, "duration": 8.47}, Usage(audio_ms=9000)),
        ({"usage": {"seconds": -1}}, None),
        ({"usage": {"seconds": 1e300}}, None),
        ({"usage": {"input_tokens": "many", "output_tokens": -4}}, None),
        ({"usage": {"input_tokens": None, "seconds": 2}}, Usage(audio_ms=2000)),
        ({"duration": "long"}, None),
        ({}, None),
    ],
)
def test_transcript_is_billed_by_the_upstreams_count(members: dict[str, Any], usage: Usage | None) -> None:
    """Seconds or tokens, whichever it reports; the answer's bytes stay as they are."""
    body = json.dumps({"text": "hi"} | members, indent=1).encode()
    assert answered(body) == (body, usage, "application/json")


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
@pytest.mark.parametrize("body", [b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", b""])
def test_plain_formats_pass_through(response_format: str, body: bytes) -> None:
    """Nobody may have spoken; there is no count in them."""
    assert answered(body, response_format=response_format) == (body, None, "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", {}),
        (b'{"text":"hi"', {}),
        (b"{}", {}),
        (b'{"text":5}', {}),
        (b"[]", {}),
        (b"<html>", {}),
        (b" <html>", {"response_format": "text"}),
        (b'{"error":{"message":"x","code":"server_error"}}', {"response_format": "verbose_json"}),
    ],
)
def test_malformed_transcript_is_never_a_success(body: bytes, fields: dict[str, Any]) -> None:
    """Another target is tried."""
    with pytest.raises(UpstreamError) as caught:
        answered(body, **fields)
    assert caught.value.meaning.retryable
