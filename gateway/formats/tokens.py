"""Estimates token counts from sizes in bytes: before a provider has counted, and where it never does.

No tokenizer: tokenising on the event loop has stopped peers for a minute (litellm #26193), each model has its own,
and every estimate is replaced by the provider's count where there is one. Estimates are marked so in the ledger.
"""

from gateway.types import Envelope

_BYTES_PER_TOKEN = 4
"""English prose in UTF-8 has 4 to 4.5 bytes a token with the vocabularies of today, source code about 3, Chinese
and Japanese 3 to 4 (a character has 3 bytes and is about one token): 4 is within about a third of each."""

_TOKENS_PER_MESSAGE = 4
"""What a chat template puts around a message: its role and two or three markers."""

_TOKENS_PER_IMAGE = 1000
"""Between what the providers document for one megapixel: OpenAI 765 tokens (1024 x 1024 at high detail: 85 + 4 x
170), Anthropic about 1,400 (width x height / 750)."""


def estimate_input_tokens(content_bytes: int, image_count: int = 0, messages: int = 1) -> int:
    """Estimate the tokens of a prompt from the UTF-8 bytes of its text, its images and its number of messages."""
    return _tokens(content_bytes) + image_count * _TOKENS_PER_IMAGE + messages * _TOKENS_PER_MESSAGE


def estimate_prompt_tokens(envelope: Envelope) -> int:
    """Estimate the tokens of a call's prompt. What is embedded has no chat template; speech is no tokens but time."""
    if not envelope.endpoint.has_tokens:
        return max(envelope.prompts, _tokens(envelope.content_bytes))
    return estimate_input_tokens(envelope.content_bytes, envelope.image_count)


def estimate_output_tokens(content_events: int, content_bytes: int) -> int:
    """Estimate the tokens of an answer whose usage never came: each event brought at least one, often several."""
    return max(content_events, _tokens(content_bytes))


def output_bytes(tokens: int) -> int:
    """Return how many bytes of content are estimated at no more than so many tokens."""
    return tokens * _BYTES_PER_TOKEN


def _tokens(content_bytes: int) -> int:
    return -(-content_bytes // _BYTES_PER_TOKEN)
