"""No request makes an error of ours on the paths of Messages and Responses, however it is put together.

Valid requests are mutated (``tests.ground.mutated``) and sent to a whole gateway, whose healthy upstreams speak chat,
Messages and Responses. ``--hypothesis-profile=soak`` tries many more of them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.asked import events_of
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.mutated import mutated
from tests.ground.said import UPSTREAMS, Called, Said, answer, model_at
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream

_FEW = settings(max_examples=settings.default.max_examples // 5)
_PATHS = {"openai": "/v1/chat/completions", "vllm": "/v1/chat/completions", "anthropic": "/v1/messages"}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
_CACHE = {"type": "ephemeral", "ttl": "1h"}
_PNG = "iVBORw0KGgo="
MESSAGES: list[dict[str, Any]] = [
    {
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: v=1\nBe brief.", "cache_control": _CACHE}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
                    {"type": "search_result", "source": "s", "title": "T", "content": [{"type": "text", "text": "F"}]},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": "b"}},
                    {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Sun"}]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                ],
            },
        ],
        "tools": [{"name": "look", "description": "Look.", "input_schema": _SCHEMA, "strict": True}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": _SCHEMA}},
        "metadata": {"user_id": "u_1"},
        "stop_sequences": ["END"],
        "temperature": 1,
        "top_p": 0.5,
        "service_tier": "auto",
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "stream": True,
    },
    {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], "system": "Be brief.", "stream": False},
]
_CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"a": "b"}'}
RESPONSES: list[dict[str, Any]] = [
    {
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Hi"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}", "detail": "auto"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
            },
            _CALL,
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "a"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "Sun"}]},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
            {"type": "shell_call", "call_id": "c3", "action": {"commands": ["ls"]}, "status": "completed"},
            {"type": "shell_call_output", "call_id": "c3", "output": [{"stdout": "a", "stderr": ""}]},
        ],
        "tools": [
            {"type": "function", "name": "look", "parameters": _SCHEMA, "strict": True},
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "s: X"}},
            {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}]},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": _SCHEMA, "strict": True}},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 2000,
        "metadata": {"a": "b"},
        "truncation": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "u_1",
        "stream_options": {"include_obfuscation": False},
        "temperature": 1,
        "stream": True,
    },
    {"input": "Hi", "store": True},
    {"input": [{"role": "user", "content": "Hi"}], "stream": True, "top_logprobs": 0, "service_tier": "auto"},
]
_SAID = Said("Hello!", "Hm.", (Called("look", {"a": "b"}), Called("patch", {"input": "x"}, "call_2")), "tools")


class Answered(NamedTuple):
    """What a caller got."""

    status: int
    body: bytes


class Asking:
    """A gateway on a loop of its own, since hypothesis calls synchronous functions."""

    def __init__(self, runner: asyncio.Runner, running: RunningGateway, session: aiohttp.ClientSession) -> None:
        self._runner = runner
        self._session = session
        self._url = running.url

    def ask(self, method: str, path: str, body: object = None, *, key: str = "tw-a") -> Answered:
        """Send a request, and read the whole answer; an error must be one that a caller can use."""
        data = None if body is None else json.dumps(body).encode()
        answered = self._runner.run(asyncio.wait_for(self._ask(method, path, data, key), 20))
        assert answered.status < 500, answered
        if answered.status >= 400:
            assert len(json.loads(answered.body)["error"]["message"]) > 20
        return answered

    async def _ask(self, method: str, path: str, data: bytes | None, key: str) -> Answered:
        headers = {"authorization": f"Bearer {key}"}
        async with self._session.request(method, self._url + path, data=data, headers=headers) as got:
            return Answered(got.status, await got.read())


@asynccontextmanager
async def _gateway(path: Path) -> AsyncIterator[tuple[RunningGateway, aiohttp.ClientSession]]:
    """Run a gateway with a model behind each kind of target, which is its name."""
    config: dict[str, Any] = {"providers": {}, "models": {}, "routes": {"auto": {"models": [*UPSTREAMS]}}}
    config["keys"] = [{"name": name, "secret": f"env:{name.upper()}"} for name in ("a", "b")]
    async with AsyncExitStack() as stack:
        for kind in UPSTREAMS:

            def say(seen: Seen, kind: str = kind) -> Answer:
                return answer(_SAID, kind, seen.json)

            upstream = ScriptedUpstream().on_path(_PATHS.get(kind, "/v1/responses"), say)
            await stack.enter_async_context(upstream)
            provider, model = model_at(kind, upstream.url)
            config["providers"][kind] = provider
            config["models"][kind] = {"provider": kind, "price": {"input": 1.0, "output": 2.0}, **model}
        environ = {"KEY": "sk-upstream", "A": "tw-a", "B": "tw-b"}
        running = await stack.enter_async_context(running_gateway(config, path, environ=environ))
        yield running, await stack.enter_async_context(aiohttp.ClientSession())


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    with asyncio.Runner() as runner:
        context = _gateway(tmp_path_factory.mktemp("gateway"))
        running, session = runner.run(context.__aenter__())
        yield Asking(runner, running, session)
        runner.run(context.__aexit__(None, None, None))


_TARGETS = st.sampled_from([*UPSTREAMS, "auto"])


@_FEW
@given(body=mutated(st.sampled_from(MESSAGES)), model=_TARGETS)
def test_generated_message_gets_no_error_of_ours(body: dict[str, Any], model: str, asking: Asking) -> None:
    """Nor does the question how many tokens it has."""
    asking.ask("POST", "/v1/messages/count_tokens", {"model": model, **body})
    status, got = asking.ask("POST", "/v1/messages", {"model": model, **body})
    if status == 200 and got.startswith(b"event:"):
        assert events_of(got)[-1]["type"] == "message_stop"


@_FEW
@given(
    body=mutated(st.sampled_from(RESPONSES)),
    further=mutated(st.sampled_from([{"input": "And?"}, *RESPONSES])),
    model=_TARGETS,
    query=st.text(max_size=9) | st.sampled_from(["limit=1&order=asc", "limit=0", "after=x", "stream=true"]),
)
def test_generated_response_gets_no_error_of_ours(
    body: dict[str, Any], further: dict[str, Any], model: str, query: str, asking: Asking
) -> None:
    """Nor do the question how many tokens it has, what is asked of it once it is kept, and what goes on from it."""
    asking.ask("POST", "/v1/responses/input_tokens", {"model": model, **body})
    status, got = asking.ask("POST", "/v1/responses", {"model": model, **body})
    if status != 200:
        return
    response = events_of(got)[-1]["response"] if got.startswith(b"event:") else json.loads(got)
    assert response["status"] == "completed"
    path = f"/v1/responses/{response['id']}"
    kept = 200 if body.get("store") is not False else 404
    for method, further_path in (("GET", ""), ("GET", f"/input_items?{query}"), ("POST", "/cancel")):
        asking.ask(method, path + further_path)
    assert asking.ask("GET", f"{path}/input_items").status == kept
    assert asking.ask("GET", path, key="tw-b").status == 404
    asking.ask("POST", "/v1/responses", {"model": model, "previous_response_id": response["id"], **further})
    assert asking.ask("DELETE", path).status == kept


@_FEW
@given(
    given_id=st.text(max_size=12)
    | st.sampled_from(["%00", "%ff", "%ed%a0%80", "..", "%2e%2e%2f", "a" * 3_000, "\ud800"])
)
def test_unknown_id_is_a_404(given_id: str, asking: Asking) -> None:
    """Whatever stands in its place; or there is no such page."""
    for method, further in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
        path = f"/v1/responses/resp_{given_id}{further}".encode("utf-8", "replace").decode()
        assert asking.ask(method, path).status in {404, 405}
    body = {"model": "auto", "previous_response_id": given_id, "input": "Hi"}
    assert asking.ask("POST", "/v1/responses", body).status in {400, 404}
