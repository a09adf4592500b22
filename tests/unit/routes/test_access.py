"""Who may use a gateway without keys: by the host of a request and by the web page that makes it."""

import pytest

from gateway.config.snapshot import Server
from gateway.routes.access import foreign

SERVER = Server(
    host="127.0.0.1",
    port=0,
    max_body_bytes=1,
    body_timeout_s=1,
    drain_s=1,
    hosts=frozenset({"gw.example", "[fd00::1]"}),
    cors_origins=frozenset({"https://app.example", "tauri://localhost"}),
)
OURS = (
    "localhost LOCALHOST localhost. localhost:8080 a.localhost A.LocalHost.:1 127.0.0.1 127.0.0.1:8080 127.1.2.3 "
    "[::1] [::1]:8080 [0:0:0:0:0:0:0:1] gw.example GW.Example:443 gw.example. [fd00::1]:1"
)
FOREIGN = (
    "evil.example localhost.evil.example evil-localhost notlocalhost 127.0.0.1.evil.example 127.0.0.1.nip.io "
    "2130706433 0x7f000001 0177.0.0.1 127.1 127.0.0.01 0.0.0.0 [::] [::2] [::1%25lo] [::1%lo] [::ffff:10.0.0.1] "
    "10.0.0.1 169.254.169.254 localhost.. .localhost.evil localhost@evil.example evil.example:localhost "
    "sub.gw.example gw.example.evil evil.gw.example localhost:8080:8080 localhost:x localhost,evil localhost/evil "
    "%6cocalhost localhost%00 127.0.0.1%00.evil [127.0.0.1] [localhost] ::1"
)
LOCAL = {"host": "localhost:8080"}
TRUSTED_ORIGINS = (
    "http://localhost http://localhost:3000 https://127.0.0.1:1 http://[::1]:5173 http://a.localhost HTTP://LOCALHOST "
    "https://app.example HTTPS://App.Example tauri://localhost"
)
FOREIGN_ORIGINS = (
    "null https://evil.example http://app.example https://app.example:444 https://app.example.evil "
    "https://evil.example/https://app.example http://localhost.evil.example http://localhost@evil.example "
    "http://evil.example#localhost file:// chrome-extension://localhost ftp://localhost http:// http "
    "http://0.0.0.0 http://2130706433 http://gw.example"
)


@pytest.mark.parametrize("host", OURS.split())
def test_host_of_this_machine_is_ours(host: str) -> None:
    assert foreign({"host": host}, b"/v1/models", SERVER) is None


@pytest.mark.parametrize("host", ["", *FOREIGN.split()])
def test_any_other_host_is_foreign(host: str) -> None:
    """Also by a name that looks like a loopback one, or an address in a form that only some programs read."""
    assert "server.hosts" in (foreign({"host": host}, b"/v1/models", SERVER) or "")
    assert foreign({}, b"/v1/models", SERVER) is not None


@pytest.mark.parametrize("origin", TRUSTED_ORIGINS.split())
def test_page_of_this_machine_or_a_listed_one_is_trusted(origin: str) -> None:
    for site in ({}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-origin"}):
        assert foreign({**LOCAL, "origin": origin, **site}, b"/", SERVER) is None


@pytest.mark.parametrize("origin", ["", *FOREIGN_ORIGINS.split()])
def test_any_other_page_is_foreign(origin: str) -> None:
    for site in ({}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        sentence = foreign({**LOCAL, "origin": origin, **site}, b"/", SERVER)
        assert "server.cors_origins" in (sentence or "")


@pytest.mark.parametrize(
    ("site", "trusted"), [("cross-site", False), ("Cross-Site", False), ("same-site", True), ("none", True)]
)
def test_request_across_sites_without_an_origin_is_foreign(site: str, trusted: bool) -> None:
    """An image or a link; what the operator types into the browser is none."""
    assert (foreign({**LOCAL, "sec-fetch-site": site}, b"/", SERVER) is None) is trusted


def test_page_served_by_the_gateway_itself_is_trusted() -> None:
    """Under a listed name, on the very host that the request is for."""
    assert foreign({"host": "gw.example:8080", "origin": "http://gw.example:8080"}, b"/", SERVER) is None
    assert foreign({"host": "gw.example:8080", "origin": "http://gw.example:9090"}, b"/", SERVER) is not None
    assert foreign({"host": "evil.example", "origin": "http://evil.example"}, b"/", SERVER) is not None


@pytest.mark.parametrize(
    ("target", "ours"),
    [
        (b"http://localhost:8080/v1/models", True),
        (b"HTTP://127.0.0.1/", True),
        (b"http://evil.example/v1/models", False),
        (b"http://localhost@evil.example/", False),
        (b"http://evil.example#@localhost/", False),
        (b"http:///v1/models", False),
        (b"ftp://localhost/", False),
        (b"*", True),
    ],
)
def test_absolute_target_names_a_host_of_ours_too(target: bytes, ours: bool) -> None:
    assert (foreign(LOCAL, target, SERVER) is None) is ours
