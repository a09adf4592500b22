"""The channel between siblings: processes of one gateway predict, break circuits and share hardware as one.

Real sockets, one loop.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.clock import SystemClock
from gateway.siblings import peer_channel
from gateway.siblings.peer_channel import LESSONS_PER_TARGET, RUNNING_BYTES, PeerChannel
from gateway.targets.pool import Lesson, Pool
from gateway.types import Sample, TargetView
from tests.ground.builders import build_call, build_route, build_target
from tests.ground.limits import no_descriptor_left
from tests.ground.waiting import SOON_S, until

TARGET = build_target("own")
OTHER_TARGET = build_target("other")
CALL = build_call(route=build_route(TARGET))


def sample(*, ok: bool = True, ttft_ms: float = 100.0) -> Sample:
    return Sample(
        ok=ok,
        trips_breaker=not ok,
        input_tokens=100,
        output_tokens=20,
        ttft_ms=ttft_ms,
        tpot_ms=10.0,
    )


class Process:
    """One process's pool and its end of the channel."""

    def __init__(self, directory: Path, slot: int) -> None:
        self.flushed = 0
        self.may_flush = asyncio.Event()
        self.may_flush.set()
        self.channel = PeerChannel(directory, slot, self._flush)
        self.pool = Pool(SystemClock(), publish=self.channel.publish)

    async def _flush(self) -> None:
        self.flushed += 1
        await self.may_flush.wait()

    @property
    def view(self) -> TargetView:
        """What this process knows of the target."""
        return self.pool.view(CALL)[0]

    @property
    def running(self) -> int:
        """How many attempts run at the target, as far as this process knows."""
        return self.pool.in_flight().get("own", 0)

    @property
    def tripped(self) -> bool:
        """Whether no call may go there, or a probe may again: who looks late sees the pause over."""
        return self.pool.breaker_states() == {"own": "half_open"} or self.view.refusal is not None


@asynccontextmanager
async def processes(directory: Path, count: int) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        made = [Process(directory, slot) for slot in range(count)]
        for each in made:
            await each.channel.start(each.pool)
            stack.push_async_callback(each.channel.stop)
        yield made


async def test_measurement_of_one_process_is_predicted_by_the_others(tmp_path: Path) -> None:
    """TTFT, TPOT and length of an answer that one process served, in the views of two others."""
    async with processes(tmp_path, 3) as (one, *others):
        one.pool.begin(TARGET, build_call()).end(sample())
        for other in others:
            await until(lambda other=other: other.view.ttft_ms is not None)  # type: ignore[misc]
            assert other.view.ttft_ms == one.view.ttft_ms
            assert other.view.tpot_ms == one.view.tpot_ms
            assert other.view.output_tokens == one.view.output_tokens


async def test_a_breaker_opens_and_closes_everywhere(tmp_path: Path) -> None:
    """Three failures spread over three processes open it in each; an answer in one closes it in all."""
    async with processes(tmp_path, 3) as made:
        for each in made:
            each.pool.begin(TARGET, build_call()).end(sample(ok=False))
        for each in made:
            await until(lambda each=each: each.tripped)  # type: ignore[misc]
        await until(lambda: made[0].view.refusal is None)  # the first pause is over: it may probe
        made[0].pool.begin(TARGET, build_call()).end(sample())
        for each in made:
            await until(lambda each=each: each.pool.breaker_states() == {"own": "closed"})  # type: ignore[misc]


async def test_calls_in_other_processes_count_as_load_until_they_end(tmp_path: Path) -> None:
    """In views, in the gauge, and in how an attempt's share of own hardware is reckoned."""
    async with processes(tmp_path, 2) as (one, other):
        leases = [one.pool.begin(TARGET, build_call()) for _ in range(3)]
        await until(lambda: other.running == 3)
        assert other.pool.in_flight() == {"own": 3}
        mine = other.pool.begin(TARGET, build_call())
        assert mine.in_flight_at_start == 4
        for lease in leases:
            lease.abandon()
        await until(lambda: other.running == 1)
        mine.abandon()


async def test_datagram_of_an_earlier_version_is_understood_both_ways(tmp_path: Path) -> None:
    """While a gateway is replaced, its old processes drain beside the new: what is on the wire keeps its names."""
    measured = {
        "ok": True,
        "trips_breaker": False,
        "input_tokens": 100,
        "output_tokens": 20,
        "ttft_ms": 7,
        "tpot_ms": 1,
    }
    lesson = {"target_id": "own", "sample": measured, "began_at_ns": 1, "ended_at_ns": 2, "load": 0}
    async with processes(tmp_path, 1) as (new,):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as old:
            old.bind(new.channel._address(1))
            old.setblocking(False)
            old.sendto(msgspec.msgpack.encode(["news", 1, [lesson], {"own": 2}]), new.channel._address(0))
            async with asyncio.timeout(SOON_S):
                await until(lambda: new.running == 2)
                assert new.view.ttft_ms is not None
                new.pool.begin(TARGET, build_call()).end(sample())
                sent = msgspec.msgpack.decode(await asyncio.get_running_loop().sock_recv(old, 1 << 18))
    assert sent[:2] == ["news", 0]
    assert lesson.keys() <= sent[2][0].keys()
    assert measured.keys() <= sent[2][0]["sample"].keys()


async def test_running_attempts_of_a_dead_process_are_forgotten(tmp_path: Path) -> None:
    """Its socket file is still there, nobody behind it; the next thing said to it shows that."""
    async with processes(tmp_path, 2) as (one, other):
        one.pool.begin(TARGET, build_call())
        await until(lambda: other.running == 1)
        address = tmp_path / "0.sock"
        remains = address.stat().st_ino
        address.rename(tmp_path / "kept")
        await one.channel.stop()
        (tmp_path / "kept").rename(address)
        assert address.stat().st_ino == remains
        one.pool.begin(TARGET, build_call())
        await until(lambda: other.running == 0)


async def test_peers_apply_their_journals_on_request(tmp_path: Path) -> None:
    """Before the answer comes each of them has done it; one that never tells delays nobody for long."""
    async with processes(tmp_path, 3) as (one, *others):
        await one.channel.flush_others()
        assert [each.flushed for each in others] == [1, 1]
        assert one.flushed == 0


async def test_flush_asked_for_meanwhile_is_a_flush_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a flush that has begun may not know what he looks for; and when the first gives up, that is his alone."""
    monkeypatch.setattr(peer_channel, "_FLUSH_TIMEOUT_S", 60)
    async with processes(tmp_path, 2) as (one, other):
        other.may_flush.clear()
        first = asyncio.create_task(one.channel.flush_others())
        await until(lambda: other.flushed == 1)
        second = asyncio.create_task(one.channel.flush_others())
        await until(lambda: other.flushed == 2)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not second.done()
        other.may_flush.set()
        await second


async def test_a_directory_of_any_depth_will_do(tmp_path: Path) -> None:
    """An address of a socket has 108 bytes at most, a state directory's path may have more."""
    deep = tmp_path.joinpath(*["a-rather-long-name-of-a-directory"] * 6)
    async with processes(deep, 2) as (one, other):
        one.pool.begin(TARGET, build_call()).end(sample())
        await until(lambda: other.view.ttft_ms is not None)


async def test_lessons_sent_are_the_last_good_ones_and_all_bad_ones(tmp_path: Path) -> None:
    """A busy process does not make the others learn what says nothing new; failures keep their order."""
    async with processes(tmp_path, 2) as (one, other):
        heard: list[Lesson] = []
        other.pool.learn_from_peer = heard.append  # type: ignore[method-assign]
        for number in range(3 * LESSONS_PER_TARGET):
            one.pool.begin(TARGET, build_call()).end(sample(ttft_ms=float(number)))
        await until(lambda: bool(heard))
        assert [each.sample.ttft_ms for each in heard] == [
            float(number) for number in range(2 * LESSONS_PER_TARGET, 3 * LESSONS_PER_TARGET)
        ]
        heard.clear()
        for number in range(3 * LESSONS_PER_TARGET):
            one.pool.begin(TARGET, build_call()).end(sample(ok=number != 5))
        await until(lambda: bool(heard))
        assert len(heard) == 3 * LESSONS_PER_TARGET


UNENCODABLE = {
    "product_of_limits": {"max_output_tokens": (2**63 - 1) ** 2},
    "input_tokens": {"input_tokens": 2**64},
    "output_tokens": {"output_tokens": -(2**70)},
    "hidden_tokens": {"hidden_tokens": 10**40},
    "surrogate": {"error_kind": "\ud800"},
    "complex": {"ttft_ms": 1j},
}


@pytest.mark.parametrize("members", UNENCODABLE.values(), ids=UNENCODABLE)
async def test_lesson_that_cannot_be_encoded_is_left_out_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, members: dict[str, Any]
) -> None:
    """The lessons before and behind it arrive in the same sending; it is counted, and logged the first time."""
    async with processes(tmp_path, 2) as (one, other):
        for _ in range(3):
            now_ns = one.pool.now_ns()
            lesson = {"began_at_ns": now_ns, "ended_at_ns": now_ns, "load": 0}
            for target_id, measured in (("own", sample()), ("x", replace(sample(), **members)), ("other", sample())):
                one.channel.publish(Lesson(target_id=target_id, sample=measured, **lesson))  # type: ignore[arg-type]
        await until(lambda: other.view.ttft_ms is not None)
        assert other.pool.view(build_call(route=build_route(OTHER_TARGET)))[0].ttft_ms is not None
        assert set(other.pool.breaker_states()) == {"own", "other"}
        assert one.channel.left_out == 3
    assert [record.levelname for record in caplog.records if record.name == "tollway.siblings"] == ["ERROR"]


async def test_process_without_a_free_descriptor_still_sends_lessons(tmp_path: Path) -> None:
    """The directory cannot be read then; they are where they were, and none is taken for gone."""
    async with processes(tmp_path, 2) as (one, other):
        lease = one.pool.begin(TARGET, build_call())
        other.pool.begin(TARGET, build_call())
        await until(lambda: (one.running, other.running) == (2, 2))
        with no_descriptor_left():
            lease.end(sample())
            await until(lambda: other.view.ttft_ms is not None)
            assert (one.running, other.running) == (1, 1)


async def test_lesson_that_cannot_be_learnt_stops_no_other(tmp_path: Path) -> None:
    """What one lesson raises in the receiving process keeps none behind it from being learnt, nor the load."""
    async with processes(tmp_path, 2) as (one, other):
        learn = other.pool.learn_from_peer

        def fail_first(lesson: Lesson) -> None:
            if lesson.target_id == "own":
                raise OverflowError
            learn(lesson)

        other.pool.learn_from_peer = fail_first  # type: ignore[method-assign]
        one.pool.begin(TARGET, build_call()).end(sample())
        one.pool.begin(OTHER_TARGET, build_call()).end(sample())
        one.pool.begin(OTHER_TARGET, build_call())
        view = build_call(route=build_route(OTHER_TARGET))
        await until(lambda: other.pool.in_flight().get(OTHER_TARGET.id) == 1)
        assert other.pool.view(view)[0].ttft_ms is not None
        assert other.channel.left_out == 1


async def test_update_beyond_a_datagram_is_cut_and_sent(tmp_path: Path) -> None:
    """With thousands of targets under way the busiest are told, and no process is taken for a dead one."""
    async with processes(tmp_path, 2) as (one, other):
        names = [f"{number:04}-{'long-name-of-a-model-' * 10}" for number in range(2_000)]
        one.pool.begin(TARGET, build_call())
        one.pool.begin(TARGET, build_call())
        for name in names:
            one.pool.begin(build_target(name), build_call())
        await until(lambda: other.running == 2)
        told = other.pool.in_flight()
        assert RUNNING_BYTES / 300 < sum(1 for count in told.values() if count) < RUNNING_BYTES / 200
        one.pool.begin(TARGET, build_call()).end(sample())
        await until(lambda: other.view.ttft_ms is not None)
