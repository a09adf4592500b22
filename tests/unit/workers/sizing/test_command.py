"""``tollway size``: a table for people, JSON for programs, one sentence when it cannot answer."""

import argparse
import json
from pathlib import Path

import pytest

from workers.command import cli
from workers.sizing.known import KNOWN


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_size(parser.add_subparsers(required=True))
    args = parser.parse_args(["size", *arguments])
    code = args.run(args)
    assert isinstance(code, int)
    return code


def test_a_known_model_is_a_short_table(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("llama-3.1-8b", "--gpu", "H100-80GB", "--dtype", "bf16", "--context", "32k", "--concurrency", "64")
    assert run(*asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "weights           14.96 GiB in bfloat16" in lines
    assert "KV cache          128.0 KiB per token" in lines
    assert [line.split()[0] for line in lines[-6:]] == ["float32", "float16", "bfloat16", "int8", "fp8", "fp4"]
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_config_of_ones_own_is_read(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(KNOWN["gpt2"].config), encoding="utf-8")
    assert run(str(tmp_path if what == "directory" else path), "--gpu", "L4", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["source"] == str(path)
    assert answer["load"]["context"] == 1024
    assert answer["chosen"]["dtype"] == "float32"
    assert answer["chosen"]["gpus"] == 1
    assert answer["chosen"]["usd_per_hour"] == answer["gpu"]["usd_per_hour"]


@pytest.mark.parametrize(
    ("name", "parameters", "cache_bytes"),
    [
        ("llama-3.2-3b", 3.21e9, None),
        ("llama-3.1-8b", 8e9, 0.125 * 2**20),
        ("llama-3.1-70b", 70e9, 0.313 * 2**20),
        ("llama-3.1-405b", 405e9, 0.492 * 2**20),
        ("mixtral-8x7b", 47e9, None),
        ("deepseek-v2", 236e9, None),
        ("deepseek-v3", 671e9, 68.6 * 2**10),
        ("qwen3-235b-a22b", 235e9, None),
        ("gpt-j-6b", 6_053_381_344, None),
        ("bloom", 176e9, None),
    ],
)
def test_size_states_what_is_published(
    name: str, parameters: float, cache_bytes: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sources, opened on 2026-11-22, are named in test_published.py."""
    assert run(name, "--gpu", "H200", "--context", "1k", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"] == pytest.approx(parameters, rel=0.05)
    if cache_bytes is not None:
        assert answer["chosen"]["kv_bytes_per_token"] == pytest.approx(cache_bytes, rel=0.05)


def test_stated_price_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mixtral-8x7b", "--context", "8k", "--usd-per-hour", "2.5", "--json") == 0
    chosen = json.loads(capsys.readouterr().out)["chosen"]
    assert chosen["usd_per_hour"] == 2.5 * chosen["gpus"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llama-3.1-8b", "--gpu", "H10"), "There is no GPU 'H10' in the table; the nearest are A10, H100-80GB."),
        (
            ("llama-3.1-8b", "--gpu", "A100"),
            "There is no GPU 'A100' in the table; the nearest are A100-40GB, A100-80GB.",
        ),
        (("lama-3.1-8b",), "the nearest are llama-3.1-8b,"),
        (("./nowhere",), "does not exist; give a directory with a config.json"),
        (("llama-2-7b", "--context", "32k"), "ends at 4,096 tokens"),
        (("gpt2", "--context", "lots"), "is not a number of tokens such as 8192 or 32k."),
        (("gpt2", "--dtype", "int3"), "There is no precision 'int3'; there is float32,"),
        (("gpt2", "--concurrency", "0"), "--concurrency is at least 1"),
    ],
)
def test_a_question_without_an_answer_is_one_plain_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tollway: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "it must be a JSON object."),
        (json.dumps({**KNOWN["deepseek-v3"].config, "v_head_dim": None}), "has a member that is missing or odd"),
        (json.dumps({**KNOWN["llama-3-8b"].config, "torch_dtype": "auto"}), "There is no precision 'auto'"),
        ("{}", "does not say hidden_size"),
    ],
    ids=["not-json", "a-list", "half-a-latent", "no-precision", "empty"],
)
def test_a_broken_config_is_one_plain_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert run(str(tmp_path)) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
