"""The page docs/extend/credential.md, executed as it stands."""

import asyncio
from pathlib import Path

import openai
import pytest

from tests.ground.extend import followed
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

MINUTE = {"access_token": "short-lived", "expires_in": 60}
HOUR = {"access_token": "long-lived", "expires_in": 3600}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "fetched", "shown"),
    [
        (json_answer(HOUR), 1, "Bearer long-lived"),
        (json_answer(MINUTE), 4, "Bearer short-lived"),
        (error_answer(400, "unauthorized_client"), 4, None),
    ],
    ids=["kept", "expired", "refused"],
)
async def test_token_is_fetched_once_for_attempts_that_want_it_at_once(
    given: Answer, fetched: int, shown: str | None, tmp_path: Path
) -> None:
    """And again when it has expired. Without one nothing is sent, and the caller learns nothing of the secret."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/token", given)
        (tmp_path / "credential").write_text(f"{upstream.url}/token|app|s3cret-of-app")
        async with followed("credential.md", tmp_path, upstream=upstream) as gateway:
            client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)

            async def ask() -> str:
                try:
                    messages = [{"role": "user", "content": "Hi"}]
                    answered = await client.chat.completions.create(model="small", messages=messages)  # type: ignore[call-overload]
                except openai.APIStatusError as error:
                    return error.message
                return str(answered.choices[0].message.content)

            async with client:
                said = await asyncio.gather(*(ask() for _ in range(4)))
    tokens = [each for each in upstream.seen if each.path == "/token"]
    assert len(tokens) == fetched if shown else tokens
    assert tokens[0].body == b"grant_type=client_credentials&client_id=app&client_secret=s3cret-of-app"
    chats = [each for each in upstream.seen if each.path != "/token"]
    assert {each.headers["authorization"] for each in chats} == ({shown} if shown else set())
    assert not any("s3cret" in sentence for sentence in said)


@pytest.mark.slow
async def test_token_and_parts_of_the_secret_are_taken_out_of_an_upstreams_words(tmp_path: Path) -> None:
    said = "'long-lived' of 'app-of-ours' with 's3cret-of-app' may not ask for that"
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/token", json_answer(HOUR)).on_path("/v1/chat/completions", error_answer(400, said))
        (tmp_path / "credential").write_text(f"{upstream.url}/token|app-of-ours|s3cret-of-app")
        async with followed("credential.md", tmp_path, upstream=upstream) as gateway:
            client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)
            with pytest.raises(openai.BadRequestError, match="may not ask for that") as caught:
                await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}])
            await client.close()
    assert caught.value.message.count("(redacted)") == 3
    assert not any(word in caught.value.message for word in ("long-lived", "app-of-ours", "s3cret"))
