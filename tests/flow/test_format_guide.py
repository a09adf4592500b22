"""The page docs/extend/format.md, executed as it stands."""

import json
from pathlib import Path

import openai
import pytest

from tests.ground.builders import chat_body
from tests.ground.extend import followed
from tests.ground.script import error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

DETAILS = {"finish_reason": "length", "generated_tokens": 2, "prefill": [{"id": 1}, {"id": 2}, {"id": 3}]}
MESSAGES = json.loads(chat_body())["messages"]


@pytest.mark.slow
async def test_adapter_of_the_guide_answers_refuses_and_fails(tmp_path: Path) -> None:
    """An answer becomes a chat completion, an error of any status one of ours, what it cannot express a 400."""
    async with ScriptedUpstream() as tgi, followed("format.md", tmp_path, upstream=tgi) as gateway:
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)

        async def ask(**more: object) -> openai.types.chat.ChatCompletion:
            return await client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=2, **more)  # type: ignore[call-overload, no-any-return]

        async with client:
            tgi.on_path("/generate", json_answer({"generated_text": "Hello there", "details": DETAILS}))
            completion = await ask()
            assert completion.choices[0].message.content == "Hello there"
            assert completion.choices[0].finish_reason == "length"
            assert completion.usage is not None
            assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (3, 2)
            assert json.loads(tgi.seen[0].body)["inputs"] == "user: Say hello"
            statuses = {}
            for status in (422, 429, 500, 503):
                tgi.on_path("/generate", error_answer(status, "broken"))
                try:
                    await ask()
                except openai.APIStatusError as error:
                    statuses[status] = (error.status_code, error.message)
            assert sorted(statuses) == [422, 429, 500, 503]
            assert all(got in {502, 503} for got, _ in statuses.values()), statuses
            assert "TypeError" not in str(statuses)
            with pytest.raises(openai.BadRequestError, match="'temperature' has no equivalent"):
                await ask(temperature=1)
