"""Names that mean the same, and members that an upstream refuses: rows of a table that a reader extends by a line."""

import json
from typing import Any

import pytest

from gateway.formats.openai.decode import CHAT
from gateway.providers.registry import ADAPTERS, PROVIDER_TYPES
from tests.ground.builders import build_call, build_target

OLD, NEW = "max_tokens", "max_completion_tokens"


def sent(provider: str, model: str, **members: Any) -> dict[str, Any]:
    """Return what goes up of a chat with these members."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **members}
    call = build_call(CHAT.decode(json.dumps(body).encode()))
    adapter = PROVIDER_TYPES[provider].adapter
    target = build_target(adapter=adapter, upstream_model=model)
    assert ADAPTERS[adapter].refuses(call) is None
    sent: dict[str, Any] = json.loads(ADAPTERS[adapter].prepare(call)(target, "att").body)
    return sent


@pytest.mark.parametrize(
    ("provider", "model", "members", "limits"),
    [
        ("openai", "gpt-5-mini", {OLD: 16}, {NEW: 16}),
        ("openai", "gpt-5", {OLD: 16.0}, {NEW: 16}),
        ("openai", "o3", {OLD: 16}, {NEW: 16}),
        ("openai", "o4-mini-2026-04-16", {OLD: 16}, {NEW: 16}),
        ("openai", "ft:gpt-5-mini:acme", {OLD: 16}, {NEW: 16}),
        ("openai", "gpt-5", {OLD: 16, NEW: 32}, {NEW: 32}),
        ("openai", "gpt-5", {OLD: 16, NEW: None}, {NEW: 16}),
        ("openai", "gpt-5", {OLD: None}, {}),
        ("openai", "gpt-5", {NEW: 16}, {NEW: 16}),
        ("openai", "gpt-4o", {OLD: 16}, {OLD: 16}),
        ("openai-compatible", "gpt-5", {OLD: 16}, {NEW: 16}),
        ("openai-compatible", "qwen3", {OLD: 16}, {OLD: 16}),
        ("openai-compatible", "qwen3", {NEW: 16}, {NEW: 16}),
        ("openai-compatible", "gpt-oss-120b", {OLD: 16}, {OLD: 16}),
        ("vllm", "m", {OLD: 16}, {OLD: 16}),
        ("mistral", "mistral-small-latest", {NEW: 16}, {OLD: 16}),
        ("mistral", "mistral-small-latest", {OLD: 8, NEW: 16}, {OLD: 16}),
        ("cohere", "command-a", {NEW: 16}, {OLD: 16}),
        ("deepseek", "deepseek-chat", {NEW: 16}, {OLD: 16}),
        ("perplexity", "sonar", {NEW: 16}, {OLD: 16}),
        ("together", "m", {NEW: 16}, {OLD: 16}),
        ("ollama", "llama3", {NEW: 16}, {OLD: 16}),
        ("lmstudio", "m", {NEW: 16}, {OLD: 16}),
        ("groq", "m", {NEW: 16}, {NEW: 16}),
        ("anthropic", "claude", {NEW: 16}, {OLD: 16}),
        ("anthropic", "claude", {OLD: 16}, {OLD: 16}),
    ],
)
def test_output_limit_has_the_name_that_the_upstream_knows(
    provider: str, model: str, members: dict[str, Any], limits: dict[str, int]
) -> None:
    """GPT-5 refuses the old name, Mistral the new one; DeepSeek and Ollama pass it over and write without a bound."""
    body = sent(provider, model, **members)
    assert {name: value for name, value in body.items() if name in {OLD, NEW}} == limits


@pytest.mark.parametrize("raw", [None, [], {}, "", False, "none"])
def test_member_that_is_refused_and_asks_for_nothing_stays_behind(raw: Any) -> None:
    assert "structured_outputs" not in sent("openai", "gpt-5", structured_outputs=raw)


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("image/jpg", "image/jpeg"),
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/JPG", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("image/png;name=a.png", "image/png"),
        ("image/jpg;charset=utf-8;name=x", "image/jpeg"),
    ],
)
def test_spelling_of_an_images_type_is_no_obstacle(head: str, media_type: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:{head};base64,AAAA"}}
    body = sent("anthropic", "claude", messages=[{"role": "user", "content": [image]}])
    assert body["messages"][0]["content"][0]["source"] == {"type": "base64", "media_type": media_type, "data": "AAAA"}


def test_effort_that_anthropic_does_not_name_is_its_lowest() -> None:
    assert sent("anthropic", "claude", reasoning_effort="minimal")["output_config"] == {"effort": "low"}
