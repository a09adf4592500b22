"""What each family is asked: a prompt, a conversation, or a second of sound."""

import io
import math
import struct
import wave

TOKENS = 8
PROMPT = "The toll is paid at the gate."
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who pays the toll?"}]
RATE = 16_000


def samples() -> list[float]:
    """Return a second of a tone that rises, as it is after 16 bits."""
    tone = (0.5 * math.sin(2 * math.pi * (200 + 300 * n / RATE) * n / RATE) for n in range(RATE))
    return [round(sample * 32767) / 32768 for sample in tone]


def sound() -> bytes:
    """Return the same as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, RATE, "NONE", ""))
        writer.writeframes(b"".join(struct.pack("<h", round(sample * 32768)) for sample in samples()))
    return file.getvalue()
