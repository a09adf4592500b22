"""Modelled targets take the time, and answer what, their sections say."""

import asyncio
from collections.abc import Awaitable, Callable
from math import log
from random import Random
from statistics import correlation, median
from typing import Any

import pytest

from gateway.config.simulation import SimulatedProviderSection, SimulatedReplicaSection
from gateway.simulation.dialects import DIALECTS
from gateway.simulation.prefixes import PrefixTree, Run
from gateway.simulation.provider_model import ProviderModel
from gateway.simulation.replica_model import ReplicaModel
from gateway.simulation.trace import Row
from gateway.simulation.transport import ModelledStream
from gateway.simulation.virtual_time import run_virtual

CHAT = DIALECTS["/chat/completions"]


class Asking:
    """Asks a model of which only the latencies are of interest."""

    def __init__(self, model: ProviderModel | ReplicaModel) -> None:
        self._model = model
        self._tree = PrefixTree()
        self._fresh = 1_000_000_000

    def send(self, input_tokens: int, output_tokens: int = 1, *, prompt: int | None = None) -> ModelledStream:
        """Send a prompt; those of one number have their beginnings in common."""
        start = self._fresh if prompt is None else prompt * 1_000_000
        self._fresh += input_tokens
        node = self._tree.add([Run(start, start + input_tokens)])
        row = Row(at_s=0, input_tokens=input_tokens, output_tokens=output_tokens, prompt=node)
        return self._model.answer(row, CHAT)

    async def ask(self, *args: int, **kwargs: Any) -> tuple[float, float]:
        """Return the seconds to the first token and to the end."""
        loop = asyncio.get_running_loop()
        sent_at_s = loop.time()
        stream = self.send(*args, **kwargs)
        assert stream.status == 200
        assert await stream.read()
        ttft_s = loop.time() - sent_at_s
        while await stream.read():
            pass
        stream.left()
        return ttft_s, loop.time() - sent_at_s


def provider(check: Callable[[Asking], Awaitable[None]], *, seed: int = 0, **options: Any) -> None:
    """Run a check against a provider without spread, but for these options."""
    section = SimulatedProviderSection.model_validate({"ttft_spread": 0, "tpot_spread": 0, **options})

    async def run() -> None:
        await check(Asking(ProviderModel(section, Random(seed), bills_writes=False)))

    run_virtual(run())


def replica(check: Callable[[Asking, ReplicaModel], Awaitable[None]], **options: Any) -> None:
    """Run a check against a replica: 10,000 prompt tokens a second, 10 ms a step, 1 ms more for each that runs."""
    given = {"prefill_tokens_per_s": 10_000, "step_ms": 10, "step_ms_per_running": 1, "step_prompt_tokens": 1000}
    section = SimulatedReplicaSection.model_validate({**given, **options})

    async def run() -> None:
        model = ReplicaModel("r", "m", section)
        await check(Asking(model), model)

    run_virtual(run())


LINE = {"ttft_ms": 1000, "ttft_ms_per_1k_uncached": 10, "ttft_ms_per_1k_input": 5, "tpot_ms": 20}


def test_provider_takes_a_line_over_uncached_and_all_tokens() -> None:
    """The second time the prompt is in its cache; TPOT is that of the section, over pieces."""

    async def check(asking: Asking) -> None:
        assert await asking.ask(10_000, 1001, prompt=1) == pytest.approx((1.15, 21.15))
        assert await asking.ask(20_000, 1, prompt=1) == pytest.approx((1.2, 1.2), rel=0.01)

    provider(check, **LINE)


@pytest.mark.parametrize(
    ("options", "tokens", "pause_s", "is_cached"),
    [
        ({}, 10_000, 299, True),
        ({}, 10_000, 301, False),
        ({"cache_lifetime_s": 1800}, 10_000, 1700, True),
        ({"cache_lifetime_s": 0}, 10_000, 1, False),
        ({}, 1023, 1, False),
        ({"cache_minimum_tokens": 512}, 1023, 1, True),
    ],
)
def test_provider_caches_by_its_minimum_and_lifetime(
    options: dict[str, Any], tokens: int, pause_s: float, *, is_cached: bool
) -> None:
    """A cached prompt costs no prefill, but for one token."""

    async def check(asking: Asking) -> None:
        await asking.ask(tokens, prompt=1)
        await asyncio.sleep(pause_s)
        first_s, _ = await asking.ask(tokens, prompt=1)
        uncached = 1 if is_cached else tokens
        assert first_s == pytest.approx(1 + uncached * 10e-6 + tokens * 5e-6)

    provider(check, **LINE, **options)


def test_prompts_at_once_are_all_uncached() -> None:
    """A cache has a prompt once an answer has begun."""

    async def check(asking: Asking) -> None:
        times = await asyncio.gather(*(asking.ask(10_000, prompt=1) for _ in range(3)))
        assert [round(first_s, 3) for first_s, _ in times] == [1.15] * 3

    provider(check, **LINE)


@pytest.mark.parametrize("options", [{"requests_per_minute": 6}, {"input_tokens_per_minute": 60_000}])
def test_provider_refuses_above_its_limit_and_says_until_when(options: dict[str, int]) -> None:
    """A minute's worth passes at once; then one is free every ten seconds."""

    async def check(asking: Asking) -> None:
        answers = [asking.send(10_000) for _ in range(8)]
        assert [each.status for each in answers] == [200] * 6 + [429] * 2
        assert answers[-1].headers["retry-after"] == "10"
        assert b"rate limit" in await answers[-1].read()
        await asyncio.sleep(10)
        assert [asking.send(10_000).status for _ in range(2)] == [200, 429]

    provider(check, **options)


def test_limit_is_in_the_headers() -> None:
    """Also of answers that it lets pass, in the words of the format."""

    async def check(asking: Asking) -> None:
        headers = asking.send(10).headers
        assert headers["x-ratelimit-limit-requests"] == "6"
        assert headers["x-ratelimit-remaining-requests"] == "6"
        assert asking.send(10).headers["x-ratelimit-remaining-requests"] == "5"

    provider(check, requests_per_minute=6)


def test_episodes_slow_a_provider_down_or_take_it_away() -> None:
    """For as long as they last."""

    async def check(asking: Asking) -> None:
        assert (await asking.ask(1, 11))[1] == pytest.approx(1.2, rel=0.01)
        await asyncio.sleep(10)
        assert (await asking.ask(1, 11))[1] == pytest.approx(3.6, rel=0.01)
        await asyncio.sleep(10)
        assert asking.send(1).status == 503
        await asyncio.sleep(10)
        assert asking.send(1).status == 200

    provider(
        check,
        **LINE,
        episodes=[{"from_s": 10, "to_s": 20, "slower": 3}, {"from_s": 20, "to_s": 30, "status": 503}],
    )


@pytest.mark.parametrize(("gap_s", "low", "high"), [(1, 0.45, 0.75), (600, -0.15, 0.15)])
def test_spread_of_a_provider_is_alike_for_a_while(gap_s: float, low: float, high: float) -> None:
    """Its median stays that of the line, and its p90 is 1.56 times that."""
    ttfts: list[float] = []

    async def check(asking: Asking) -> None:
        for _ in range(1500):
            first_s, _ = await asking.ask(1)
            ttfts.append(log(first_s))
            await asyncio.sleep(gap_s)

    provider(check, ttft_ms=1000, ttft_spread=0.35, cache_lifetime_s=0, seed=3)
    assert low < correlation(ttfts[:-1], ttfts[1:]) < high
    if gap_s > 60:
        assert median(ttfts) == pytest.approx(0, abs=0.05)
        assert sorted(ttfts)[1350] == pytest.approx(log(1.56), abs=0.06)


def test_replica_alone_reads_and_writes_at_its_rates() -> None:
    """A chunk of 1,000 tokens takes 110 ms beside a step, a token then 11 ms."""

    async def check(asking: Asking, _model: ReplicaModel) -> None:
        first_s, whole_s = await asking.ask(5000, 101)
        assert first_s == pytest.approx(0.55, rel=1e-3)
        assert whole_s - first_s == pytest.approx(1.1, rel=1e-3)

    replica(check)


def test_replica_slows_down_with_what_it_writes() -> None:
    """Twenty answers at once: each token takes 10 + 20 x 1 ms."""

    async def check(asking: Asking, _model: ReplicaModel) -> None:
        times = await asyncio.gather(*(asking.ask(1, 1001) for _ in range(20)))
        assert [whole_s for _, whole_s in times] == pytest.approx([30] * 20, rel=0.01)

    replica(check)


def test_prompts_are_read_one_after_another() -> None:
    """The second waits for the first."""

    async def check(asking: Asking, _model: ReplicaModel) -> None:
        (first_s, _), (second_s, _) = await asyncio.gather(asking.ask(5000), asking.ask(5000))
        assert (first_s, second_s) == pytest.approx((0.55, 1.1), rel=1e-3)

    replica(check)


@pytest.mark.parametrize("options", [{"max_running": 2}, {"kv_tokens": 2300}])
def test_requests_wait_for_a_place_and_for_memory(options: dict[str, int]) -> None:
    """The third begins when the first two have ended."""

    async def check(asking: Asking, model: ReplicaModel) -> None:
        asked = [asyncio.create_task(asking.ask(1000, 101)) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert (model.report().running, model.report().waiting, model.in_flight) == (2, 1, 3)
        (_, one_s), _, (third_s, _) = await asyncio.gather(*asked)
        assert third_s > one_s
        assert model.in_flight == 0

    replica(check, **options)


def test_one_request_too_many_is_refused() -> None:
    """With the status of a replica that is full."""

    async def check(asking: Asking, _model: ReplicaModel) -> None:
        assert [asking.send(1000, 100).status for _ in range(4)] == [200, 200, 200, 503]

    replica(check, max_running=1, max_waiting=2)


def test_replica_reads_only_what_its_cache_has_not() -> None:
    """Until other prompts have taken its place."""

    async def check(asking: Asking, model: ReplicaModel) -> None:
        await asking.ask(5000, prompt=1)
        assert (await asking.ask(6000, prompt=1))[0] == pytest.approx(0.11, rel=0.01)
        assert model.report().total.cached_tokens == 5000
        await asking.ask(9000)
        assert (await asking.ask(6000, prompt=1))[0] == pytest.approx(0.66, rel=0.01)

    replica(check, kv_tokens=10_000)


@pytest.mark.parametrize("after_s", [0.01, 0.2, 0.6])
def test_request_whose_gateway_leaves_frees_its_place(after_s: float) -> None:
    """While it waits, is read or is written; the others are none the slower."""

    async def check(asking: Asking, model: ReplicaModel) -> None:
        streams = [asking.send(1000, 1000) for _ in range(4)]
        await asyncio.sleep(after_s)
        for stream in streams:
            stream.left()
        assert model.in_flight == 0
        assert model.report().kv_usage == 0
        assert (await asking.ask(5000, 101)) == pytest.approx((0.55, 1.65), rel=0.01)

    replica(check, max_running=3)
