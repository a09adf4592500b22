"""The example adapter in docs/extend/provider.md works as printed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import Adapter
from tests.ground.builders import build_call, build_envelope, build_target, chat_body

GUIDE = Path(__file__).parents[3] / "docs" / "extend" / "provider.md"
TARGET = build_target(base_url="http://tgi.test")
DETAILS = {"finish_reason": "length", "generated_tokens": 2, "prefill": [{"id": 1}, {"id": 2}, {"id": 3}]}


@pytest.fixture(name="adapter")
def load_adapter() -> Adapter:
    """Run the guide's code."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), names)  # noqa: S102 - our own documentation
    adapter: Adapter = names["GenerateAdapter"]()
    return adapter


def test_guide_writes_a_request(adapter: Adapter) -> None:
    """The call goes out in the foreign format."""
    call = build_call(build_envelope(chat_body(max_tokens=2)))
    assert adapter.refuses(call, TARGET) is None
    request = adapter.request(call, TARGET, "att_1")
    assert request.url == "http://tgi.test/generate"
    assert json.loads(request.body)["inputs"] == "user: Say hello"


def test_guide_reads_an_answer(adapter: Adapter) -> None:
    """The answer comes back as a chat completion with its usage; half of it is a cut."""
    body = json.dumps({"generated_text": "Hello there", "details": DETAILS}).encode()
    decoder = adapter.decoder(build_call(), TARGET)
    decoder.feed(body[:20])
    decoder.feed(body[20:])
    completion = ChatCompletion.model_validate_json(decoder.finish())
    assert completion.choices[0].message.content == "Hello there"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 5
    cut = adapter.decoder(build_call(), TARGET)
    cut.feed(body[:20])
    with pytest.raises(UpstreamError):
        cut.finish()


def test_guide_refuses_and_fails(adapter: Adapter) -> None:
    """What the format cannot say is named, and an overloaded server is told from a broken one."""
    told = adapter.refuses(build_call(build_envelope(chat_body(stream=True))), TARGET)
    assert told is not None
    assert told.startswith("'stream'")
    assert adapter.failure(503, {}, b"").kind is ErrorKind.UPSTREAM_OVERLOADED
