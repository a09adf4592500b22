"""Scripted upstreams that cache prompts by a provider's rules, in virtual time, and report what they read from there.

Their tokens are not the gateway's estimate: five bytes make two. What they know of a prompt is its messages, so an
error in the gateway's reading of bytes shows.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tests.ground.script import Answer, Seen, json_answer
from tests.ground.upstream import ScriptedUpstream

MINIMUM_TOKENS = 1024


@dataclass(kw_only=True)
class Cache:
    """What one upstream keeps: beginnings of prompts, message by message."""

    lifetime_s: float = 300.0
    reports: bool = True
    """False: its usage says nothing of cached tokens."""
    works: bool = True
    """False: it reports none, for it finds none."""
    bills_writes: bool = False
    output_tokens: int = 10
    kept: dict[str, float] = field(default_factory=dict)
    """A beginning as JSON -> when it is forgotten."""

    def chat(self, seen: Seen) -> Answer:
        """Answer a chat completion: all of an earlier prompt is read from the cache."""
        body = seen.json
        total, cached, written = self._read(body, len(body["messages"]))
        usage: dict[str, Any] = {
            "prompt_tokens": total,
            "completion_tokens": self.output_tokens,
            "total_tokens": total + self.output_tokens,
        }
        if self.reports:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            if self.bills_writes:
                usage["prompt_tokens_details"]["cache_write_tokens"] = written
        message = {"role": "assistant", "content": "yes"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return json_answer({**answer, "usage": usage})

    def messages(self, seen: Seen) -> Answer:
        """Answer Anthropic's Messages: what is marked is read from the cache or written to it."""
        body = seen.json
        marked = max((at for at, each in enumerate(body["messages"], 1) if "cache_control" in str(each)), default=0)
        total, cached, written = self._read(body, marked)
        usage = {
            "input_tokens": total - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": self.output_tokens,
        }
        said = {"type": "text", "text": "yes"}
        answer = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [said]}
        return json_answer({**answer, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})

    def _read(self, body: dict[str, Any], until: int) -> tuple[int, int, int]:
        """Return the tokens of a prompt, those of them in the cache, and those that are written there."""
        now_s = asyncio.get_running_loop().time()
        parts = [json.dumps([body.get("tools"), body.get("system")])]
        parts += [json.dumps(_unmarked(each)) for each in body["messages"]]
        tokens = [sum(map(len, parts[: count + 1])) * 2 // 5 for count in range(len(parts))]
        found = 0
        for count in range(until + 1) if until else ():
            key = "".join(parts[: count + 1])
            if self.works and self.kept.get(key, 0.0) > now_s and tokens[count] >= MINIMUM_TOKENS:
                found = tokens[count]
        # Written is what ends there, not every message before.
        stored = tokens[until] if until and tokens[until] >= MINIMUM_TOKENS else 0
        if stored:
            self.kept["".join(parts[: until + 1])] = now_s + self.lifetime_s
        return tokens[-1], found, max(0, stored - found)


def caching_upstream(cache: Cache, path: str = "/v1/chat/completions") -> ScriptedUpstream:
    """Make an upstream that answers by the cache."""
    upstream = ScriptedUpstream()
    upstream.on_path(path, cache.messages if path.endswith("/messages") else cache.chat)
    return upstream


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmarked(each) for key, each in value.items() if key != "cache_control"}
    return [_unmarked(each) for each in value] if isinstance(value, list) else value
