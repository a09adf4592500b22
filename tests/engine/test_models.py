"""The models of the examples on real vLLM on a CPU, behind the gateway: chat, an adapter, embeddings, the status.

And what ``check`` lets pass and vLLM refuses: one sentence, an exit code, nothing left.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
import yaml

from tests.engine.conftest import Running
from workers.replica.models import prepare

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SMALL = {"dtype": "float32", "max_model_len": 512, "kv_cache_memory": "64MiB", "engine_args": {"enforce_eager": True}}


@pytest.fixture(scope="module")
def client(several: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{several.gateway}/v1", api_key="-", max_retries=0, timeout=120) as made:
        yield made


def test_chat_models_and_an_adapter_answer_by_their_own_names(client: openai.OpenAI) -> None:
    """Through the gateway, each as itself; the adapter from its model's replica, with its own weights."""
    replies = {
        name: client.chat.completions.create(model=name, messages=QUESTION, max_tokens=16, temperature=0, logprobs=True)
        for name in ("smollm2", "smollm2-brief", "pirate")
    }
    firsts = {}
    for name, reply in replies.items():
        assert reply.model == name
        assert "Paris" in (reply.choices[0].message.content or "")
        logprobs = reply.choices[0].logprobs
        assert logprobs
        assert logprobs.content
        firsts[name] = logprobs.content[0].logprob
    assert firsts["smollm2"] != pytest.approx(firsts["pirate"], abs=1e-4), "the adapter's weights were used"
    assert firsts["smollm2"] == pytest.approx(firsts["smollm2-brief"], abs=1e-4)


def test_embeddings_of_similar_words_are_near(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="minilm", input=["a cat", "a kitten", "an airport"])
    cat, kitten, airport = (item.embedding for item in answer.data)
    assert _likeness(cat, cat) == pytest.approx(1, abs=1e-3)
    assert _likeness(cat, kitten) > _likeness(cat, airport) + 0.3
    assert answer.usage.prompt_tokens > 3


def test_the_status_says_what_runs_and_what_it_costs(client: openai.OpenAI, several: Running) -> None:
    """And the gateway's own view of the replicas is the same."""
    for _ in range(2):
        client.chat.completions.create(model="smollm2-brief", messages=QUESTION)
    command = [
        sys.executable,
        "-m",
        "gateway",
        "workers",
        "status",
        "--json",
        "--url",
        several.worker.rsplit("/", 1)[0],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status = {model["model"]: model for model in json.loads(done.stdout)["models"]}
    assert {name: model["replicas"] for name, model in status.items()} == {
        name: {"ready": 1} for name in ("smollm2", "smollm2-brief", "minilm")
    }
    assert status["smollm2"]["serves"] == ["smollm2", "pirate"]
    brief = status["smollm2-brief"]
    assert brief["usd_per_hour"] == 0.08
    price = brief["usd_per_million_tokens"]
    assert 0 < price["marginal"] < price["average"]
    for name in ("smollm2", "smollm2-brief", "pirate", "minilm"):
        # A replica that a busy machine holds up is out of the view until its next line.
        ready = f'tollway_replicas{{state="ready",target="{name}"}} 1.0'
        while ready not in httpx2.get(f"{several.gateway}/metrics").text:
            continue


def _likeness(left: list[float], right: list[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


@pytest.mark.soak
@pytest.mark.parametrize("wrong", ["model", "adapter"])
def test_problem_that_only_the_engine_finds_is_one_sentence(wrong: str, tmp_path: Path, home: Path) -> None:
    """A download that broke off, an adapter of no weights: the check sees the files, vLLM what is in them."""
    spec = {"source": "bundled:smollm2-135m-instruct", **SMALL}
    if wrong == "model":
        spec["source"] = str(tmp_path / "model")
        whole = prepare("bundled:smollm2-135m-instruct", print)
        shutil.copytree(whole, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
        with (Path(whole) / "model.safetensors").open("rb") as weights:
            (tmp_path / "model" / "model.safetensors").write_bytes(weights.read(2**20))
    else:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        made = home / "build" / "adapters" / "pirate" / "adapter_config.json"
        (adapter / made.name).write_bytes(made.read_bytes())
        (adapter / "adapter_model.safetensors").write_bytes(b"no weights")
        spec["lora"] = {"adapters": {"broken": str(adapter)}}
    config = tmp_path / "tollway.yaml"
    config.write_text(yaml.safe_dump({"workers": {"m": spec}}), encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "workers", "run", "--config", str(config), "--port", "0"]
    # The address is of a Ray that is gone: what another run has left is not looked at.
    mark = {"TOLLWAY_TEST_RUN": str(tmp_path), "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **mark})
    assert done.returncode == 1, done.stderr[-3000:]
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("tollway: The replicas of m did not start: "), done.stderr[-3000:]
    assert "deserializing header" in last, "the engine's own words about the file"
    assert _running(str(tmp_path)) == []


def _running(mark: str) -> list[str]:
    """Return the commands of all processes that inherited the mark of a run."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
