"""What a gateway shows and to whom: to this machine's programs, to listed web pages, to holders of a key."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ground.builders import chat_body
from tests.ground.callers import RawCaller, Received, request
from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.upstream import ScriptedUpstream

KEYS = [{"name": "app", "secret": "env:KEY"}]
KEY = {"authorization": "Bearer sk-right"}
PAGE = "https://app.example"
PATHS = (
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/requests/req_1",
    "/v1/traces/1",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/nothing",
)


class Front:
    """A running gateway, and requests to it that each have a connection."""

    def __init__(self, port: int, upstream: ScriptedUpstream) -> None:
        self.port = port
        self.upstream = upstream

    async def ask(self, sent: bytes) -> Received:
        async with RawCaller.connected(self.port) as caller:
            return await caller.ask(sent, is_head=sent.startswith(b"HEAD "))


@asynccontextmanager
async def front(path: Path, *, keys: bool, **server: Any) -> AsyncIterator[Front]:
    async with ScriptedUpstream() as upstream:
        config = {**one_model(upstream.url), "server": server, **({"keys": KEYS} if keys else {})}
        async with running_gateway(config, path, environ={"KEY": "sk-right"}) as running:
            yield Front(running.port, upstream)


@pytest.mark.parametrize(
    "told",
    [
        {"host": "rebound.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
    ],
    ids=str,
)
async def test_foreign_page_gets_nothing_from_a_gateway_without_keys(told: Mapping[str, str], tmp_path: Path) -> None:
    """From no address, and no upstream is asked: nothing is spent."""
    async with front(tmp_path, keys=False) as gateway:
        for path in PATHS:
            got = await gateway.ask(request("GET", path, **told))
            assert (got.status, got.error["code"]) == (403, "foreign_request")
        simple = request("POST", PATHS[0], chat_body(), content_type="text/plain", **told)
        got = await gateway.ask(simple)
        assert got.status == 403
        assert "server." in got.error["message"]
        assert gateway.upstream.seen == []


async def test_local_program_and_page_use_a_gateway_without_keys(tmp_path: Path) -> None:
    async with front(tmp_path, keys=False, hosts=["gw.example"]) as gateway:
        for told in ({}, {"host": "gw.example:80"}, {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"}):
            assert (await gateway.ask(request("POST", PATHS[0], chat_body(), **told))).status == 200
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/healthz"):
            assert (await gateway.ask(request("GET", path))).status == 200


@pytest.mark.parametrize("keys", [True, False])
async def test_listed_page_reads_every_answer(keys: bool, tmp_path: Path) -> None:
    """Errors included, and the headers in which the gateway says what it did."""
    async with front(tmp_path, keys=keys, cors_origins=[PAGE]) as gateway:
        sent = {"origin": PAGE, "sec_fetch_site": "cross-site", **KEY}
        for asked, status in (
            (request("POST", PATHS[0], chat_body(), **sent), 200),
            (request("POST", PATHS[0], chat_body(stream=True), **sent), 200),
            (request("POST", PATHS[0], b"{", **sent), 400),
            (request("PUT", PATHS[0], b"", **sent), 405),
            (request("POST", PATHS[0], b"x", content_encoding="gzip", **sent), 415),
            (request("GET", "/v1/models", **sent), 200),
            (request("GET", "/nothing", **sent), 404),
        ):
            got = await gateway.ask(asked)
            assert got.status == status
            assert got.headers["access-control-allow-origin"] == PAGE
            assert "origin" in got.headers["vary"]
            assert "x-tollway-cost-usd" in got.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in got.headers


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics"])
async def test_preflight_of_a_listed_page_needs_no_key(path: str, keys: bool, tmp_path: Path) -> None:
    asked = "authorization, content-type, x-api-key, x-stainless-lang, anthropic-version"
    preflight = {"access_control_request_method": "POST", "access_control_request_headers": asked}
    async with front(tmp_path, keys=keys, cors_origins=[PAGE]) as gateway:
        got = await gateway.ask(request("OPTIONS", path, origin=PAGE, sec_fetch_site="cross-site", **preflight))
        assert got.status == 204
        assert got.headers["access-control-allow-origin"] == PAGE
        assert got.headers["access-control-allow-headers"] == asked
        assert "POST" in got.headers["access-control-allow-methods"]
        assert int(got.headers["access-control-max-age"]) > 0
        for other in ("https://evil.example", "http://localhost:3000"):
            got = await gateway.ask(request("OPTIONS", path, origin=other, **preflight))
            assert (got.status, got.error["code"]) == (403, "foreign_request")
            assert "access-control-allow-origin" not in got.headers


async def test_page_that_is_not_listed_reads_nothing(tmp_path: Path) -> None:
    """With keys its request is served, for it had one; but no browser shows the page the answer."""
    async with front(tmp_path, keys=True) as gateway:
        got = await gateway.ask(request("POST", PATHS[0], chat_body(), origin=PAGE, **KEY))
        assert got.status == 200
        assert not any(name.startswith("access-control") for name in got.headers)


PAGES = {"metrics": "/metrics", "docs": "/docs", "openapi": "/openapi.json"}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("access", "statuses"),
    [(None, (200, 401, 200)), ("open", (200, 200, 200)), ("key", (401, 401, 200)), ("off", (404, 404, 404))],
)
async def test_page_is_shown_as_configured(
    page: str, access: str | None, statuses: tuple[int, int, int], tmp_path: Path
) -> None:
    """Without a setting, on a loopback address: to this machine's programs, and to others with a key."""
    without_key, by_another_name, with_key = statuses
    pages = {} if access is None else {"pages": {page: access}}
    async with front(tmp_path, keys=True, **pages) as gateway:
        path = PAGES[page]
        for method in ("GET", "HEAD"):
            assert (await gateway.ask(request(method, path))).status == without_key
            assert (await gateway.ask(request(method, path, host="gw.example"))).status == by_another_name
            assert (await gateway.ask(request(method, path, origin=PAGE))).status == by_another_name
            assert (await gateway.ask(request(method, path, host="gw.example", **KEY))).status == with_key


async def test_page_beyond_loopback_asks_for_a_key(tmp_path: Path) -> None:
    async with front(tmp_path, keys=True, host="0.0.0.0") as gateway:
        for path in PAGES.values():
            assert (await gateway.ask(request("GET", path))).status == 401
            assert (await gateway.ask(request("GET", path, **KEY))).status == 200
        assert (await gateway.ask(request("GET", "/healthz", host="10.0.0.1"))).status == 200


async def test_pages_tell_browsers_to_run_and_keep_nothing(tmp_path: Path) -> None:
    async with front(tmp_path, keys=False) as gateway:
        for path in PATHS[2:]:
            got = await gateway.ask(request("GET", path))
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["referrer-policy"] == "no-referrer"
            assert got.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in got.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in got.headers["content-security-policy"]


async def test_docs_page_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    """No script, and no address but the gateway's own; every operation is on the page."""
    async with front(tmp_path, keys=False) as gateway:
        got = await gateway.ask(request("GET", "/docs"))
        assert got.headers["content-type"] == "text/html; charset=utf-8"
        page = got.body.decode()
        assert re.findall(r'(?:src|href|action|url|@import)\s*[=(]\s*"?([^")\s>]+)', page) == ["/openapi.json"]
        assert "<script" not in page
        assert "//" not in page.replace("http://localhost", "")
        for path in ("/v1/chat/completions", "/v1/audio/transcriptions", "/v1/requests/{call_id}", "/metrics"):
            assert path in page
        for gone in ("/redoc", "/docs/oauth2-redirect", "/metrics/"):
            assert (await gateway.ask(request("GET", gone))).status == 404
