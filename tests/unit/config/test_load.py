"""What `load` says of a file: everything that is wrong, at its line, with the nearest right spelling, and no secret."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app import configuration
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config

ENVIRON = {"HOME": "/home/ada", "OPENAI_API_KEY": "sk-upstream-1234", "DEMO_KEY": "tw-demo-5678", "EMPTY": " "}
TYPES = ("ray-serve", "openai", "openai-compatible", "anthropic")
GOOD = """\
providers:
  local: {type: openai-compatible, base_url: "http://127.0.0.1:1234/v1"}
models:
  phi: {provider: local, price: free}
"""
EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "own-first.yaml"


def read(directory: Path, text: str) -> Config:
    path = directory / "tollway.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, ENVIRON, configuration(), provider_types=TYPES)


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return [line.removeprefix(f"{directory}/") for line in caught.value.problems]


def test_the_shortest_file_gets_its_defaults(tmp_path: Path) -> None:
    """Four lines are enough; the rest is the documented defaults."""
    config = read(tmp_path, GOOD)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.state_dir == "/home/ada/.local/state/tollway"
    assert config.timeouts.first_token_s == 20
    assert config.keys == ()


def test_the_readme_example_loads() -> None:
    """The example that the README shows is a good configuration."""
    config = load(EXAMPLE, ENVIRON | {"TOLLWAY_DEMO_KEY": "tw-abc"}, configuration())
    assert config.routes["auto"].models == ("smollm2", "gpt-mini")


NO_HOST = "should be a name or an address without scheme and port, such as gateway.example.com"
NO_ORIGIN = "should be one origin, such as https://app.example.com, without a path; '*' stands for none"


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (
            "  smol: {provider: local, price: free, licens: mit}",
            "5: models.smol: unknown key 'licens'; did you mean 'licence'?",
        ),
        ("serer: {port: 1}", "5: unknown key 'serer'; did you mean 'server'?"),
        *(
            (
                f"server: {{hosts: ['{host}']}}",
                f"5: server.hosts[0]: {NO_HOST}",
            )
            for host in ("*", "a:80", "http://a", "a/b", "*.a", "", "[a]", "a b", "u@a")
        ),
        *(
            (
                f"server: {{cors_origins: ['{origin}']}}",
                f"5: server.cors_origins[0]: {NO_ORIGIN}",
            )
            for origin in ("*", "null", "a", "a:80", "http://a/b", "https://*.a", "", "http://u@a", "http://")
        ),
        ("server: {pages: {docs: maybe}}", "5: server.pages.docs: unknown docs 'maybe'; known: key, off, open"),
        (
            "server: {max_body_memory_mb: 19}",
            "5: server: max_body_memory_mb is 19: a body of max_body_mb (20) would never fit",
        ),
        (
            "server: {max_body_mb: 5, max_body_memory_per_key_mb: 4.5}",
            "5: server: max_body_memory_per_key_mb is 4.5: a body of max_body_mb (5) would never fit",
        ),
        (
            "routes:\n  auto: {models: [phi], limits: {ttft_ms: {p95: 1, p98: 1}}}",
            "6: routes.auto.limits.ttft_ms: unknown key 'p98'; did you mean 'p99'?",
        ),
        (
            "keys:\n  - {name: a, secret: env:DEMO_KEY}\n  - name: b\n    secret: env:OPENAI_API_KEY\n    rout: [phi]",
            "9: keys[1]: unknown key 'rout'; did you mean 'routes'?",
        ),
        (
            "  smol: {provider: locl, price: free}",
            "5: models.smol.provider: unknown provider 'locl'; did you mean 'local'?",
        ),
        ("  smol: {price: free}", "5: models.smol: key 'provider' is missing"),
        (
            "  smol: {provider: local, price: free, capabilities: [chat, tool]}",
            "5: models.smol.capabilities[1]: unknown capability 'tool'; did you mean 'tools'?",
        ),
        (
            "  smol:\n    provider: local\n    price: free\n    licence: apache2",
            "8: models.smol.licence: unknown licence 'apache2'; did you mean 'apache-2.0'? (or write its class)",
        ),
        (
            "  smol: {provider: local, hardware: {name: cpu, usd_per_hour: 1}, price: free}",
            "5: models.smol: hardware and price contradict each other: a call costs its time or its tokens; keep one",
        ),
        (
            "  smol: {provider: local, hardware: {name: cpu, usd_per_hour: -1}}",
            "5: models.smol.hardware.usd_per_hour: should be greater than or equal to 0",
        ),
        (
            "  smol: {provider: local, price: {input: 0.0000000001, output: 1}}",
            "5: models.smol.price.input: should have no more than 9 decimal places",
        ),
        (
            "  smol: {provider: local, price: {input: .nan, output: 1}}",
            "5: models.smol.price.input: should be a finite number",
        ),
        (
            "  smol: {provider: local, price: {input: 1}}",
            "5: models.smol.price: give both input and output (0 if it costs nothing), or write price: free",
        ),
        (
            "  smol: {provider: local, price: cheap}",
            (
                "5: models.smol.price: should be 'free', or a mapping such as "
                "{input: 0.10, output: 0.40} in USD per 1M tokens"
            ),
        ),
        (
            "  smol: {provider: local, price: free, context: yes}",
            "5: models.smol.context: should be a number, not a yes or no",
        ),
        (
            "  smol: {provider: local, price: free, context: 10, max_output_tokens: 11}",
            "5: models.smol: max_output_tokens is larger than context, which counts input and output together",
        ),
        (
            "  smol: {provider: local, price: free, upstream: 4}",
            "5: models.smol.upstream: should be text; put it in quotes if it looks like a number or a yes",
        ),
        (
            "  local/*: {provider: local, price: free, context: 10}",
            "5: models.local/*.context: says something of one model, but this name stands for many",
        ),
        (
            "  loc*: {provider: local, price: free}",
            "5: models.loc*: a '*' can stand only at the end, behind a slash: openai/*",
        ),
        (
            "  'a b': {provider: local, price: free}",
            "5: models.a b: a name starts with a letter or digit and holds only letters, digits and . _ : / @ -",
        ),
        ("routes:\n  auto: {models: [ph]}", "6: routes.auto.models[0]: unknown model 'ph'; did you mean 'phi'?"),
        ("routes:\n  auto: {models: [phi, phi]}", "6: routes.auto.models: names phi twice"),
        ("routes:\n  auto: {models: []}", "6: routes.auto.models: should not be empty"),
        (
            "routes:\n  phi: {models: [phi]}",
            "6: routes.phi: a model has the name 'phi' too; a caller could not tell them apart",
        ),
        (
            "routes:\n  auto: {models: [phi], objective: quality}",
            (
                "6: routes.auto.objective: objective 'quality' is not there yet; use "
                "'cost' or 'latency' or 'balanced' or 'goodput'"
            ),
        ),
        (
            "routes:\n  auto: {models: [phi], objective: {balanced: {usd_per_secnd: 1}}}",
            "6: routes.auto.objective.balanced: unknown key 'usd_per_secnd'; did you mean 'usd_per_second'?",
        ),
        (
            "routes:\n  auto: {models: [phi], objective: cots}",
            "6: routes.auto.objective: unknown objective 'cots'; did you mean 'cost'?",
        ),
        (
            "routes:\n  auto: {models: [phi], when_none_fits: rejct}",
            "6: routes.auto.when_none_fits: unknown when_none_fits 'rejct'; did you mean 'reject'?",
        ),
        (
            "routes:\n  auto:\n    models: [phi]\n    limits:\n      tpot_ms: {p95: -250}",
            "9: routes.auto.limits.tpot_ms.p95: should be greater than 0",
        ),
        (
            "routes:\n  auto: {models: [phi], limits: {ttft_ms: {p50: 1, p95: 2}}}",
            "6: routes.auto.limits.ttft_ms: give exactly one of p50, p90, p95, p99, such as {p95: 1500}",
        ),
        (
            "routes:\n  auto: {models: [phi], limits: {usd_per_request: 0}}",
            "6: routes.auto.limits.usd_per_request: should be greater than 0",
        ),
        ("timeouts: {total_s: 10}", "5: timeouts: first_token_s is longer than total_s, so it could never be reached"),
        ("timeouts: {idle_s: 0}", "5: timeouts.idle_s: should be greater than 0"),
        ("server: {port: 70000}", "5: server.port: should be less than or equal to 65535"),
        ("server: 8080", "5: server: should be a mapping (key: value)"),
        ("keys: {name: a}", "5: keys: should be a list"),
        (
            "keys: [{name: anonymous, secret: env:DEMO_KEY}]",
            "5: keys[0].name: 'anonymous' is the name of callers when there are no keys; choose another",
        ),
        (
            "keys:\n - {name: a, secret: env:DEMO_KEY}\n - {name: a, secret: env:OPENAI_API_KEY}",
            "7: keys[1].name: keys[0] has the name 'a' too",
        ),
        (
            "keys:\n - {name: a, secret: env:DEMO_KEY}\n - {name: b, secret: env:DEMO_KEY}",
            "7: keys[1].secret: keys[0] has the same secret; who would its caller be?",
        ),
        (
            "keys:\n - {name: a, secret: env:DEMO_KEY, routes: [ph]}",
            "6: keys[0].routes[0]: unknown route or model 'ph'; did you mean 'phi'?",
        ),
        (
            "keys:\n - {name: a, secret: env:DEMO_KEY, requests_per_minute: 0}",
            "6: keys[0].requests_per_minute: should be greater than or equal to 1",
        ),
    ],
)
def test_mistake_is_reported_with_its_line(tmp_path: Path, added: str, problem: str) -> None:
    """One sentence for one mistake: the file, the line, the place, and what to write."""
    assert problems(tmp_path, GOOD + added + "\n") == [f"tollway.yaml:{problem}"]


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        ("{type: opnai}", "2: providers.p.type: unknown provider type 'opnai'; did you mean 'openai'?"),
        (
            "{type: zzz}",
            "2: providers.p.type: unknown provider type 'zzz'; known: anthropic, openai, openai-compatible, ray-serve",
        ),
        (
            "{type: openai, base_url: 'ftp://h'}",
            "2: providers.p.base_url: should be an address such as http://127.0.0.1:8000 or https://example.com/v1",
        ),
        (
            "{type: openai, base_url: 'http://u:pw@h/v1'}",
            ("2: providers.p.base_url: should hold no user, password, query or fragment; a credential goes in api_key"),
        ),
        (
            "{type: openai, api_key: sk-live-secret}",
            (
                "2: providers.p.api_key: a secret must not be written in this file; put "
                "it in the environment and write env:NAME, or in a file and write file:PATH"
            ),
        ),
        (
            "{type: openai, api_key: env:MISSING_KEY}",
            "2: providers.p.api_key: the environment variable MISSING_KEY is not set, or is empty",
        ),
        (
            "{type: openai, api_key: env:EMPTY}",
            "2: providers.p.api_key: the environment variable that this names is not set, or is empty",
        ),
        (
            "{type: openai, api_key: env:sk-live-secret}",
            "2: providers.p.api_key: env: wants the name of an environment variable, such as env:OPENAI_API_KEY",
        ),
        (
            "{type: openai, api_key: file:missing}",
            "2: providers.p.api_key: the file that this names cannot be read: No such file or directory",
        ),
        (
            "{type: openai, headers: {host: x}}",
            "2: providers.p.headers: the gateway itself writes the header 'host'; a credential goes in api_key",
        ),
        (
            "{type: openai, headers: {x-team-token: sk-live-secret}}",
            "2: providers.p.headers: the value of 'x-team-token' looks like a secret; write env:NAME or file:PATH",
        ),
        (
            '{type: openai, headers: {x-team: "a\\nb"}}',
            "2: providers.p.headers.x-team: should be plain text, in quotes if it looks like a number",
        ),
    ],
)
def test_wrong_provider_is_reported_without_its_secret(tmp_path: Path, provider: str, problem: str) -> None:
    """What may be a credential is never repeated, wherever it was written."""
    text = f"providers:\n  p: {provider}\nmodels:\n  m: {{provider: p}}\n"
    assert problems(tmp_path, text) == [f"tollway.yaml:{problem}"]


def test_mistakes_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    """A broken section hides neither the next one nor a name that leads nowhere."""
    text = """\
server: {prot: 1}
providers:
  p: {type: opnai}
models:
  m: {provider: q, context: -1}
routes:
  auto: {models: [n]}
keys:
  - {name: a, secret: tw-literal, routes: [b]}
"""
    assert [line.split(": ", 2)[:2] for line in problems(tmp_path, text)] == [
        ["tollway.yaml:1", "server"],
        ["tollway.yaml:3", "providers.p.type"],
        ["tollway.yaml:5", "models.m.context"],
        ["tollway.yaml:5", "models.m.provider"],
        ["tollway.yaml:7", "routes.auto.models[0]"],
        ["tollway.yaml:9", "keys[0].secret"],
        ["tollway.yaml:9", "keys[0].routes[0]"],
    ]


def test_an_empty_file_says_what_is_missing(tmp_path: Path) -> None:
    """A file of nothing is not a crash."""
    assert problems(tmp_path, "# nothing\n") == [
        "tollway.yaml:1: key 'providers' is missing",
        "tollway.yaml:1: key 'models' is missing",
    ]


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    """No file, a directory and bytes that are no text each get a sentence."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    missing = tmp_path / "none.yaml"
    for path, said in ((missing, "cannot be read"), (tmp_path, "cannot be read"), (binary, ":2: not UTF-8")):
        with pytest.raises(ConfigError, match=said):
            load(path, {}, configuration())


@pytest.mark.parametrize(
    ("written", "environ", "expected"),
    [
        ("", {"HOME": "/h"}, "/h/.local/state/tollway"),
        ("", {"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/tollway"),
        ("", {"HOME": "/h", "XDG_STATE_HOME": "relative"}, "/h/.local/state/tollway"),
        ("state_dir: ~/t", {"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/h/t"),
        ("state_dir: /var/lib/tollway", {"HOME": "/h"}, "/var/lib/tollway"),
    ],
)
def test_the_state_directory_follows_xdg(tmp_path: Path, written: str, environ: dict[str, str], expected: str) -> None:
    """The file's own goes first, then XDG_STATE_HOME when absolute, then ~/.local/state."""
    path = tmp_path / "tollway.yaml"
    path.write_text(GOOD + written)
    assert load(path, environ, configuration()).state_dir == expected


def test_the_workers_section_is_not_looked_into(tmp_path: Path) -> None:
    """Its keys belong to the workers."""
    config = read(tmp_path, GOOD + "workers: {smol: {source: bundled:x, anything: [1, 2.5]}}")
    assert config.workers == {"smol": {"source": "bundled:x", "anything": [1, 2.5]}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("llama3.1", "restricted"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("agpl-3.0", "copyleft"),
        ("cc-by-nd-4.0", "no-derivatives"),
        ("proprietary", "proprietary"),
        ("Gemma", "restricted"),
    ],
)
def test_licences_become_classes(tmp_path: Path, written: str, expected: str) -> None:
    """A licence's own name in any case, or a class."""
    config = read(tmp_path, GOOD + f"  m: {{provider: local, price: free, licence: {written}}}")
    assert config.models["m"].licence == expected


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    """Host and port given to `serve` replace the file's, one by one."""
    config = read(tmp_path, GOOD + "server: {port: 9000}").with_server(host="::1", port=None)
    assert (config.server.host, config.server.port) == ("::1", 9000)


@given(st.text(max_size=300))
def test_no_text_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever the file holds, the answer is a configuration or a list of problems."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(ConfigError):
        load(path, {"HOME": "/h"}, configuration())


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    section=st.sampled_from(["server", "providers", "models", "routes", "timeouts", "state_dir", "keys"]), junk=_JUNK
)
def test_any_value_in_any_section_is_accepted_or_reported(
    tmp_path_factory: pytest.TempPathFactory, section: str, junk: object
) -> None:
    """A section of the wrong shape is a problem, never a crash; JSON is YAML."""
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    good = {"providers": {"p": {"type": "openai"}}, "models": {"m": {"provider": "p"}}}
    path.write_text(json.dumps(good | {section: junk}))
    try:
        load(path, {"HOME": "/h"}, configuration())
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either outcome is right; a problem must say something
