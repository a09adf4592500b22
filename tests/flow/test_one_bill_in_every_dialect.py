"""A loop of tools with a prompt cache costs the same, to the nano-dollar, whichever dialect asks for it."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, json_answer
from tests.ground.upstream import ScriptedUpstream

SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
FUNCTION = {"name": "look", "parameters": SCHEMA}
HI = {"role": "user", "content": "Hi"}
RESULT = "sunny"
CHAT_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALL_ITEM = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
ASKED: dict[str, list[dict[str, Any]]] = {
    "/chat/completions": [
        {"messages": [HI, *more], "tools": [{"type": "function", "function": FUNCTION}]}
        for more in (
            [],
            [
                {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": RESULT},
            ],
        )
    ],
    "/messages": [
        {"max_tokens": 100, "messages": [HI, *more], "tools": [{"name": "look", "input_schema": SCHEMA}]}
        for more in (
            [],
            [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": RESULT}]},
            ],
        )
    ],
    "/responses": [
        {"store": False, "input": [HI, *more], "tools": [{"type": "function", **FUNCTION}]}
        for more in ([], [CALL_ITEM, {"type": "function_call_output", "call_id": "call_1", "output": RESULT}])
    ],
}  # fmt: skip
"""By path, what is asked in the first turn, and with the tool's result in the second."""
PRICE = {"input": 3.0, "cached_input": 0.3, "cache_write": 3.75, "output": 15.0}


def _message(content: list[Any], reason: str, **usage: Any) -> Answer:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
    return json_answer(head | {"content": content, "stop_reason": reason, "usage": usage})


def _completion(message: dict[str, Any], reason: str, prompt: int, cached: int, completion: int) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message, "finish_reason": reason}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    usage |= {"prompt_tokens_details": {"cached_tokens": cached}}  # type: ignore[dict-item]
    return json_answer({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


ANSWERS: dict[str, list[tuple[Answer, int]]] = {
    "anthropic": [
        (
            _message(
                [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}],
                "tool_use",
                input_tokens=7,
                cache_creation_input_tokens=1_001,
                cache_read_input_tokens=0,
                output_tokens=13,
            ),
            7 * 3_000 + 1_001 * 3_750 + 13 * 15_000,
        ),
        (
            _message(
                [{"type": "text", "text": "Sunny."}],
                "end_turn",
                input_tokens=11,
                cache_creation_input_tokens=17,
                cache_read_input_tokens=1_001,
                output_tokens=5,
            ),
            11 * 3_000 + 17 * 3_750 + 1_001 * 300 + 5 * 15_000,
        ),
    ],
    "openai-compatible": [
        (_completion({"tool_calls": [CHAT_CALL]}, "tool_calls", 1_008, 0, 13), 1_008 * 3_000 + 13 * 15_000),
        (_completion({"content": "Sunny."}, "stop", 1_029, 1_001, 5), 28 * 3_000 + 1_001 * 300 + 5 * 15_000),
    ],
}
"""By what the upstream speaks, its answers in both turns, and what each costs in nano-dollars."""


@pytest.mark.parametrize("speaks", ANSWERS)
async def test_loop_of_tools_costs_the_same_in_every_dialect(speaks: str, tmp_path: Path) -> None:
    """What was read, written to the cache and read from it, each at its own price."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as client:
        url = upstream.url if speaks == "anthropic" else f"{upstream.url}/v1"
        config = {
            "providers": {"far": {"type": speaks, "base_url": url, "api_key": "env:KEY"}},
            "models": {"m": {"provider": "far", "price": PRICE}},
        }
        costs: dict[str, list[int]] = {}
        async with running_gateway(config, tmp_path, environ={"KEY": "k"}) as running:
            for path, turns in ASKED.items():
                for body, (answer, _) in zip(turns, ANSWERS[speaks], strict=True):
                    upstream.then(answer)
                    async with client.post(running.base_url + path, json={"model": "m", **body}) as answered:
                        assert answered.status == 200, await answered.text()
                        call_id = answered.headers["x-tollway-request-id"]
                    async with client.get(f"{running.base_url}/requests/{call_id}") as explained:
                        costs.setdefault(path, []).append((await explained.json())["cost_nano_usd"])
    expected = [cost for _, cost in ANSWERS[speaks]]
    assert costs == {path: expected for path in ASKED}  # noqa: C420 - a list apiece
