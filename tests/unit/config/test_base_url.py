"""Addresses of providers that cannot work are refused where they are written."""

from pathlib import Path

import pytest

from gateway.app import configuration
from gateway.cli import main
from gateway.config.build import build
from gateway.config.load import ConfigError, load
from gateway.providers.registry import PROVIDER_TYPES
from tests.ground.builders import build_policy

HINT = "should be an address such as"
ENVIRON = {"KEY": "k"}


def problem_of(directory: Path, kind: str, url: str) -> str | None:
    path = directory / "tollway.yaml"
    models = "models: {m: {provider: p, price: free}}"
    path.write_text(f"providers: {{p: {{type: {kind}, base_url: '{url}', api_key: env:KEY}}}}\n{models}\n", "utf-8")
    try:
        config = load(path, ENVIRON, configuration(), provider_types=PROVIDER_TYPES)
        build(config, provider_types=PROVIDER_TYPES, price_of=lambda *_: None, policy_of=build_policy)
    except ConfigError as error:
        (problem,) = error.problems
        return problem.partition("base_url: ")[2]
    return None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://api.openai.com/v1/chat/completions", "should end before /chat/completions, which the gateway adds"),
        ("http://h:8000/v1/completions/", "should end before /completions"),
        ("http://h/v1/embeddings", "should end before /embeddings"),
        ("http://h/v1/audio/transcriptions", "should end before /audio/transcriptions"),
        ("https://api.anthropic.com/v1/messages", "should end before /messages"),
        ("http://h/v1/messages/count_tokens", "should end before /messages/count_tokens"),
        ("http://h/v1/responses", "should end before /responses"),
        ("http://h/v1/models", "should end before /models"),
        ("http://h/v1/v1", "says v1 twice"),
        ("http://h/openai/v1/v1/", "says v1 twice"),
        ("http://0.0.0.0:8000/v1", "names 0.0.0.0, where a server listens but none can be called"),
        ("http://[::]:8000/v1", "names ::, where a server listens"),
        ("http://255.255.255.255/v1", "is the address of no single machine"),
        ("http://224.0.0.1/v1", "is the address of no single machine"),
        ("http://[ff02::1]/v1", "is the address of no single machine"),
        ("http://256.1.1.1/v1", "names the host 256.1.1.1, which is no address"),
        ("http://10.0.0/v1", "names the host 10.0.0, which is no address"),
        ("http://h:0/v1", HINT),
        ("http://h:65536/v1", HINT),
        ("http://my host/v1", HINT),
        ("http://h..example/v1", HINT),
        ("http://.example/v1", HINT),
        (f"http://{'a' * 64}.example/v1", HINT),
        ("http://b\u00fccher.example/v1", HINT),
        ("http:///v1", HINT),
        ("http://h/v 1", HINT),
        ("h:8000/v1", HINT),
        ("http://h/v1?api-version=1", "should hold no user, password, query or fragment"),
    ],
)
def test_address_that_can_only_fail_is_refused(tmp_path: Path, url: str, said: str) -> None:
    found = problem_of(tmp_path, "openai-compatible", url)
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    ("kind", "url", "said"),
    [
        ("anthropic", "https://api.anthropic.com/v1", "the type 'anthropic' adds the version itself; leave it out"),
        ("anthropic", "https://proxy.example/anthropic/v1/", "adds the version itself"),
        ("ray-serve", "http://10.0.0.1:8000/v1", "the type 'ray-serve' adds the version itself"),
        ("openai", "https://api.openai.com", "lacks the path of https://api.openai.com/v1"),
        ("groq", "https://api.groq.com/", "lacks the path of https://api.groq.com/openai/v1"),
    ],
)
def test_address_that_does_not_go_with_its_type_is_refused(tmp_path: Path, kind: str, url: str, said: str) -> None:
    found = problem_of(tmp_path, kind, url)
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai-compatible", "http://my_service:8000/v1"),
        ("openai-compatible", "http://h:8000"),
        ("openai-compatible", "https://h.example./models/v1"),
        ("openai-compatible", "http://[::1]:8000/v1"),
        ("openai-compatible", "http://10.0.0.1/v1/v2"),
        ("openai-compatible", "https://h/v1beta/openai"),
        ("openai", "https://eu.api.openai.com/v1"),
        ("deepseek", "https://api.deepseek.com/v1"),
        ("anthropic", "https://proxy.example/anthropic"),
        ("ray-serve", "http://10.0.0.1:8000"),
        ("vllm", "http://10.0.0.1:8000/v1"),
    ],
)
def test_usual_addresses_are_accepted(tmp_path: Path, kind: str, url: str) -> None:
    assert problem_of(tmp_path, kind, url) is None


def test_check_says_that_variables_of_proxies_have_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tollway.yaml"
    provider = "{type: openai-compatible, base_url: 'http://127.0.0.1:1/v1'}"
    path.write_text(f"providers: {{p: {provider}}}\nmodels: {{m: {{provider: p, price: free}}}}\n", "utf-8")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert main(["check", "--config", str(path)]) == 0
    assert "note: https_proxy has no effect here: docs/guide/network.md." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [
        ("169.254.169.254", True),
        ("[::ffff:169.254.169.254]", True),
        ("[fd00:ec2::254]", True),
        ("metadata.google.internal", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("h.example", False),
    ],
)
def test_check_warns_of_the_address_of_a_clouds_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, is_warned: bool
) -> None:
    path = tmp_path / "tollway.yaml"
    provider = f"{{type: openai-compatible, base_url: 'http://{host}/v1'}}"
    path.write_text(f"providers: {{p: {provider}}}\nmodels: {{m: {{provider: p, price: free}}}}\n", "utf-8")
    assert main(["check", "--config", str(path)]) == 0
    assert ("warning: providers.p.base_url is a link-local" in capsys.readouterr().out) is is_warned
