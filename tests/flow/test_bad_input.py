"""Whatever a caller sends, the answer is a 4xx in OpenAI's error shape that says what to do, never a 5xx or a hang."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'
BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "not JSON": (b"{", 400),
    "an array": (b"[]", 400),
    "a BOM": (b"\xef\xbb\xbf{}", 400),
    "deep": (b'{"model":"auto","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a 5,000-digit integer": (f'{{"model":"auto",{MESSAGES},"seed":{"9" * 5000}}}'.encode(), 400),
    "a float beyond range": (f'{{"model":"auto",{MESSAGES},"temperature":1e400}}'.encode(), 400),
    "NaN": (f'{{"model":"auto",{MESSAGES},"temperature":NaN}}'.encode(), 400),
    "Infinity": (f'{{"model":"auto",{MESSAGES},"temperature":-Infinity}}'.encode(), 400),
    "model twice": (f'{{"model":"scripted","model":"forbidden",{MESSAGES}}}'.encode(), 400),
    "model twice, escaped": (f'{{"model":"scripted","mod\\u0065l":"forbidden",{MESSAGES}}}'.encode(), 400),
    "model twice, once in capitals": (f'{{"model":"scripted","MODEL":"forbidden",{MESSAGES}}}'.encode(), 400),
    "stream with a long s": (f'{{"model":"scripted","\u017ftream":true,{MESSAGES}}}'.encode(), 400),
    "a member twice, nested": (b'{"model":"auto","messages":[{"role":"user","role":"system","content":"x"}]}', 400),
    "bad UTF-8": (b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}', 400),
    "a lone surrogate": (b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', 400),
    "an encoded surrogate": (b'{"model":"auto","messages":[{"role":"user","content":"\xed\xa0\x80"}]}', 400),
    "no model": (f"{{{MESSAGES}}}".encode(), 400),
    "no messages": (b'{"model":"auto"}', 400),
    "an unknown model": (f'{{"model":"scriptd",{MESSAGES}}}'.encode(), 404),
    "a model that the key may not use": (f'{{"model":"forbidden",{MESSAGES}}}'.encode(), 403),
    "too large": (b" " * 3_000_000, 413),
}


@pytest_asyncio.fixture
async def running(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningGateway]:
    """Run a gateway before a healthy upstream, with a key that may use ``auto`` and ``scripted`` only.

    Its parameter is how long a body may take, in seconds.
    """
    body_timeout_s = getattr(request, "param", 30)
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["models"]["forbidden"] = {**config["models"]["scripted"]}
        config["server"] = {"host": "127.0.0.1", "port": 0, "max_body_mb": 2, "body_timeout_s": body_timeout_s}
        config["keys"] = [{"name": "app", "secret": "env:KEY", "routes": ["auto", "scripted"]}]
        async with running_gateway(config, tmp_path, environ={"KEY": "sk-right"}) as gateway:
            yield gateway
            assert {seen.model for seen in upstream.seen} <= {"scripted"}, "something got past the allow-list"


async def _post(running: RunningGateway, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    headers = {"authorization": "Bearer sk-right", "content-type": "application/json", **headers}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{running.base_url}/chat/completions", data=io.BytesIO(body), headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize("name", BODIES)
async def test_a_bad_body_is_refused_with_what_to_do(name: str, running: RunningGateway) -> None:
    """Each kind of bad body has its status, and an error object with the four members that OpenAI's has."""
    body, status = BODIES[name]
    got, answer = await _post(running, body)
    assert got == status
    error = answer["error"]
    assert isinstance(error, dict)
    assert set(error) >= {"message", "type", "param", "code"}
    assert len(str(error["message"])) > 20


@pytest.mark.parametrize("key", ["Bearer sk-wrong", "Bearer ", "Basic c2stcmlnaHQ=", "sk-right", ""])
async def test_a_wrong_key_is_refused_without_echoing_it(key: str, running: RunningGateway) -> None:
    """401, and the key is not in the answer."""
    status, answer = await _post(running, b"{}", authorization=key)
    assert status == 401
    assert "sk-" not in json.dumps(answer)


async def test_the_key_is_checked_before_the_body_is_read(running: RunningGateway) -> None:
    """A caller without a key is told so however bad or large the body is."""
    status, _ = await _post(running, b" " * 3_000_000, authorization="Bearer sk-wrong")
    assert status == 401


async def test_an_unknown_model_is_answered_with_the_nearest_name(running: RunningGateway) -> None:
    """The nearest name among those that the key may use."""
    _, answer = await _post(running, BODIES["an unknown model"][0])
    assert "scripted" in json.dumps(answer)
    _, answer = await _post(running, f'{{"model":"forbiden",{MESSAGES}}}'.encode())
    assert "forbidden" not in json.dumps(answer)


RAW = {
    "Content-Length beside Transfer-Encoding": (
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b" 400 ",
    ),
    "40 KB of headers": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 40_000 + b"\r\n\r\n",
        b" 431 ",
    ),
    "headers without an end": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 40_000,
        b" 431 ",
    ),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", b" 400 "),
    "another method": (b"PUT /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b" 405 "),
    "a body that never comes": (
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer sk-right\r\nContent-Length: 9\r\n\r\n"
        ),
        b" 408 ",
    ),
}


@pytest.mark.parametrize(
    ("name", "running"), [(name, 0.5 if "never" in name else 30) for name in RAW], indirect=["running"]
)
async def test_bad_http_is_refused(name: str, running: RunningGateway) -> None:
    """What is wrong before any JSON is refused too, in the same shape."""
    sent, status = RAW[name]
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), SOON_S)
    writer.close()
    assert status in answer.split(b"\r\n")[0]
    assert b'"error"' in answer.partition(b"\r\n\r\n")[2]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool", "", "x"]) | _json, "content": _json}
    ),
    max_size=3,
)
_MEMBERS = (
    "stream stream_options n max_tokens temperature tools tool_choice response_format stop logprobs seed best_of "
    "prompt user max_completion_tokens"
)
_chat = st.fixed_dictionaries(
    {"model": st.sampled_from(["auto", "scripted", "nope"]), "messages": _messages | _json},
    optional=dict.fromkeys(_MEMBERS.split(), _json),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=st.one_of(st.binary(max_size=200), _chat.map(lambda value: json.dumps(value).encode("utf-8", "replace"))))
@pytest.mark.slow
def test_no_body_makes_a_5xx(body: bytes, fuzzed: "Fuzzed") -> None:
    """Random bytes, and requests with random members: a healthy upstream and never a 5xx."""
    assert fuzzed.post(body) < 500


class Fuzzed:
    """A running gateway on a loop of its own, since hypothesis calls synchronous functions."""

    def __init__(self, runner: asyncio.Runner, running: RunningGateway) -> None:
        self._runner = runner
        self._running = running

    def post(self, body: bytes) -> int:
        """Post a body, and return the status once the whole answer has come."""
        return self._runner.run(asyncio.wait_for(self._post(body), SOON_S))

    async def _post(self, body: bytes) -> int:
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{self._running.base_url}/chat/completions", data=body) as answer,
        ):
            await answer.read()
            return answer.status


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator["Fuzzed"]:
    """Run a gateway before a healthy upstream."""
    runner = asyncio.Runner()

    async def enter() -> RunningGateway:
        upstream = await ScriptedUpstream().__aenter__()
        stack.push_async_exit(upstream.__aexit__)
        return await stack.enter_async_context(running_gateway(one_model(upstream.url), tmp_path))

    stack = AsyncExitStack()
    yield Fuzzed(runner, runner.run(enter()))
    runner.run(stack.aclose())
    runner.close()
