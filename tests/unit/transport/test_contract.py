"""What every transport owes its caller, whatever the upstream does: one suite, run over the network and in memory."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from tests.ground.builders import chat_body
from tests.ground.own_time import own_time
from tests.ground.script import Answer, Chunk, json_answer
from tests.ground.transports import SECRET, Ground, read_all
from tests.ground.waiting import SOON_S

# As the gateway serves. On asyncio's own loop every test in tests/flow runs, over sockets and in memory.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

THREE = Answer(chunks=(b"one", b"two", b"three"))


async def test_request_arrives_as_it_was_written(ground: Ground) -> None:
    """Method, path, query, headers and body reach the upstream unchanged."""
    await ground.exchange(body=b'{"model": "m", "n":1}')
    seen = ground.upstream.seen[0]
    assert (seen.method, seen.path) == ("POST", f"/v1/chat/completions?key={SECRET}")
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert seen.body == b'{"model": "m", "n":1}'


@pytest.mark.parametrize("framing", ["chunked", "content-length", "close"])
async def test_body_is_complete_under_each_framing(ground: Ground, framing: Any) -> None:
    """The end of a body is found by chunks, by length and by the connection's end."""
    ground.upstream.then(replace(THREE, framing=framing))
    assert await ground.exchange() == (200, b"onetwothree")
    await ground.upstream.seen[0].ended.wait()
    assert ground.upstream.seen[0].completed


async def test_status_and_headers_come_before_the_body(ground: Ground) -> None:
    """Any status is an answer; names of headers are lower case, and of repeated ones the first counts."""
    answer = replace(
        json_answer({}, status=429), headers=(("Retry-After", "7"), ("X-Twice", "a"), ("x-twice", "b")), stall_after=0
    )
    ground.upstream.then(answer)
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as reply:
        assert reply.status == 429
        assert reply.headers["retry-after"] == "7"
        assert reply.headers["x-twice"] == "a"


async def test_redirect_is_an_answer(ground: Ground) -> None:
    """A redirect is not followed: it would carry the key elsewhere."""
    ground.upstream.then(replace(THREE, status=302, headers=(("location", "/other"),)))
    status, _body = await ground.exchange()
    assert status == 302
    assert len(ground.upstream.seen) == 1


async def test_chunks_are_handed_on_as_they_arrive(ground: Ground) -> None:
    """A chunk is readable although the next one never comes."""
    ground.upstream.then(replace(THREE, stall_after=1))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        assert await answer.read() == b"one"


@pytest.mark.slow
async def test_slow_headers_are_awaited_without_a_limit(ground: Ground) -> None:
    """Time to the headers is the caller's to limit, and does not count as connecting."""
    ground.upstream.then(replace(THREE, first_byte_delay_s=1.05))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        assert await read_all(answer) == b"onetwothree"


async def test_trickled_bytes_make_a_whole_answer(ground: Ground) -> None:
    """Headers and body that arrive byte by byte are put together."""
    ground.upstream.then(replace(THREE, trickle_bytes=1, trickle_delay_s=0.0001))
    assert await ground.exchange() == (200, b"onetwothree")


async def test_interim_answers_are_skipped(ground: Ground) -> None:
    """100 Continue and 103 Early Hints are not the answer."""
    ground.upstream.then(replace(THREE, informational=(100, 103)))
    assert await ground.exchange() == (200, b"onetwothree")


@pytest.mark.parametrize("reset", [False, True])
async def test_break_before_headers_is_a_cut(ground: Ground, reset: bool) -> None:
    """A first connection that ends without an answer is UPSTREAM_CUT, and is not tried again."""
    ground.upstream.then(Answer(hang_up=True, reset=reset))
    assert await ground.failure() == (ErrorKind.UPSTREAM_CUT, b"")
    assert len(ground.upstream.seen) == 1


@pytest.mark.parametrize(("reset", "cause"), [(False, "closed"), (True, "reset")])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(hang_up=True),
        replace(THREE, cut_after=1, per_chunk_delay_s=0.01),
        replace(THREE, cut_after=1, per_chunk_delay_s=0.01, framing="content-length"),
    ],
)
async def test_broken_connection_has_its_cause(ground: Ground, answer: Answer, cause: str, *, reset: bool) -> None:
    """For the log and the ledger: whether the upstream ended it in good order."""
    ground.upstream.then(replace(answer, reset=reset))
    with pytest.raises(UpstreamError) as caught:
        async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as stream:
            await read_all(stream)
    assert (caught.value.kind, caught.value.cause) == (ErrorKind.UPSTREAM_CUT, cause)


async def test_break_within_headers_is_a_cut(ground: Ground) -> None:
    """Half a header is no answer."""
    ground.upstream.then(Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-ty"))
    assert await ground.failure() == (ErrorKind.UPSTREAM_CUT, b"")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "content-length"])
async def test_break_within_body_is_a_cut(ground: Ground, framing: Any, reset: bool) -> None:
    """A body that ends early raises after what had arrived: never a clean end."""
    answer = Answer(chunks=(b"one", Chunk(b"two", delay_s=0.01), b"three"), framing=framing)
    ground.upstream.then(replace(answer, cut_after=1, reset=reset))
    kind, received = await ground.failure()
    assert kind is ErrorKind.UPSTREAM_CUT
    assert received in {b"one", b""} if reset else received == b"one"


async def test_reset_is_no_end_of_a_body_without_length(ground: Ground) -> None:
    """Where the connection's end is the body's end, only an orderly one is."""
    answer = Answer(chunks=(b"one", b"two"), framing="close", per_chunk_delay_s=0.01, cut_after=1, reset=True)
    ground.upstream.then(answer)
    kind, _received = await ground.failure()
    assert kind is ErrorKind.UPSTREAM_CUT


async def test_bytes_before_a_cut_reach_a_slow_reader(ground: Ground) -> None:
    """What arrived before the cut is read first, even when the connection is gone by then."""
    ground.upstream.then(replace(THREE, cut_after=2))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        await ground.upstream.seen[0].ended.wait()
        for _turn in range(20):
            await asyncio.sleep(0)
        received = bytearray()
        with pytest.raises(UpstreamError):
            while True:
                received += await answer.read()
        assert received == b"onetwo"


async def test_claimed_length_too_long_is_a_cut(ground: Ground) -> None:
    """An upstream that promised more than it sent has cut the answer."""
    ground.upstream.then(replace(THREE, framing="content-length", content_length=100, keep_alive=False))
    assert await ground.failure() == (ErrorKind.UPSTREAM_CUT, b"onetwothree")


async def test_claimed_length_too_short_ends_the_body_there(ground: Ground) -> None:
    """The surplus belongs to no answer."""
    answer = Answer(chunks=(b"onet", Chunk(b"wothree", delay_s=0.005)), framing="content-length", content_length=4)
    ground.upstream.then(answer)
    assert await ground.exchange() == (200, b"onet")


@pytest.mark.parametrize(
    "body", [b"5\r\nab", b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n"], ids=["truncated", "no hex", "overrun"]
)
async def test_broken_chunks_are_a_cut(ground: Ground, body: bytes) -> None:
    """A chunked body that breaks its framing is UPSTREAM_CUT."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    ground.upstream.then(Answer(raw=head + body, trickle_bytes=len(head), trickle_delay_s=0.005))
    kind, _received = await ground.failure()
    assert kind is ErrorKind.UPSTREAM_CUT


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nrest",
    ],
    ids=["ssh", "tls", "status", "header", "switch"],
)
async def test_garbage_is_a_protocol_error(ground: Ground, raw: bytes) -> None:
    """An answer that is not HTTP, or speaks of something else, is UPSTREAM_PROTOCOL."""
    ground.upstream.then(Answer(raw=raw))
    assert await ground.failure() == (ErrorKind.UPSTREAM_PROTOCOL, b"")


@pytest.mark.parametrize("headers", [(("x-huge", "a" * 100_000),), tuple((f"x-{n}", "v") for n in range(1000))])
async def test_huge_headers_are_a_protocol_error(ground: Ground, headers: tuple[tuple[str, str], ...]) -> None:
    """Neither one endless header nor an endless number of them is buffered."""
    ground.upstream.then(replace(THREE, headers=headers))
    assert await ground.failure() == (ErrorKind.UPSTREAM_PROTOCOL, b"")


@pytest.mark.parametrize("reset", [False, True])
async def test_stale_connection_is_reported_and_nothing_is_sent_twice(ground: Ground, reset: bool) -> None:
    """A used connection that closes without a byte is an error of its own: to send anew is its caller's decision."""
    await ground.exchange()
    ground.upstream.then(Answer(hang_up=True, reset=reset), THREE)
    assert await ground.failure() == (ErrorKind.STALE_CONNECTION, b"")
    assert len(ground.upstream.seen) == 2
    assert await ground.exchange() == (200, b"onetwothree")


@pytest.mark.parametrize("reset", [False, True])
async def test_fresh_connection_is_never_stale(ground: Ground, reset: bool) -> None:
    """Who asks for a fresh connection gets one, and its failure is the upstream's own."""
    await ground.exchange()
    ground.upstream.then(Answer(hang_up=True, reset=reset))
    assert await ground.failure(fresh=True) == (ErrorKind.UPSTREAM_CUT, b"")
    assert len(ground.upstream.seen) == 2


async def test_connection_is_kept_for_its_own_pool(ground: Ground) -> None:
    """A connection that carried one credential's request carries no other's: there it can be no stale one."""
    await ground.exchange(pool="a")
    ground.upstream.then(Answer(hang_up=True))
    assert await ground.failure(pool="b") == (ErrorKind.UPSTREAM_CUT, b"")
    ground.upstream.then(Answer(hang_up=True))
    assert await ground.failure(pool="a") == (ErrorKind.STALE_CONNECTION, b"")


@pytest.mark.parametrize("reset", [False, True])
async def test_late_break_of_a_used_connection_is_a_cut(
    ground: Ground, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was stale shows it at once; later the upstream has worked on the request, and may bill it."""
    for module in ("gateway.transport.http1", "tests.ground.in_memory"):
        monkeypatch.setattr(f"{module}.STALE_SHOWS_WITHIN_S", 0.01)
    await ground.exchange()
    ground.upstream.then(Answer(hang_up=True, reset=reset, first_byte_delay_s=0.03))
    assert await ground.failure() == (ErrorKind.UPSTREAM_CUT, b"")
    assert len(ground.upstream.seen) == 2


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("raw", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["byte", "interim"])
async def test_connection_that_breaks_behind_a_byte_is_not_stale(ground: Ground, raw: bytes, reset: bool) -> None:
    """One byte of an answer shows that the upstream has begun to work on the request."""
    await ground.exchange()
    ground.upstream.then(Answer(raw=raw, reset=reset, trickle_bytes=len(raw)))
    kind, _received = await ground.failure()
    assert kind is ErrorKind.UPSTREAM_CUT
    assert len(ground.upstream.seen) == 2


async def test_refused_connection_is_a_connect_error(ground: Ground) -> None:
    """An upstream that is down cannot be connected to, and can again once it is back."""
    await ground.exchange()
    await ground.upstream.die()
    assert await ground.failure() == (ErrorKind.UPSTREAM_CONNECT, b"")
    await ground.upstream.revive()
    assert (await ground.exchange())[0] == 200


async def test_request_is_sent_once_the_upstream_has_it_whole(ground: Ground) -> None:
    """Until then nothing can be billed: not while connecting, and not for a connection that was refused."""
    sending = ground.transport.send(ground.request(), connect_timeout_s=SOON_S)
    assert not sending.sent
    async with sending:
        assert sending.sent
    assert sending.sent
    await ground.upstream.die()
    refused = ground.transport.send(ground.request(), connect_timeout_s=SOON_S, fresh=True)
    with pytest.raises(UpstreamError):
        await refused.__aenter__()
    assert not refused.sent


async def test_request_that_was_left_before_its_answer_was_sent(ground: Ground) -> None:
    """Whoever leaves while the upstream works on it may be billed."""
    ground.upstream.then(replace(THREE, first_byte_delay_s=60.0))
    sending = ground.transport.send(ground.request(), connect_timeout_s=SOON_S)
    waiting = asyncio.ensure_future(sending.__aenter__())
    await ground.upstream.arrived()
    await assert_cancels(waiting)
    assert sending.sent


async def test_death_cuts_the_stream_under_way(ground: Ground) -> None:
    """An upstream that dies in mid-stream ends every answer as a cut."""
    ground.upstream.then(replace(THREE, stall_after=1))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        assert await answer.read() == b"one"
        await ground.upstream.die()
        with pytest.raises(UpstreamError) as caught:
            await answer.read()
    assert caught.value.kind is ErrorKind.UPSTREAM_CUT


async def test_leaving_early_tells_the_upstream(ground: Ground) -> None:
    """Leaving the context in mid-stream closes the connection at once."""
    ground.upstream.then(replace(THREE, stall_after=1))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        await answer.read()
    await assert_left(ground)


async def test_cancelled_wait_for_headers_tells_the_upstream(ground: Ground) -> None:
    """A caller who gives up before the headers closes the connection at once."""
    ground.upstream.then(replace(THREE, first_byte_delay_s=60.0))
    sending = asyncio.ensure_future(ground.exchange())
    await ground.upstream.arrived()
    await assert_cancels(sending)
    await assert_left(ground)


async def test_cancelled_read_tells_the_upstream(ground: Ground) -> None:
    """A caller who gives up while reading closes the connection at once."""
    ground.upstream.then(replace(THREE, stall_after=0))
    begun = asyncio.Event()

    async def read() -> None:
        async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
            begun.set()
            await answer.read()

    reading = asyncio.ensure_future(read())
    await begun.wait()
    await assert_cancels(reading)
    await assert_left(ground)


async def test_timeout_around_headers_tells_the_upstream(ground: Ground) -> None:
    """The caller's own time limit is a cancellation like any other."""
    ground.upstream.then(replace(THREE, first_byte_delay_s=60.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            arrived = asyncio.ensure_future(ground.upstream.arrived())
            arrived.add_done_callback(lambda _: limit.reschedule(asyncio.get_running_loop().time()))
            await ground.exchange()
    await assert_left(ground)


async def test_slow_reader_holds_the_upstream_back(ground: Ground) -> None:
    """An upstream cannot send without end what nobody reads, and nothing of it is lost."""
    block = b"x" * 1_000_000
    ground.upstream.then(Answer(chunks=(block,) * 30))
    async with ground.transport.send(ground.request(), connect_timeout_s=SOON_S) as answer:
        first = await answer.read()
        seen = ground.upstream.seen[0]
        for _turn in range(500):
            await asyncio.sleep(0)
        assert not seen.completed
        assert len(first) + len(await read_all(answer)) == 30_000_000


async def test_large_request_arrives_whole(ground: Ground) -> None:
    """A body of megabytes is sent whole."""
    body = chat_body(messages=[{"role": "user", "content": "word " * 1_000_000}])
    assert (await ground.exchange(body=body))[0] == 200
    assert ground.upstream.seen[0].body == body


async def test_many_requests_at_once_get_their_own_answers(ground: Ground) -> None:
    """There is no limit on concurrent requests, and no answer is mixed up."""
    for number in range(150):
        ground.upstream.on_path(f"/{number}", Answer(chunks=(b"%d" % number,), first_byte_delay_s=0.01))

    async def ask(number: int) -> bytes:
        async with ground.transport.send(ground.request(f"/{number}"), connect_timeout_s=SOON_S) as answer:
            return await read_all(answer)

    answers = await asyncio.gather(*(ask(number) for number in range(150)))
    assert answers == [b"%d" % number for number in range(150)]


async def assert_cancels(task: "asyncio.Future[Any]") -> None:
    """Cancel and see the task end as cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def assert_left(ground: Ground) -> None:
    """See the upstream notice within a second that nobody listens."""
    seen = ground.upstream.seen[0]
    async with own_time() as own:
        await seen.ended.wait()
    assert own.s < 1
    assert seen.disconnected_at_s is not None
    assert not seen.completed
