"""Every path that callers may post to. A new one is a line here."""

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.decode import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.formats.openai.transcription import TRANSCRIPTIONS
from gateway.formats.responses.decode import RESPONSES
from gateway.types import Endpoint

ENDPOINTS: list[Endpoint] = [
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    TRANSCRIPTIONS,
    MESSAGES,
    RESPONSES,
]
