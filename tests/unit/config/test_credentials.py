"""Secrets: where they come from, and that no message or dump shows one."""

import hashlib
from pathlib import Path

import pytest

from gateway.app import configuration
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config

ENVIRON = {"HOME": "/home/ada", "OPENAI_API_KEY": "sk-upstream-1234", "DEMO_KEY": "tw-demo-5678"}
GOOD = """\
providers:
  local: {type: openai-compatible, base_url: "http://127.0.0.1:1234/v1"}
models:
  phi: {provider: local, price: free}
"""


def read(directory: Path, text: str) -> Config:
    path = directory / "tollway.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, ENVIRON, configuration())


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return [line.removeprefix(f"{directory}/") for line in caught.value.problems]


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    """A file is looked for beside the configuration, and may end in a line break."""
    (tmp_path / "key").write_text("sk-from-a-file\n")
    text = """\
providers:
  a: {type: openai, api_key: env:OPENAI_API_KEY, headers: {x-team: blue, x-token: file:key}}
  b: {type: openai, api_key: file:key}
models:
  m: {provider: a}
"""
    providers = read(tmp_path, text).providers
    assert providers["a"].api_key is not None
    assert providers["a"].api_key.value == "sk-upstream-1234"
    assert providers["b"].api_key is not None
    assert providers["b"].api_key.value == "sk-from-a-file"
    token = providers["a"].headers["x-token"]
    assert not isinstance(token, str)
    assert token.value == "sk-from-a-file"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"caf\xc3\xa9", b"a\x00b", b"x" * 70_000])
def test_a_file_that_holds_no_usable_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """A credential becomes a header; what no header can hold is told at start, without its content."""
    (tmp_path / "key").write_bytes(content)
    (problem,) = problems(tmp_path, GOOD.replace("type: openai-compatible", "type: openai, api_key: file:key"))
    assert problem.startswith("tollway.yaml:2: providers.local.api_key: the ")
    assert "two words" not in problem


def test_a_key_is_kept_as_its_digest_only(tmp_path: Path) -> None:
    """The environment's key and its digest written in the file are the same principal's; the key itself is not kept."""
    digest = hashlib.sha256(b"tw-demo-5678").hexdigest()
    by_env = read(tmp_path, GOOD + "keys: [{name: a, secret: env:DEMO_KEY}]")
    by_digest = read(tmp_path, GOOD + f"keys: [{{name: a, secret: 'sha256:{digest.upper()}'}}]")
    assert by_env.keys[0].secret == by_digest.keys[0].secret == bytes.fromhex(digest)
    assert "tw-demo" not in repr(by_env)
    assert problems(tmp_path, GOOD + "keys: [{name: a, secret: sha256:12ab}]") == [
        "tollway.yaml:5: keys[0].secret: sha256: wants the 64 hexadecimal digits of the key's SHA-256"
    ]


def test_secrets_are_masked_when_a_configuration_is_shown(tmp_path: Path) -> None:
    """Neither its dump nor its repr can put a credential into a log."""
    secrets = "type: openai, api_key: env:OPENAI_API_KEY, headers: {x-key: env:DEMO_KEY}"
    config = read(tmp_path, GOOD.replace("type: openai-compatible", secrets))
    shown = config.model_dump_json() + repr(config) + str(config)
    assert "sk-upstream" not in shown
    assert "tw-demo" not in shown
