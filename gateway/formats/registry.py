"""Every path that callers may post to. A new one is a line here."""

from gateway.formats.anthropic.decode import COUNT_TOKENS, MESSAGES
from gateway.formats.base import CountingEndpoint
from gateway.formats.openai.decode import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.formats.openai.transcription import TRANSCRIPTIONS
from gateway.formats.responses.decode import INPUT_TOKENS, RESPONSES
from gateway.types import Endpoint

ENDPOINTS: list[Endpoint] = [
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    TRANSCRIPTIONS,
    MESSAGES,
    RESPONSES,
]
COUNTING: list[CountingEndpoint] = [COUNT_TOKENS, INPUT_TOKENS]
"""And those that only count a prompt's tokens."""
