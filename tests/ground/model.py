"""A scripted language model that writes numbered words: chat, completions and embeddings, correct or wrong on request.

It embeds, too: the vector of a text is made from its words, so that equal texts have equal ones.

Its usage is exact: a prompt token is one word of the prompt, an output token one ``Chunk`` with ``tokens=1``.
"""

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tests.ground.script import Answer, Chunk, Seen, error_answer, json_answer, sse_event

UsageLie = Literal["exact", "wrong", "none", "in_content_chunk", "twice"]


@dataclass(kw_only=True)
class ScriptedModel:
    """How the model behaves; assign to the fields at any time, streams under way follow ``tpot_s``.

    ``usage``: ``wrong`` counts 1,000 tokens too many; ``none`` never comes; ``in_content_chunk`` comes with the last
    content; ``twice`` comes with half of the tokens first and with all second, of which the larger should win.
    """

    tokens: int = 5
    """Output tokens per choice, unless the request's limit is lower."""
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    usage: UsageLie = "exact"
    sends_done: bool = True
    """False: the stream ends without ``[DONE]``."""
    error_after: int | None = None
    """Send an error event after so many tokens, and end there."""

    def answer(self, seen: Seen) -> Answer:
        """Answer chat and text completions, embeddings and ``/v1/models`` (by the path's end)."""
        path = seen.path.partition("?")[0]
        if path.endswith("/models"):
            return json_answer({"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "tests"}]})
        if seen.method == "POST" and path.endswith("/embeddings"):
            return json_answer(self._embeddings(seen.json))
        if seen.method != "POST" or not path.endswith("/completions"):
            return error_answer(404, f"no such path: {path}")
        request = seen.json
        if int(request.get("n") or 1) > 128:  # OpenAI's own limit; without one, a random number is written for ever
            return error_answer(400, "n must be at most 128")
        writer = _Writer(self, request, chat=path.endswith("/chat/completions"))
        if request.get("stream"):
            return Answer(
                headers=(("content-type", "text/event-stream; charset=utf-8"),),
                chunks=tuple(writer.stream()),
                per_chunk_delay_s=lambda: self.tpot_s,
            )
        seconds = self.ttft_s + self.tpot_s * max(writer.tokens - 1, 0)
        whole = json_answer(writer.whole())
        body = b"".join(item if isinstance(item, bytes) else item.data for item in whole.chunks)
        return Answer(
            headers=whole.headers,
            chunks=(Chunk(body, tokens=writer.tokens * writer.choices, delay_s=seconds),),
            framing="content-length",
        )

    def _embeddings(self, request: dict[str, Any]) -> dict[str, Any]:
        texts = input_texts(request)
        encode = _base64 if request.get("encoding_format") == "base64" else list
        vectors = [vector(text, request.get("dimensions") or 8) for text in texts]
        data = [{"object": "embedding", "index": at, "embedding": encode(each)} for at, each in enumerate(vectors)]
        answer: dict[str, Any] = {"object": "list", "data": data, "model": request.get("model")}
        if self.usage != "none":
            tokens = prompt_words(request)
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return answer


class _Writer:
    """Writes one answer."""

    def __init__(self, model: ScriptedModel, request: dict[str, Any], *, chat: bool) -> None:
        self._model = model
        self._request = request
        self._chat = chat
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        self.tokens = model.tokens if limit is None else min(model.tokens, int(limit))
        self.choices = int(request.get("n") or 1)
        self._finish_reason = "length" if limit is not None and self.tokens < model.tokens else "stop"

    def stream(self) -> Iterator[Chunk]:
        """Write the events of a stream, each with its delay."""
        model = self._model
        if self._chat:
            for choice in range(self.choices):
                role = self._choice(choice, {"role": "assistant", "content": ""})
                yield self._event([role], delay_s=model.ttft_s if choice == 0 else 0.0)
        for token in range(self.tokens):
            if token == model.error_after:
                yield Chunk(sse_event({"error": {"message": "the engine died", "type": "server_error", "code": 500}}))
                return
            for choice in range(self.choices):
                first_wait_s = 0.0 if self._chat else model.ttft_s
                delay_s = (first_wait_s if token == 0 else None) if choice == 0 else 0.0
                last = token == self.tokens - 1 and choice == self.choices - 1
                usage = self._usage() if last and model.usage == "in_content_chunk" and self._wants_usage else None
                yield self._event([self._piece(choice, word(token))], delay_s=delay_s, tokens=1, usage=usage)
        for choice in range(self.choices):
            yield self._event([self._choice(choice, {}, finish_reason=self._finish_reason)])
        yield from self._usage_events()
        if model.sends_done:
            yield Chunk(sse_event("[DONE]"), delay_s=0.0)

    def _usage_events(self) -> Iterator[Chunk]:
        if not self._wants_usage:
            return
        if self._model.usage == "wrong":
            yield self._event([], usage=self._usage(surplus=1000))
        if self._model.usage == "twice":
            yield self._event([], usage=self._usage(surplus=-(self.tokens // 2)))
        if self._model.usage in {"exact", "twice"}:
            yield self._event([], usage=self._usage())

    def whole(self) -> dict[str, Any]:
        """Write the one JSON object of an answer that is not streamed."""
        text = "".join(word(token) for token in range(self.tokens))
        message: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choices = [
            {"index": choice, **message, "finish_reason": self._finish_reason, "logprobs": None}
            for choice in range(self.choices)
        ]
        body = self._envelope("chat.completion" if self._chat else "text_completion") | {"choices": choices}
        if self._model.usage != "none":
            body["usage"] = self._usage(surplus=1000 if self._model.usage == "wrong" else 0)
        return body

    @property
    def _wants_usage(self) -> bool:
        return bool((self._request.get("stream_options") or {}).get("include_usage"))

    def _envelope(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self._chat else "cmpl"
        return {"id": f"{prefix}-scripted", "object": kind, "created": 1, "model": self._request.get("model")}

    def _event(
        self,
        choices: list[dict[str, Any]],
        *,
        delay_s: float | None = 0.0,
        tokens: int = 0,
        usage: dict[str, int] | None = None,
    ) -> Chunk:
        body = self._envelope("chat.completion.chunk" if self._chat else "text_completion") | {"choices": choices}
        if usage is not None:
            body["usage"] = usage
        return Chunk(sse_event(body), tokens=tokens, delay_s=delay_s)

    def _piece(self, index: int, text: str) -> dict[str, Any]:
        return self._choice(index, {"content": text} if self._chat else {"text": text})

    def _choice(self, index: int, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        body = {"delta": delta} if self._chat else {"text": delta.get("text", "")}
        return {"index": index, **body, "finish_reason": finish_reason, "logprobs": None}

    def _usage(self, *, surplus: int = 0) -> dict[str, int]:
        prompt_tokens = prompt_words(self._request)
        completion_tokens = self.tokens * self.choices + surplus
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


def word(token: int) -> str:
    """Write the output token of that number."""
    return f" w{token}"


def prompt_words(request: dict[str, Any]) -> int:
    """Count the words of a chat's messages or of a prompt: the scripted model's prompt tokens."""
    texts: list[Any] = [request.get("prompt"), *input_texts(request)]
    for message in request.get("messages") or ():
        content = message.get("content")
        texts += [part.get("text") for part in content] if isinstance(content, list) else [content]
    return sum(len(text.split()) for text in texts if isinstance(text, str))


def input_texts(request: dict[str, Any]) -> list[str]:
    """Return what a request asks to be embedded, text by text; a token id is a word."""
    given = request.get("input", [])
    several = isinstance(given, list) and not isinstance((given or [""])[0], int)
    return [each if isinstance(each, str) else " ".join(map(str, each)) for each in (given if several else [given])]


def vector(text: str, dimensions: int) -> list[float]:
    """Make the vector of a text, of numbers that a 32-bit float holds exactly."""
    return [zlib.crc32(f"{text} {at}".encode()) % 1024 / 1024 for at in range(dimensions)]


def _base64(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
