"""What callers without a key can make the gateway write: next to nothing, however fast they are refused."""

import asyncio
from pathlib import Path

import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway

CONNECTIONS = 4
PIECES = 25
"""Each connection sends so many pieces of requests."""
PER_PIECE = 50
MAX_GROWTH_BYTES = 1_000_000
"""In a minute; the flood takes less than one."""

CHAT = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
FLOODS = {
    "no key": (b"", CHAT, 401),
    "an unknown key": (b"Authorization: Bearer tw-nobody\r\n", CHAT, 401),
    "a known key and no JSON": (b"Authorization: Bearer k-one\r\n", b"{", 400),
    "a known key and no such model": (b"Authorization: Bearer k-one\r\n", CHAT.replace(b"auto", b"none"), 404),
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "without keys"])
async def test_flood_of_refused_calls_leaves_less_than_a_megabyte(flood: str, tmp_path: Path, *, keys: bool) -> None:
    """Five thousand of them: each is answered and counted in the metrics, and the disk hardly notices."""
    head, body, status = FLOODS[flood]
    if not keys and status == 401:
        body, status = b"[]", 400
    config = one_model("http://127.0.0.1:9")
    if keys:
        config["keys"] = [{"name": "one", "secret": "env:KEY"}]
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s"
    request %= head, len(body), body
    async with running_gateway(config, tmp_path, environ={"KEY": "k-one"}) as running:
        await running.gateway.ledger.flush()
        before = used_bytes(tmp_path / "state")
        await asyncio.gather(*(send(running, request, status) for _ in range(CONNECTIONS)))
        await running.gateway.ledger.flush()
        assert used_bytes(tmp_path / "state") - before < MAX_GROWTH_BYTES
        metrics = running.gateway.metrics.reading()().decode()
    line = next(line for line in metrics.splitlines() if line.startswith("tollway_requests_total"))
    assert f'status="{status}"' in line
    assert float(line.split()[-1]) == CONNECTIONS * PIECES * PER_PIECE


async def send(running: RunningGateway, request: bytes, status: int) -> None:
    """Send the pieces, each when the one before is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    for _ in range(PIECES):
        writer.write(request * PER_PIECE)
        for _ in range(PER_PIECE):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 %d" % status)
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()


def used_bytes(directory: Path) -> int:
    """Return what the files of a directory take of the disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
