"""What only the network transport has: connections, TLS, and habits of HTTP clients that a gateway must not have."""

import asyncio
import errno
import gc
import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from gateway.errors import ErrorKind, UpstreamError
from gateway.simulation.virtual_time import run_virtual
from gateway.transport import http1_connect
from gateway.transport.http1 import HttpTransport
from gateway.transport.http1_connect import connect_error, default_tls
from gateway.transport.resolver import DOUBTED_AFTER_S, HostAddress, Resolver
from tests.ground.builders import build_upstream_request
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

CERTIFICATE = Path(__file__).with_name("upstream_test.pem")
"""Self-signed for upstream.test, with its key; made for these tests, of use nowhere else."""
SLOW = Answer(chunks=(b"one", b"two"), stall_after=1)


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    """Start a transport with its defaults."""
    transport = HttpTransport()
    await transport.start()
    yield transport
    await transport.stop()


@pytest_asyncio.fixture
async def tls_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start an upstream that speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with ScriptedUpstream(tls=context) as server:
        yield server


@asynccontextmanager
async def raw_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve connections by a function, and wait for those under way at the end."""
    connections: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handler(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.get_running_loop().create_task(connected(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.gather(*connections)


async def fetch(
    transport: HttpTransport, url: str, *, connect_timeout_s: float = SOON_S, body: bytes = b"{}", fresh: bool = False
) -> bytes:
    """Read one answer to its end."""
    received = bytearray()
    request = build_upstream_request(url, body=body)
    async with transport.send(request, connect_timeout_s=connect_timeout_s, fresh=fresh) as answer:
        while data := await answer.read():
            received += data
    return bytes(received)


async def failure(
    transport: HttpTransport, url: str, *, connect_timeout_s: float = SOON_S, fresh: bool = False
) -> UpstreamError:
    """Send a request that must fail."""
    with pytest.raises(UpstreamError) as caught:
        await fetch(transport, url, connect_timeout_s=connect_timeout_s, fresh=fresh)
    return caught.value


async def test_connection_is_reused(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """An answer read to its end gives the connection back, whatever its status."""
    upstream.then(error_answer(500), json_answer({}))
    for _request in range(4):
        await fetch(transport, upstream.url)
    assert upstream.connections_made == 1


async def test_left_connection_is_not_reused(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """An answer left early costs its connection, and no other answer's bytes come from it."""
    upstream.then(SLOW)
    async with transport.send(build_upstream_request(upstream.url), connect_timeout_s=SOON_S) as answer:
        await answer.read()
    await upstream.seen[0].ended.wait()
    await fetch(transport, upstream.url)
    assert upstream.connections_made == 2
    assert upstream.connections_open == 1


async def test_leaving_closes_although_the_upstream_does_not_read(transport: HttpTransport) -> None:
    """Who leaves does not wait until an upstream that reads nothing has taken the rest of a large body."""
    connected, left = asyncio.Event(), asyncio.Event()

    async def read_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.set()
        await left.wait()

    async with raw_server(read_nothing) as url:
        gc.collect()  # what other tests left open must not be closed in the middle of this one
        open_before = len(list(Path("/dev/fd").iterdir()))
        sending = asyncio.ensure_future(fetch(transport, url, body=b"x" * 50_000_000))
        await connected.wait()
        await asyncio.wait([sending], timeout=0.1)  # until every buffer on the way is full
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        for _turn in range(5):
            await asyncio.sleep(0)
        assert len(list(Path("/dev/fd").iterdir())) == open_before + 1  # the server's end alone
        left.set()


async def test_early_answer_to_a_large_body_is_read(transport: HttpTransport) -> None:
    """An upstream may refuse a request before it has read it; the answer counts, not the broken upload."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        with suppress(ConnectionResetError):
            await reader.read()

    async with raw_server(refuse) as url:
        request = build_upstream_request(url, body=b"x" * 5_000_000)
        async with transport.send(request, connect_timeout_s=SOON_S) as answer:
            assert answer.status == 413
            assert await answer.read() == b"no"


async def test_stop_cuts_what_is_under_way(upstream: ScriptedUpstream) -> None:
    """Stopping closes connections in use; who reads from one is told so."""
    transport = HttpTransport()
    await transport.start()
    upstream.then(SLOW)
    async with transport.send(build_upstream_request(upstream.url), connect_timeout_s=SOON_S) as answer:
        await answer.read()
        await transport.stop()
        with pytest.raises(UpstreamError) as caught:
            await answer.read()
    assert caught.value.kind is ErrorKind.UPSTREAM_CUT


async def test_stop_cuts_a_wait_on_a_used_connection(upstream: ScriptedUpstream) -> None:
    """A request that waits for its headers is told so too, and is not taken for one on a stale connection."""
    transport = HttpTransport()
    await transport.start()
    await fetch(transport, upstream.url)
    upstream.then(replace(SLOW, first_byte_delay_s=60.0))
    failing = asyncio.ensure_future(failure(transport, upstream.url))
    await upstream.arrived(2)
    await transport.stop()
    assert (await failing).kind is ErrorKind.UPSTREAM_CUT
    assert upstream.connections_made == 1


async def test_send_before_start_is_a_mistake() -> None:
    """There is no hidden start."""
    with pytest.raises(RuntimeError, match="start"):
        await fetch(HttpTransport(), "http://127.0.0.1:1")


async def test_no_proxy_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport, upstream: ScriptedUpstream
) -> None:
    """A variable of the machine does not send prompts and keys elsewhere."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await fetch(transport, upstream.url)


async def test_cookies_are_not_kept(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """What an upstream sets for one caller is not sent with another's request."""
    upstream.then(replace(json_answer({}), headers=(("set-cookie", "session=1; Path=/"),)))
    await fetch(transport, upstream.url)
    await fetch(transport, upstream.url)
    assert "cookie" not in upstream.seen[1].headers


def test_ssl_cert_file_replaces_what_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    assert not any("upstream.test" in str(each) for each in default_tls().get_ca_certs())
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    (trusted,) = default_tls().get_ca_certs()
    assert "upstream.test" in str(trusted)


async def test_compression_is_not_asked_for(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """It would buffer a stream."""
    await fetch(transport, upstream.url)
    assert upstream.seen[0].headers["accept-encoding"] == "identity"


TEXT = b'{"answer": "' + b"x" * 1000 + b'"}'


def coded(coding: str, body: bytes, status: int = 200) -> Answer:
    chunks = tuple(body[at : at + 7] for at in range(0, len(body), 7))
    return replace(json_answer({}), status=status, headers=(("content-encoding", coding),), chunks=chunks)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("GZip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, wbits=-15)),
        ("identity", TEXT),
    ],
    ids=["gzip", "upper case", "two members", "deflate", "deflate without a frame", "identity"],
)
async def test_answer_that_was_compressed_unasked_is_decoded(
    transport: HttpTransport, upstream: ScriptedUpstream, coding: str, body: bytes
) -> None:
    upstream.then(coded(coding, body))
    assert await fetch(transport, upstream.url) == TEXT


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (coded("br", b"\x1b"), ErrorKind.UPSTREAM_PROTOCOL, "coded as 'br'"),
        (coded("zstd", b"\x28\xb5"), ErrorKind.UPSTREAM_PROTOCOL, "coded as 'zstd'"),
        (coded("gzip, br", b"\x1b"), ErrorKind.UPSTREAM_PROTOCOL, "coded as 'gzip, br'"),
        (coded("gzip", b"not gzip at all"), ErrorKind.UPSTREAM_PROTOCOL, "cannot be decoded"),
        (coded("deflate", b"\xff\xff\xff\xff"), ErrorKind.UPSTREAM_PROTOCOL, "cannot be decoded"),
        (coded("gzip", gzip.compress(TEXT)[:-4]), ErrorKind.UPSTREAM_CUT, "ends within itself"),
    ],
)
async def test_answer_that_cannot_be_decoded_is_an_error(
    transport: HttpTransport, upstream: ScriptedUpstream, answer: Answer, kind: ErrorKind, said: str
) -> None:
    upstream.then(answer)
    with pytest.raises(UpstreamError, match=said) as caught:
        await fetch(transport, upstream.url)
    assert caught.value.kind is kind


async def test_status_of_an_error_survives_a_coding_that_is_not_known(
    transport: HttpTransport, upstream: ScriptedUpstream
) -> None:
    """A 429 in brotli is a 429: only what it says is lost."""
    upstream.then(coded("br", b"\x1b\x00\x00", status=429))
    request = build_upstream_request(f"{upstream.url}/")
    async with transport.send(request, connect_timeout_s=SOON_S) as stream:
        assert (stream.status, await stream.read()) == (429, b"")


async def test_piece_of_a_decompression_bomb_is_bounded(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """100 MB in 100 KB: no more than a piece is decoded before the reader, who has limits, asks for the next."""
    bomb = gzip.compress(b"x" * 100_000_000)
    upstream.then(replace(json_answer({}), headers=(("content-encoding", "gzip"),), chunks=(bomb,)))
    request = build_upstream_request(f"{upstream.url}/")
    async with transport.send(request, connect_timeout_s=SOON_S) as stream:
        pieces = [len(await stream.read()) for _piece in range(20)]
    assert max(pieces) <= 1 << 18


async def test_escaped_path_is_not_rewritten(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """The URL goes out as the adapter wrote it: a provider may sign it."""
    await fetch(transport, f"{upstream.url}/model/a%2Fb%3A0/converse?q=%20+")
    assert upstream.seen[0].path == "/model/a%2Fb%3A0/converse?q=%20+"


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Listen without accepting, with the queue full: the next connection's SYN gets no reply."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _connection in range(2)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for connection in waiting:
            connection.close()


async def test_connect_timeout(transport: HttpTransport, deaf_port: int) -> None:
    """A host that does not reply is given up after the connect timeout."""
    error = await failure(transport, f"http://127.0.0.1:{deaf_port}", connect_timeout_s=0.05)
    assert error.kind is ErrorKind.UPSTREAM_CONNECT
    assert (error.cause, error.message) == ("connect_timeout", "The upstream did not accept a connection in time.")


@pytest.mark.parametrize(
    ("url", "cause", "message"),
    [
        ("http://127.0.0.1:1/v1", "refused", "The upstream could not be reached: connection refused."),
        ("http://a..b/v1", "dns", "The upstream's host name does not resolve."),
        ("ftp://nowhere.invalid/v1", None, "The upstream's address is not a valid URL."),
        ("nowhere.invalid/v1/x", None, "The upstream's address is not a valid URL."),
    ],
)
async def test_connect_error_names_the_cause_but_no_address(
    transport: HttpTransport, url: str, cause: str | None, message: str
) -> None:
    """The sentence is fit for a caller's eyes, the cause for the log."""
    error = await failure(transport, url)
    assert (error.kind, error.cause, error.message) == (ErrorKind.UPSTREAM_CONNECT, cause, message)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ECONNRESET, "reset"),
        (errno.ETIMEDOUT, "connect_timeout"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
    ],
)
def test_system_error_has_a_cause(number: int, cause: str) -> None:
    """What the system says is sorted into few words."""
    error = connect_error(OSError(number, "10.0.0.7:443 said so"))
    assert (error.kind, error.cause) == (ErrorKind.UPSTREAM_CONNECT, cause)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "x"), ("open_files", "ulimit -n")),
        (OSError(errno.ENFILE, "x"), ("system_open_files", "fs.file-max")),
        (OSError(errno.EADDRNOTAVAIL, "x"), ("local_ports", "net.ipv4.ip_local_port_range")),
        (OSError(errno.ENOBUFS, "x"), ("memory", "give it more")),
        (OSError(errno.ENOMEM, "x"), ("memory", "give it more")),
        (MemoryError(), ("memory", "give it more")),
    ],
)
@pytest.mark.parametrize("other", [None, OSError(errno.ECONNREFUSED, "x"), OSError(errno.ENETUNREACH, "x")])
async def test_shortage_while_connecting_is_ours(
    error: Exception,
    told: tuple[str, str],
    other: Exception | None,
    transport: HttpTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what to do about it, whatever became of the host's other address."""
    errors = [error] if other is None else [other, error]
    addresses = [HostAddress(socket.AF_INET, (f"127.0.0.{number}", 0)) for number, _ in enumerate(errors, 1)]
    left = iter(errors)

    async def fail(_address: HostAddress, _port: int) -> socket.socket:
        raise next(left)

    monkeypatch.setattr(http1_connect, "_try_address", fail)
    monkeypatch.setattr(transport, "_resolver", Resolver(look_up=lambda _host: addresses))
    cause, remedy = told
    failed = await failure(transport, "http://up.test/v1")
    assert (failed.kind, failed.cause, failed.status) == (ErrorKind.OWN_SHORTAGE, cause, 503)
    assert remedy in failed.message
    assert remedy in str(failed.why)


@pytest.mark.parametrize(
    ("has_route", "kind", "cause"),
    [(True, ErrorKind.OWN_SHORTAGE, "local_ports"), (False, ErrorKind.UPSTREAM_CONNECT, "unreachable")],
)
async def test_address_of_a_family_that_we_lack_is_no_shortage(
    has_route: bool, kind: ErrorKind, cause: str, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without IPv6 the system says EADDRNOTAVAIL of it, as of ports that are used up."""
    there = HostAddress(socket.AF_INET, ("127.0.0.1", 0))
    assert http1_connect._has_route(there, 1)
    monkeypatch.setattr(http1_connect, "_has_route", lambda *_: has_route)
    monkeypatch.setattr(transport, "_resolver", Resolver(look_up=lambda _host: [there]))

    async def refuse(*_arguments: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    loop = SimpleNamespace(sock_connect=refuse)
    monkeypatch.setattr(http1_connect, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    told = await failure(transport, "http://up.test/v1")
    assert (told.kind, told.cause) == (kind, cause)


async def test_host_without_its_first_address_is_reached_by_the_next(
    transport: HttpTransport, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without IPv6 is told of IPv6 addresses all the same."""
    nowhere = HostAddress(socket.AF_INET6, ("2001:db8::1", 0, 0, 0))
    there = HostAddress(socket.AF_INET, ("127.0.0.1", 0))
    monkeypatch.setattr(transport, "_resolver", Resolver(look_up=lambda _host: [nowhere, there]))
    assert await fetch(transport, upstream.url.replace("127.0.0.1", "up.test"))


@pytest.mark.parametrize(
    "ends", ["both answer", "the first fails", "the second fails", "both fail", "left", "left late"]
)
def test_race_of_two_addresses_loses_no_socket(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to both happens at one moment, as after a pause of the network; or the caller leaves."""
    opened: list[socket.socket] = []

    async def try_address(address: HostAddress, _port: int) -> socket.socket:
        number = len(opened)
        opened.append(socket.socket())
        with ExitStack() as cleanup:
            cleanup.callback(opened[number].close)
            await asyncio.sleep(1.0 - asyncio.get_running_loop().time())
            if "fail" in ends and ("both" in ends or ("first" in ends) == (address.address[0] == "a")):
                raise OSError(errno.ECONNREFUSED, "x")
            cleanup.pop_all()
        return opened[number]

    async def scenario() -> socket.socket | None:
        addresses = [HostAddress(socket.AF_INET, (name, 0)) for name in "ab"]
        opening = asyncio.create_task(http1_connect._open_socket(addresses, 1))
        if ends.startswith("left"):
            await asyncio.sleep(1.0 if ends == "left late" else 0.5)
            opening.cancel()
        try:
            return await opening
        except (OSError, asyncio.CancelledError):
            return None

    monkeypatch.setattr(http1_connect, "_try_address", try_address)
    winner = run_virtual(scenario())
    assert (winner is not None) == (ends in {"both answer", "the first fails", "the second fails"})
    assert [each for each in opened if each.fileno() >= 0] == [winner] * (winner is not None)
    assert len(opened) == 2
    if winner is not None:
        winner.close()


def test_race_of_two_addresses_leaves_nothing_to_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider has several addresses, and each connection to it is such a race."""

    async def refuse(_address: HostAddress, _port: int) -> socket.socket:
        await asyncio.sleep(0.3)
        raise OSError(errno.ECONNREFUSED, "x")

    async def scenario() -> int:
        addresses = [HostAddress(socket.AF_INET, (name, 0)) for name in "ab"]
        gc.collect()
        gc.disable()
        for _connection in range(20):
            with suppress(OSError):
                await http1_connect._open_socket(addresses, 1)
        return gc.collect()

    monkeypatch.setattr(http1_connect, "_try_address", refuse)
    try:
        assert run_virtual(scenario()) < 20
    finally:
        gc.enable()


async def test_localhost_is_reached(transport: HttpTransport, upstream: ScriptedUpstream) -> None:
    """By the system's own look-up, which may say ::1 first, where nobody listens."""
    for _request in range(2):
        assert await fetch(transport, upstream.url.replace("127.0.0.1", "localhost"))
    assert upstream.connections_made == 1


async def test_host_that_moves_is_found_again(upstream: ScriptedUpstream) -> None:
    """A kept connection is used on; the next one that is made and refused has the host looked up anew."""
    gone = HostAddress(socket.AF_INET6, ("::1", 0, 0, 0))
    there = HostAddress(socket.AF_INET, ("127.0.0.1", 0))
    answers = [[there], [gone], [there]]
    resolver = Resolver(look_up=lambda _host: answers.pop(0))
    transport = HttpTransport(resolver=resolver)
    await transport.start()
    url = upstream.url.replace("127.0.0.1", "up.test")
    await fetch(transport, url)
    known = resolver._hosts["up.test"]
    known.fresh_until_s = 0.0  # half a minute later
    await fetch(transport, url)
    assert (len(answers), upstream.connections_made) == (2, 1)
    assert (await failure(transport, url, fresh=True)).kind is ErrorKind.UPSTREAM_CONNECT
    known.found_s -= DOUBTED_AFTER_S  # a second later
    known.fresh_until_s -= DOUBTED_AFTER_S
    await fetch(transport, url, fresh=True)
    assert (len(answers), upstream.connections_made) == (0, 2)
    await transport.stop()


async def test_look_up_that_hangs_leaves_the_others_alone(upstream: ScriptedUpstream) -> None:
    """Of a hundred hosts that hang, each in its own thread, none holds up another, nor the end of the loop."""
    ends = threading.Event()

    def look_up(host: str) -> list[HostAddress]:
        if host != "up.test":
            ends.wait()
        return [HostAddress(socket.AF_INET, ("127.0.0.1", 0))]

    transport = HttpTransport(resolver=Resolver(look_up=look_up))
    await transport.start()
    url = upstream.url.replace("127.0.0.1", "up.test")
    hanging = [asyncio.create_task(failure(transport, f"http://h{number}.test/v1")) for number in range(60)]
    await asyncio.sleep(0)
    assert await fetch(transport, url)
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await transport.stop()
    ends.set()


async def test_unknown_certificate_is_not_accepted(transport: HttpTransport, tls_upstream: ScriptedUpstream) -> None:
    """A certificate that nobody vouches for is a connect error, and no request is sent."""
    error = await failure(transport, tls_upstream.url)
    assert error.kind is ErrorKind.UPSTREAM_CONNECT
    assert error.message == "The upstream's TLS certificate was not accepted: self-signed certificate."
    assert error.cause == "certificate"
    assert not tls_upstream.seen


async def test_certificate_for_another_name_is_not_accepted(tls_upstream: ScriptedUpstream) -> None:
    """OpenSSL's own sentence would hold the address; ours does not."""
    transport = HttpTransport(ssl_context=ssl.create_default_context(cafile=CERTIFICATE))
    await transport.start()
    error = await failure(transport, tls_upstream.url)
    await transport.stop()
    expected = "The upstream's TLS certificate was not accepted: it was issued for another name."
    assert (error.kind, error.message) == (ErrorKind.UPSTREAM_CONNECT, expected)


async def test_upstream_without_tls_is_a_connect_error(transport: HttpTransport) -> None:
    """An ``https`` address at a plain HTTP port is no connection."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_server(refuse) as url:
        error = await failure(transport, url.replace("http:", "https:"))
    assert (error.kind, error.message) == (ErrorKind.UPSTREAM_CONNECT, "The TLS handshake with the upstream failed.")
    assert error.cause == "tls"


async def test_leaving_over_tls_tells_the_upstream_at_once(tls_upstream: ScriptedUpstream) -> None:
    """TLS's own farewell does not delay the closing."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.check_hostname = False
    async with AsyncExitStack() as cleanup:
        transport = HttpTransport(ssl_context=context)
        await transport.start()
        cleanup.push_async_callback(transport.stop)
        tls_upstream.then(SLOW)
        async with transport.send(build_upstream_request(tls_upstream.url), connect_timeout_s=SOON_S) as answer:
            assert await answer.read() == b"one"
        async with asyncio.timeout(SOON_S):
            await tls_upstream.seen[0].ended.wait()
    assert tls_upstream.seen[0].disconnected_at_s is not None
