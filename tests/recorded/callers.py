"""Callers of all dialects: each asks with the official client of its own, and reads what it gets from that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anthropic
import openai

from tests.ground.speech import wav
from tests.recorded.reading import Reading, read_objects

DIALECTS = ("chat", "messages", "responses")
"""The operations that say the same in other words: an answer of each reaches callers of each."""
HANGS_S = 30.0
_MESSAGES: list[Any] = [{"role": "user", "content": "recorded"}]


class Callers(NamedTuple):
    """The clients."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic

    async def ask(self, caller: str, operation: str, model: str, *, streamed: bool) -> Reading:
        """Ask a model in a caller's dialect; ``operation`` is what was recorded."""
        as_read = caller if operation in DIALECTS else operation
        try:
            answer = await self._create(as_read, model, {"stream": True} if streamed else {})
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            return Reading(error=error.message, status=error.status_code)
        except (openai.APIError, anthropic.APIError) as error:
            return Reading(error=error.message)
        if not streamed:
            return read_objects(as_read, [answer.to_dict(warnings=False)])
        chunks: list[Any] = []
        error_text = None
        try:
            async for chunk in answer:
                chunks.append(chunk.to_dict(warnings=False))  # noqa: PERF401 - what came before an error counts
        except (openai.APIError, anthropic.APIError) as failure:
            error_text = failure.message
        reading = read_objects(as_read, chunks)
        reading.error = reading.error or error_text
        return reading

    async def _create(self, operation: str, model: str, stream: dict[str, Any]) -> Any:
        client = self.openai
        match operation:
            case "embeddings":
                return await client.embeddings.create(model=model, input="recorded", encoding_format="float")
            case "transcriptions":
                return await client.audio.transcriptions.create(model=model, file=("speech.wav", wav()), **stream)
            case "messages":
                return await self.anthropic.messages.create(model=model, max_tokens=4096, messages=_MESSAGES, **stream)
            case "responses":
                return await client.responses.create(model=model, input="recorded", store=False, **stream)
        asked = stream | ({"stream_options": {"include_usage": True}} if stream else {})
        if operation == "completions":
            return await client.completions.create(model=model, prompt="recorded", **asked)
        return await client.chat.completions.create(model=model, messages=_MESSAGES, **asked)


@asynccontextmanager
async def callers(url: str) -> AsyncIterator[Callers]:
    """Open the clients of a gateway, which ask once and wait for no longer than ``HANGS_S``."""
    settings: dict[str, Any] = {"api_key": "recorded", "max_retries": 0, "timeout": HANGS_S}
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", **settings) as of_openai,
        anthropic.AsyncAnthropic(base_url=url, **settings) as of_anthropic,
    ):
        yield Callers(of_openai, of_anthropic)
