"""A provider whose host name cannot be looked up delays no other; whole gateways and real sockets."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.configs import compatible
from tests.ground.gateway import RunningGateway, running_gateway, write_config
from tests.ground.processes import gateway_process
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

PRICE = {"input": 1.0, "output": 2.0}
MANY = 40
"""More than any pool of threads that is shared."""


def models(url: str, *hosts: str) -> dict[str, Any]:
    """Describe a model for each host, all at the upstream's port, named by the first label of the host."""
    origins = {host.partition(".")[0]: url.replace("127.0.0.1", host) for host in hosts}
    return {
        "providers": {name: compatible(origin) for name, origin in origins.items()},
        "models": {name: {"provider": name, "price": PRICE} for name in origins},
        "timeouts": {"connect_s": 30, "first_token_s": 40},
    }


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have the system find this machine under every name that ends in ``.test``, but silent ones until it is set."""
    system, ends = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("flags") or not str(host).endswith(".test"):
            return system(host, port, *arguments, **options)
        if host.startswith("silent"):
            ends.wait()
        return system("127.0.0.1", port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield ends
    ends.set()


async def ask(client: aiohttp.ClientSession, running: RunningGateway, model: str) -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("hosts", [1, MANY])
async def test_silent_resolver_of_one_provider_costs_no_other(
    hosts: int, resolver: threading.Event, tmp_path: Path
) -> None:
    """Forty requests hang, to one host or to forty; a healthy one by name, on a fresh connection, is answered."""
    async with ScriptedUpstream() as upstream:
        silent = [f"silent{number}.test" for number in range(hosts)]
        async with (
            running_gateway(models(upstream.url, "healthy.test", *silent), tmp_path) as running,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        ):
            names = [silent[number % hosts].partition(".")[0] for number in range(MANY)]
            hanging = [asyncio.create_task(ask(client, running, name)) for name in names]
            await until(lambda: sum(running.gateway.pool.in_flight().values()) == MANY)
            status, text = await ask(client, running, "healthy")
            assert status == 200, text
            assert running.gateway.pool.breaker_states()["healthy"] == "closed"
            assert not any(task.done() for task in hanging)
            resolver.set()
            assert [(await task)[0] for task in hanging] == [200] * MANY


async def test_reload_takes_another_host_while_the_first_hangs(resolver: threading.Event, tmp_path: Path) -> None:
    """What is configured anew has a look-up of its own."""
    async with ScriptedUpstream() as upstream:
        config = models(upstream.url, "silent.test")
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            hanging = asyncio.create_task(ask(client, running, "silent"))
            await until(lambda: running.gateway.pool.in_flight() == {"silent": 1})
            config["providers"]["silent"] = compatible(upstream.url.replace("127.0.0.1", "healthy.test"))
            write_config(tmp_path, config)
            assert await running.gateway.reload()
            assert (await ask(client, running, "silent"))[0] == 200
            resolver.set()
            assert (await hanging)[0] == 200


@pytest.mark.parametrize("host", ["xn--0.test.", "nowhere.invalid"])
async def test_name_that_cannot_be_looked_up_is_its_targets_trouble(host: str, tmp_path: Path) -> None:
    """It is a 503 with the cause in the record, and no fault of ours."""
    async with ScriptedUpstream() as upstream:
        config = models(upstream.url, "model")
        config["providers"]["model"] = compatible(upstream.url.replace("127.0.0.1", host))
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            status, text = await ask(client, running, "model")
            assert (status, "upstream_connect" in text) == (503, True), text
            (total,) = await running.totals()
            assert total.target_id == "model"


@pytest.mark.slow
async def test_gateway_ends_at_once_while_look_ups_hang(tmp_path: Path) -> None:
    """Neither the loop nor the interpreter waits for them; callers are told."""
    async with ScriptedUpstream() as upstream:
        config = {**models(upstream.url, "a-silent.test", "b-silent.test"), "server": {"drain_s": 0.1}}
        async with gateway_process(write_config(tmp_path, config), module="tests.ground.silent_names") as gateway:
            body = {"messages": [{"role": "user", "content": "hi"}]}
            async with aiohttp.ClientSession() as client:
                address = f"{gateway.url}/v1/chat/completions"
                names = ("a-silent", "b-silent")
                asking = [asyncio.create_task(client.post(address, json={**body, "model": name})) for name in names]

                async def both_hang() -> bool:
                    return await _in_flight(client, gateway.url) == 2

                await until(both_hang)
                gateway.signal(signal.SIGTERM)
                statuses = [(await each).status for each in asking]
                assert await gateway.ended() == 0, "a look-up of such a name never ends"
    assert statuses == [503, 503]


async def _in_flight(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(f"{url}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("tollway_in_flight_requests{"))
