"""The directory: announced replicas are listed, silent ones are dropped, and a long poll returns at a change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from workers.cluster.directory import Directory, DirectoryApp, ServedModel

MODELS = {"m": ServedModel(("m", "pirate"), 0.5), "z": ServedModel(("z",), 0.0)}


class Clock:
    """Seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_an_entry_that_is_not_renewed_for_three_seconds_goes() -> None:
    clock = Clock()
    directory = Directory(MODELS, clock)
    directory.announce("m", "a", "http://1")
    directory.announce("m", "b", "http://2")
    first = directory.version
    clock.now_s = 2.0
    directory.announce("m", "a", "http://1")
    assert directory.version == first
    clock.now_s = 3.5
    directory.expire()
    assert directory.version > first
    assert directory.view()["models"] == {
        "m": {"replicas": [{"id": "a", "url": "http://1"}], "serves": ("m", "pirate"), "usd_per_hour": 0.5},
        "z": {"replicas": [], "serves": ("z",), "usd_per_hour": 0.0},
    }
    directory.withdraw("m", "a")
    assert "http" not in str(directory.view())


def test_directory_listens_for_a_while_from_its_first_call() -> None:
    clock = Clock()
    directory = Directory(MODELS, clock)
    clock.now_s = 100.0
    directory.announce("m", "a", "http://1")
    clock.now_s = 101.0
    assert directory.listens_on_s() == 0.5
    clock.now_s = 102.0
    assert directory.listens_on_s() == 0.0


def test_a_model_that_is_not_configured_is_not_listed() -> None:
    directory = Directory(MODELS)
    version = directory.version
    directory.announce("other", "a", "http://1")
    directory.withdraw("other", "a")
    assert directory.version == version
    assert "other" not in str(directory.view())


def test_a_directory_that_starts_again_has_another_version() -> None:
    before = Directory(MODELS)
    before.announce("m", "a", "http://1")
    assert Directory(MODELS).version != before.version


@asynccontextmanager
async def served(token: str | None = None) -> AsyncIterator[tuple[DirectoryApp, list[str], httpx2.AsyncClient]]:
    """Serve it under a prefix, as Serve's proxy does."""
    woken: list[str] = []
    app = DirectoryApp(Directory(MODELS), woken.append, token)
    transport = httpx2.ASGITransport(app=app, root_path="/tollway")
    async with httpx2.AsyncClient(transport=transport, base_url="http://d") as client:
        yield app, woken, client


@pytest.mark.slow
async def test_long_poll_returns_at_once_on_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would not look by itself, and answers in any case after ten seconds.
    monkeypatch.setattr("workers.cluster.directory._EXPIRY_STEP_S", 600.0)
    async with served() as (app, _, client):
        first = (await client.get("/tollway/replicas")).json()
        waiting = asyncio.create_task(client.get("/tollway/replicas", params={"after": first["version"]}))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        app.directory.announce("m", "a", "http://1")
        async with asyncio.timeout(9):
            second = (await waiting).json()
        assert second["version"] != first["version"]
        assert second["models"]["m"]["replicas"] == [{"id": "a", "url": "http://1"}]


@pytest.mark.slow
async def test_a_directory_that_has_just_started_listens_before_it_answers() -> None:
    async with served() as (app, _, client):
        answer = asyncio.create_task(client.get("/tollway/replicas"))
        done, _ = await asyncio.wait({answer}, timeout=0.5)
        assert not done
        app.directory.announce("m", "a", "http://1")
        assert (await answer).json()["models"]["m"]["replicas"]


async def test_wanted_model_is_woken() -> None:
    """Also one with a replica in the list: it may be draining for minutes, or have been killed a second ago."""
    async with served() as (app, woken, client):
        app.directory.announce("m", "a", "http://1")
        hint = {"gateway": "g", "waiting": {"m": 1, "z": 2, "other": 3}}
        assert (await client.post("/tollway/demand", json=hint)).status_code == 204
        assert woken == ["m", "z"]
        await client.post("/tollway/demand", json={"gateway": "g", "waiting": {"z": 0}})
        assert woken == ["m", "z"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"gateway": 1}',
        b'{"gateway": "g", "waiting": {"z": "x"}}',
        b"x" * 70_000,
        b'{"x": ' + b"[" * 60_000,
    ],
)
async def test_malformed_hint_is_refused(body: bytes) -> None:
    async with served() as (_, woken, client):
        assert (await client.post("/tollway/demand", content=body)).status_code == 400
        assert woken == []


async def test_directory_with_a_token_asks_for_it() -> None:
    async with served("s3cret") as (_, woken, client):
        assert (await client.get("/tollway/replicas")).status_code == 401
        hint = {"gateway": "g", "waiting": {"z": 1}}
        assert (await client.post("/tollway/demand", json=hint)).status_code == 401
        bearer = {"authorization": "Bearer s3cret"}
        assert (await client.post("/tollway/demand", json=hint, headers=bearer)).status_code == 204
        assert woken == ["z"]
