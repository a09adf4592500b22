"""``tollway check --online`` asks each target once, what costs least there, and says in a line what is wrong."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.config.snapshot import ProviderType
from gateway.providers.registry import PROVIDER_TYPES
from tests.ground.gateway import write_config
from tests.ground.script import Answer, error_answer, html_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

SECRET = "sk-canary-0123456789"
CHAT, MODELS = "/v1/chat/completions", "/v1/models"
PRICE = {"input": 1.0, "output": 2.0}


def config_of(url: str, kind: str, **model: Any) -> dict[str, Any]:
    """Describe one model ``m`` at a provider of this type at this address, known there as ``up``."""
    base_url = url if kind in {"anthropic", "ray-serve"} else f"{url}/v1"
    provider = {"type": kind, "base_url": base_url, "api_key": "env:KEY"}
    return {"providers": {"p": provider}, "models": {"m": {"provider": "p", "upstream": "up", "price": PRICE, **model}}}


async def check(
    config: dict[str, Any], path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[int, list[str]]:
    """Run the command, and return its exit code and the lines behind what it says of the file."""
    monkeypatch.setenv("KEY", SECRET)
    file = write_config(path, config)
    code = await asyncio.to_thread(main, ["check", "--config", str(file), "--online", *more])
    shown = capsys.readouterr().out
    assert SECRET not in shown
    assert "127.0.0.1" not in shown
    return code, shown.splitlines()[1:]


LIST = json_answer({"object": "list", "data": [{"id": "other"}, {"id": "up"}]})
GOOD = [
    # Type, the path that is asked and its answer, and what is said of it.
    ("openai", f"{MODELS}/up", json_answer({"id": "up"}), "the provider knows the model"),
    ("anthropic", f"{MODELS}/up", json_answer({"id": "up", "type": "model"}), "the provider knows the model"),
    ("mistral", f"{MODELS}/up", json_answer({"id": "up"}), "the provider knows the model"),
    ("deepseek", MODELS, LIST, "the upstream lists the model"),
    ("together", MODELS, json_answer([{"id": "up"}]), "the upstream lists the model"),
    ("vllm", MODELS, LIST, "the upstream lists the model"),
    ("ray-serve", "/up/v1/models", LIST, "the upstream lists the model"),
    ("openrouter", CHAT, None, "it answered with one token"),
    ("openai-compatible", CHAT, None, "it answered with one token"),
]


@pytest.mark.parametrize("asked", GOOD, ids=[each[0] for each in GOOD])
async def test_good_target_is_asked_once_what_costs_least(
    asked: tuple[str, str, Answer | None, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the target's own credential; a directory of replicas that is none is passed over."""
    kind, path, answer, sentence = asked
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/tollway/replicas", error_answer(404))
        if answer is not None:
            upstream.on_path(path, answer)
        code, lines = await check(config_of(upstream.url, kind), tmp_path, capsys, monkeypatch)
        seen = [each for each in upstream.seen if "tollway" not in each.path]
    assert (code, lines[1:]) == (0, [f"m  ok: {sentence}", "All that was asked is good."])
    assert [(each.method, each.path) for each in seen] == [("POST" if path == CHAT else "GET", path)]
    assert SECRET in {
        seen[0].headers.get("authorization", "").removeprefix("Bearer "),
        seen[0].headers.get("x-api-key"),
    }
    assert ("costs about 0.000022000 USD" if path == CHAT else "costs nothing") in lines[0]
    assert path != CHAT or seen[0].json["max_tokens"] == 1


WRONG = {
    "a refused key": (
        error_answer(401, f"Incorrect API key provided: {SECRET}. You can find it at https://platform.example.com."),
        'It said: "Incorrect API key provided: (redacted)."',
    ),
    "an unknown model": (
        error_answer(404, "The model `up` does not exist"),
        'It said: "The model `up` does not exist"',
    ),
    "a misspelt model with status 400": (
        error_answer(400, "Invalid model name passed in model=up. Call `/v1/models`."),
        'It said: "Invalid model name passed in model=up."',
    ),
    "a model that does not exist with status 400": (
        error_answer(400, "The model `up` does not exist"),
        'It said: "The model `up` does not exist"',
    ),
    "a model that is none or of another kind": (
        error_answer(400, "model up not found, or it does not support chat"),
        'It said: "model up not found, or it does not support chat"',
    ),
    "a key of other words": (error_answer(401, "This key does not support chat"), "credentials or account (HTTP 401"),
    "no money": (error_answer(402, "Insufficient credits"), "credentials or account (HTTP 402"),
    "its rate": (
        error_answer(429, "Slow down"),
        "The upstream limits our rate, or our quota there is used up (HTTP 429",
    ),
    "a fault": (error_answer(500, "db.internal is down"), 'It said: "(address) is down"'),
    "a page": (html_answer(502), "The upstream failed (HTTP 502)."),
    "no answer in time": (Answer(first_byte_delay_s=60), "There was no answer within 0.5 s."),
    "a broken connection": (Answer(hang_up=True), "The upstream broke the connection before it answered."),
    "no HTTP": (Answer(raw=b"SSH-2.0\r\n"), "not HTTP that can be understood"),
}


@pytest.mark.parametrize("kind", ["openai-compatible", "openai"])
@pytest.mark.parametrize("name", WRONG)
async def test_bad_target_has_a_line_with_what_is_wrong(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence of ours and the upstream's first one, without what is secret in it."""
    answer, sentence = WRONG[name]
    timeout_s = "0.5" if name == "no answer in time" else "20"
    async with ScriptedUpstream() as upstream:
        upstream.on_path(CHAT, answer).on_path(f"{MODELS}/up", answer)
        code, lines = await check(config_of(upstream.url, kind), tmp_path, capsys, monkeypatch, "--timeout", timeout_s)
    assert code == 1
    assert lines[1].startswith("m  wrong: ")
    assert sentence in lines[1]
    assert lines[2] == "1 of 1 are not as the configuration says."


async def test_page_in_place_of_an_answer_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked."""
    async with ScriptedUpstream() as upstream:
        page = html_answer(200)
        upstream.on_path(CHAT, page).on_path(MODELS, page).on_path(f"{MODELS}/up", page)
        for kind in ("openai-compatible", "deepseek", "openai"):
            code, lines = await check(config_of(upstream.url, kind), tmp_path, capsys, monkeypatch)
            assert (code, lines[1].startswith("m  wrong: ")) == (1, True), kind


async def test_model_that_is_not_listed_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed is said, so far as it is short."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path(MODELS, json_answer({"data": [{"id": f"m{number}"} for number in range(9)]}))
        code, lines = await check(config_of(upstream.url, "deepseek"), tmp_path, capsys, monkeypatch)
    sentence = "The upstream does not list the model 'up'. It lists m0, m1, m2, m3, m4 ..."
    assert (code, lines[1]) == (1, f"m  wrong: {sentence}.")


NAMES = {
    f"\x1b[2J{SECRET}": "?[2J(redacted)",
    "http://10.0.0.7:8000": "(address)",
    "a\r\nok: all is good": "a",
    "a\tb\u202ec": "a?b?c",
    "a" * 9_000: "(redacted)",
    "meta/llama-3.1:8b": "meta/llama-3.1:8b",
}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_names_of_other_models_are_shown_without_what_is_ours(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are an upstream's words, which go to a terminal."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path(MODELS, json_answer({"data": [{"id": name}]}))
        code, lines = await check(config_of(upstream.url, "deepseek"), tmp_path, capsys, monkeypatch)
    sentence = f"The upstream does not list the model 'up'. It lists {NAMES[name]}."
    assert (code, lines[1]) == (1, f"m  wrong: {sentence}")


async def test_model_that_does_other_things_is_good_unless_they_are_what_it_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a model that is configured for embeddings, to refuse them is a fault."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path(CHAT, error_answer(404, "This is not a chat model and thus not supported."))
        upstream.on_path("/v1/embeddings", error_answer(403, "You are not allowed to generate embeddings from this"))
        config = config_of(upstream.url, "openai-compatible")
        config["models"]["v"] = config["models"]["m"] | {"capabilities": ["embeddings"]}
        code, lines = await check(config, tmp_path, capsys, monkeypatch)
    assert (code, lines[1]) == (1, "m  ok: it is there and takes the credential; the model does not chat")
    assert lines[2].startswith("v  wrong: The model behind this target does not do this kind of request (HTTP 403")


async def test_each_target_has_its_line_and_a_list_is_asked_for_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wildcards have the number of what is behind them, or nothing that could be asked."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path(MODELS, json_answer({"data": [{"id": "a"}, {"id": "b"}]}))
        config = config_of(upstream.url, "deepseek")
        config["providers"]["q"] = {"type": "openai-compatible", "base_url": f"{upstream.url}/v1"}
        config["models"] = {
            "a": {"provider": "p", "price": PRICE},
            "b": {"provider": "p", "price": PRICE},
            "gone": {"provider": "p", "price": PRICE},
            "vectors": {"provider": "q", "price": PRICE, "capabilities": ["embeddings"]},
            "speech": {"provider": "q", "price": PRICE, "capabilities": ["transcriptions"]},
            "p/*": {"provider": "p", "price": PRICE},
            "q/*": {"provider": "q", "price": PRICE},
        }
        code, lines = await check(config, tmp_path, capsys, monkeypatch)
        asked = [each.path for each in upstream.seen]
    assert sorted(asked) == ["/v1/embeddings", MODELS]
    price = "4 by a question that costs nothing, 1 for one token, which costs about 0.000022000 USD in all"
    assert lines == [
        f"Asking each target once: {price}.",
        "a        ok: the upstream lists the model",
        "b        ok: the upstream lists the model",
        "gone     wrong: The upstream does not list the model 'gone'. It lists a, b.",
        "vectors  ok: it answered with a vector",
        "speech   not asked: nothing that costs little would say something of it",
        "p/*      ok: the upstream lists 2 models",
        "q/*      not asked: nothing that costs little would say something of it",
        "1 of 7 are not as the configuration says.",
    ]
    assert code == 1


async def test_replica_behind_a_directory_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model at zero is good too: a request starts a replica."""
    async with ScriptedUpstream() as directory, ScriptedUpstream() as replica:
        replica.on_path(MODELS, json_answer({"data": [{"id": "up"}]}))
        listed = {"replicas": [{"id": "r", "url": replica.url}], "serves": ["up"]}
        models = {"own": listed, "zero": {"replicas": [], "serves": ["zero"]}}
        directory.on_path("/tollway/replicas", json_answer({"version": 1, "models": models}))
        config = config_of(directory.url, "ray-serve")
        config["models"] |= {name: {**config["models"]["m"], "upstream": name} for name in ("zero", "none")}
        code, lines = await check(config, tmp_path, capsys, monkeypatch)
    assert code == 1
    assert [line.partition(":")[2].strip() for line in lines[1:4]] == [
        "the upstream lists the model",
        "the directory lists the model; it has no replica now, and a request starts one",
        "The directory lists no model 'none'.",
    ]


async def test_address_of_a_replica_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the directory's word, and may be another than the target's own."""
    async with ScriptedUpstream() as directory, ScriptedUpstream() as replica:
        url = replica.url.replace("127.0.0.1", "localhost")
        replica.on_path("/worker-of-team-seven/v1/models", error_answer(500, "/worker-of-team-seven/v1 is down"))
        listed = {"replicas": [{"id": "r", "url": f"{url}/worker-of-team-seven"}], "serves": ["up"]}
        directory.on_path("/tollway/replicas", json_answer({"version": 1, "models": {"own": listed}}))
        code, lines = await check(config_of(directory.url, "ray-serve"), tmp_path, capsys, monkeypatch)
    assert (code, lines[1].endswith('It said: "(address) is down"')) == (1, True)


async def test_missing_credential_sends_no_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said as of a file that is wrong."""
    async with ScriptedUpstream() as upstream:
        file = write_config(tmp_path, config_of(upstream.url, "openai"))
        monkeypatch.delenv("KEY", raising=False)
        assert await asyncio.to_thread(main, ["check", "--config", str(file), "--online"]) == 1
        assert upstream.seen == []
    assert "is not set" in capsys.readouterr().err


async def test_check_without_online_sends_no_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", SECRET)
    async with ScriptedUpstream() as upstream:
        file = write_config(tmp_path, config_of(upstream.url, "openai"))
        assert await asyncio.to_thread(main, ["check", "--config", str(file)]) == 0
        assert upstream.seen == []
    assert "good" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["0", "-1", "nan", "inf", "soon"])
def test_timeout_that_is_none_is_a_wrong_call(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "--online", f"--timeout={written}"])
    assert ended.value.code == 2
    assert "should be a number of seconds above 0" in capsys.readouterr().err


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "providers.md"


def asks(kind: ProviderType) -> str:
    words = {"model": "the model, by its name", "models": "the list of models", "chat": "one token of a chat"}
    return words[kind.question]


def test_reference_names_the_question_of_every_type() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| (the model, by its name|the list of models|one token of a chat) \|",
        REFERENCE.read_text(),
        re.MULTILINE,
    )
    assert dict(rows) == {name: asks(kind) for name, kind in PROVIDER_TYPES.items()}
