"""The ``tollway`` command as an operator uses it."""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
import tomllib
from pathlib import Path

import aiohttp
import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.ground.processes import Program, gateway_process
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
# Ends a hang; less than the 200 s that the longest answer here would take.
PATIENCE_S = 120.0
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


async def _tollway(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command to its end; return the exit code and what it wrote to stdout and stderr."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "gateway", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_check_says_what_is_in_a_good_file(tmp_path: Path) -> None:
    """Exit code 0 and a count."""
    code, out, _ = await _tollway("check", "--config", write_config(tmp_path, one_model("http://127.0.0.1:1")))
    assert code == 0
    assert "1 models, 1 routes, 0 keys" in out


async def test_check_names_file_line_and_nearest_spelling(tmp_path: Path) -> None:
    """Exit code 1, and a line for each fault."""
    config = one_model("http://127.0.0.1:1")
    config["models"]["scripted"]["licens"] = "mit"
    code, _, err = await _tollway("check", "--config", write_config(tmp_path, config))
    assert code == 1
    assert "tollway.yaml:" in err
    assert "unknown key 'licens'; did you mean 'licence'?" in err


async def test_check_asks_other_packages_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' entry point, as pyproject.toml declares it, finds what the gateway does not look at."""
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["tollway.checks"]
    installed = tmp_path / "checks-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: checks\nVersion: 1\n", encoding="utf-8")
    lines = ["[tollway.checks]", *(f"{name} = {value}" for name, value in declared.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    config = one_model("http://127.0.0.1:1") | {"workers": {"mine": {"source": "/nowhere", "engine": "vllmm"}}}
    code, out, err = await _tollway("check", "--config", write_config(tmp_path, config))
    assert (code, out) == (1, "")
    assert "workers.mine.engine: 'vllmm' is none of vllm, synthetic; did you mean 'vllm'?" in err
    config["workers"]["mine"]["engine"] = "synthetic"
    code, out, _ = await _tollway("check", "--config", write_config(tmp_path, config))
    assert code == 0
    assert "good. 1 models" in out


async def test_a_made_key_works_as_printed(tmp_path: Path) -> None:
    """``tollway key`` prints the secret for the app and the line for the configuration."""
    code, out, _ = await _tollway("key")
    secret, line = (row.split(":", 1)[1].strip() for row in out.splitlines())
    assert code == 0
    assert line == f"secret: sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [{"name": "app", "secret": line.removeprefix("secret: ")}]
        async with gateway_process(write_config(tmp_path, config)) as gateway, aiohttp.ClientSession() as client:
            address = f"{gateway.url}/v1/chat/completions"
            async with client.post(address, json=CHAT, headers={"authorization": f"Bearer {secret}"}) as answer:
                assert answer.status == 200
            async with client.post(address, json=CHAT) as answer:
                assert answer.status == 401


async def test_a_busy_port_is_one_plain_sentence(tmp_path: Path) -> None:
    """Exit code 1; the sentence names the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(tmp_path, one_model("http://127.0.0.1:1"))
        code, out, err = await _tollway("serve", "--config", config, "--port", str(port))
    assert code == 1
    assert out == ""
    assert err.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert len(err.splitlines()) == 1


async def test_a_second_gateway_on_a_state_directory_is_refused(tmp_path: Path) -> None:
    """Exit code 1 and one sentence; the first goes on."""
    async with ScriptedUpstream() as upstream:
        config = write_config(tmp_path, one_model(upstream.url))
        async with gateway_process(config) as gateway, aiohttp.ClientSession() as client:
            code, out, err = await _tollway("serve", "--config", config, "--port", "0")
            assert code == 1
            assert out == ""
            assert str(tmp_path / "state") in err
            assert len(err.splitlines()) == 1
            async with client.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as answer:
                assert answer.status == 200


async def test_address_beyond_loopback_without_keys_is_refused(tmp_path: Path) -> None:
    """Another address than loopback without keys: exit code 1, and why."""
    config = write_config(tmp_path, one_model("http://127.0.0.1:1"))
    code, _, err = await _tollway("serve", "--config", config, "--host", "0.0.0.0", "--port", "0")
    assert code == 1
    assert "keys" in err


async def _status(client: aiohttp.ClientSession, gateway: Program, model: str) -> int:
    async with client.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "model": model}) as answer:
        return answer.status


async def test_sighup_reloads_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """The signal swaps the file in; a bad one keeps what runs, and the log says what is wrong with it."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        file = write_config(tmp_path, config)
        async with gateway_process(file) as gateway, aiohttp.ClientSession() as client:
            assert await _status(client, gateway, "second") == 404
            config["routes"]["second"] = {"models": ["scripted"]}
            write_config(tmp_path, config)
            gateway.signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE_S):
                while await _status(client, gateway, "second") != 200:
                    continue
            write_config(tmp_path, {**config, "routs": {}})
            gateway.signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE_S):
                while "routs" not in gateway.log.read_text():
                    assert await _status(client, gateway, "second") == 200


async def test_stream_under_way_ends_whole_when_the_gateway_is_stopped(tmp_path: Path) -> None:
    """SIGTERM: nobody new is let in, who is being served is served to the end, and the exit code is 0."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 50, 0.02
        config = {**one_model(upstream.url), "server": {"drain_s": 20}}
        async with gateway_process(write_config(tmp_path, config)) as gateway:
            async with aiohttp.ClientSession() as client:
                address = f"{gateway.url}/v1/chat/completions"
                async with client.post(address, json={**CHAT, "stream": True}) as answer:
                    assert await answer.content.readany()
                    gateway.signal(signal.SIGTERM)
                    assert b"[DONE]" in await answer.read()
            assert await gateway.ended() == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_request_beyond_the_drain_ends_in_an_error(stream: bool, tmp_path: Path) -> None:
    """An error in the caller's dialect, and no record that says the caller left."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 10_000, 0.02
        config = {**one_model(upstream.url), "server": {"host": "127.0.0.1", "port": 0, "drain_s": 1}}
        async with gateway_process(write_config(tmp_path, config)) as gateway, aiohttp.ClientSession() as client:
            calling = asyncio.create_task(_answer(client, gateway, stream=stream))
            await upstream.arrived()
            await asyncio.sleep(0.2)
            gateway.signal(signal.SIGTERM)
            status, body = await asyncio.wait_for(calling, PATIENCE_S)
            assert await gateway.ended() == 0
            assert "Traceback" not in gateway.log.read_text()
    assert status == (200 if stream else 503)
    told = json.loads(body.rstrip().splitlines()[-1].removeprefix(b"data: "))
    assert told["error"]["code"] == "shutting_down"
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT status, error_kind FROM calls").fetchall() == [(503, "shutting_down")]
        assert ledger.execute("SELECT outcome FROM attempts").fetchall() == [("cancelled",)]


async def _answer(client: aiohttp.ClientSession, gateway: Program, *, stream: bool) -> tuple[int, bytes]:
    async with client.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "stream": stream}) as answer:
        return answer.status, await answer.read()


async def test_serve_raises_its_limit_on_open_files(tmp_path: Path) -> None:
    """At the usual 1,024 it could carry some 500 streams."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        async with gateway_process(write_config(tmp_path, one_model("http://127.0.0.1:1"))) as gateway:
            assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
