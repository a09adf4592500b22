"""The synthetic engine's steps, queue, cache and counts, in virtual time."""

import asyncio

import pytest
from pydantic import ValidationError

from gateway.simulation.virtual_time import run_virtual
from workers.config.synthetic import SyntheticSpec
from workers.synthetic.engine import QueueFullError, SyntheticEngine, SyntheticFigures, TooLongError


def engine_of(**settings: object) -> SyntheticEngine:
    return SyntheticEngine(SyntheticSpec.model_validate({"ttft_ms": 0, "tpot_ms": 10, **settings}))


def words(count: int, name: str = "w") -> list[str]:
    return [f"{name}{at}" for at in range(count)]


async def arrivals(engine: SyntheticEngine, prompt: int, output: int, *, name: str = "w") -> list[float]:
    """Return when each token of one request came."""
    async with engine.request(words(prompt, name), output) as request:
        return [asyncio.get_running_loop().time() async for _ in engine.tokens(request)]


def test_the_first_token_comes_after_ttft_and_the_others_tpot_apart() -> None:
    assert run_virtual(arrivals(engine_of(ttft_ms=100, tpot_ms=20), 1, 4)) == pytest.approx([0.1, 0.12, 0.14, 0.16])


def test_a_step_takes_longer_the_more_requests_run() -> None:
    async def main() -> list[list[float]]:
        engine = engine_of(tpot_per_request_ms=1)
        return await asyncio.gather(*(arrivals(engine, 1, 3) for _ in range(3)))

    assert run_virtual(main()) == [pytest.approx([0, 0.012, 0.024])] * 3


def test_a_prompt_is_read_at_its_rate_in_pieces_that_fit_and_slows_who_is_running() -> None:
    async def main() -> tuple[list[float], list[float]]:
        engine = engine_of(prefill_tokens_per_s=1000, max_batched_tokens=101)
        first = asyncio.create_task(arrivals(engine, 1, 5))
        await asyncio.sleep(0.005)
        second = await arrivals(engine, 200, 1, name="long")
        return await first, second

    running, reading = run_virtual(main())
    # One token read; a step alone; then two steps with 100 tokens of the other's prompt each; and one alone again.
    assert running == pytest.approx([0.001, 0.011, 0.121, 0.231, 0.241])
    assert reading == pytest.approx([0.231])


def test_a_slow_reader_does_not_slow_the_engine() -> None:
    async def main() -> tuple[float, int]:
        engine = engine_of()
        async with engine.request(words(1), 3) as request:
            await asyncio.sleep(0.025)
            running = engine.figures().running
            assert [token async for token in engine.tokens(request)] == ["The", " toll", " is"]
        return asyncio.get_running_loop().time(), running

    assert run_virtual(main()) == (pytest.approx(0.025), 0), "all was made, and the place was free, before it was read"


def test_requests_beyond_max_running_wait_and_beyond_max_waiting_are_refused() -> None:
    async def main() -> None:
        engine = engine_of(max_running=1, max_waiting=1)
        first, second = asyncio.create_task(arrivals(engine, 1, 2)), asyncio.create_task(arrivals(engine, 1, 2))
        await asyncio.sleep(0)
        assert (engine.figures().running, engine.figures().waiting) == (1, 1)
        with pytest.raises(QueueFullError):
            await arrivals(engine, 1, 2)
        assert await first == pytest.approx([0, 0.01])
        assert await second == pytest.approx([0.01, 0.02])
        assert (engine.figures().running, engine.figures().waiting) == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize("which", [0, 1], ids=["running", "waiting"])
def test_client_that_leaves_frees_its_slot_for_the_next(which: int) -> None:
    async def main() -> None:
        engine = engine_of(max_running=1)
        tasks = [asyncio.create_task(arrivals(engine, 1, 1000)) for _ in range(3)]
        await asyncio.sleep(0.1)
        tasks[which].cancel()
        await asyncio.sleep(0.1)
        assert (engine.figures().running, engine.figures().waiting) == (1, 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (engine.figures().running, engine.figures().waiting, engine.figures().kv_usage) == (0, 0, 0)
        assert await arrivals(engine, 1, 1), "it still works"

    run_virtual(main())


def test_requests_wait_while_the_cache_is_full() -> None:
    async def main() -> None:
        engine = engine_of(kv_blocks=4, block_size=4)
        first = asyncio.create_task(arrivals(engine, 4, 8, name="a"))
        second = asyncio.create_task(arrivals(engine, 4, 4, name="b"))
        await asyncio.sleep(0)
        figures = engine.figures()
        assert (figures.running, figures.waiting, figures.kv_usage, figures.kv_tokens) == (1, 1, 0.75, 16)
        assert (await second)[0] == pytest.approx((await first)[-1])
        with pytest.raises(TooLongError):
            await arrivals(engine, 4, 13)

    run_virtual(main())


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there_on() -> None:
    async def main() -> tuple[list[float], SyntheticFigures, float]:
        engine = engine_of(prefill_tokens_per_s=1000, block_size=16)
        await arrivals(engine, 100, 1)
        start = asyncio.get_running_loop().time()
        again = await arrivals(engine, 120, 1)
        return again, engine.figures(), start

    again, figures, start = run_virtual(main())
    assert again == [pytest.approx(start + (120 - 96) / 1000)], "six full blocks were there"
    assert (figures.prompt_tokens, figures.cached_tokens) == (220, 96)


def test_a_block_is_found_only_behind_the_blocks_that_it_was_read_behind() -> None:
    async def main() -> int:
        engine = engine_of(block_size=4)
        for prompt in ((*"aaaabbbb", "x"), (*"ccccdddd", "x"), (*"aaaadddd", "x")):
            async with engine.request(prompt, 1) as request:
                await engine.read(request)
        return engine.figures().cached_tokens

    assert run_virtual(main()) == 4


def test_the_same_prompt_again_is_read_but_for_its_last_block_and_never_without_caching() -> None:
    async def cached(*, caching: bool) -> int:
        engine = engine_of(block_size=16, prefix_caching=caching)
        await arrivals(engine, 32, 1)
        await arrivals(engine, 32, 1)
        return engine.figures().cached_tokens

    assert run_virtual(cached(caching=True)) == 16, "the first token of the answer comes from a token that is read"
    assert run_virtual(cached(caching=False)) == 0


def test_cached_prompt_left_longest_ago_is_evicted_first() -> None:
    async def main() -> list[int]:
        engine = engine_of(kv_blocks=5, block_size=16)
        found = []
        for name in ("a", "b", "a", "c", "a", "b"):
            before = engine.figures().cached_tokens
            await arrivals(engine, 32, 1, name=name)
            found.append(engine.figures().cached_tokens - before)
        return found

    # Each takes three blocks and leaves two that can be found: c needs two, and b was left before a.
    assert run_virtual(main()) == [0, 0, 16, 0, 16, 0]


def test_the_counts_are_of_what_was_taken_also_when_callers_leave() -> None:
    async def main() -> SyntheticFigures:
        engine = engine_of()
        async with engine.request(words(7), 100) as request:
            tokens = engine.tokens(request)
            for _ in range(5):
                await anext(tokens)
        left_unread = asyncio.create_task(arrivals(engine_of(ttft_ms=1000), 9, 1))
        await asyncio.sleep(0.1)
        left_unread.cancel()
        await arrivals(engine, 3, 2)
        return engine.figures()

    figures = run_virtual(main())
    assert (figures.prompt_tokens, figures.output_tokens, figures.ttft_count) == (10, 7, 2)


def test_times_to_first_token_have_the_queue_in_them() -> None:
    async def main() -> SyntheticFigures:
        engine = engine_of(max_running=1, ttft_ms=100, tpot_ms=0)
        await asyncio.gather(arrivals(engine, 1, 2), arrivals(engine, 1, 2))
        return engine.figures()

    assert run_virtual(main()).ttft_sum_s == pytest.approx(0.1 + 0.2)


@pytest.mark.parametrize("after", [0, 3])
def test_stalled_answer_counts_as_running_until_its_caller_leaves(after: int) -> None:
    async def main() -> None:
        engine = engine_of(faults={"stall_after_tokens": after})
        async with engine.request(words(1), 5) as request:
            taken = []
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    async for token in engine.tokens(request):
                        taken.append(token)  # noqa: PERF401 - a comprehension that breaks off leaves nothing
            assert len(taken) == after
            assert engine.figures().running == 1
        assert engine.figures().running == 0

    run_virtual(main())


def test_a_machine_that_is_too_slow_slows_the_engine_but_a_late_step_is_made_up_for() -> None:
    async def main(late_by: float) -> float:
        loop = asyncio.get_running_loop()
        engine = engine_of()
        async with engine.request(words(1), 4) as request:
            tokens = engine.tokens(request)
            await anext(tokens)
            await anext(tokens)
            loop.now_s += late_by  # type: ignore[attr-defined]
            await anext(tokens)
            await anext(tokens)
        return loop.time()

    assert run_virtual(main(0.012)) == pytest.approx(0.03), "the third was 2 ms late, the fourth is not"
    assert run_virtual(main(0.5)) == pytest.approx(0.52)


def test_prompts_without_an_answer_end_when_they_are_read() -> None:
    async def main() -> float:
        engine = engine_of(prefill_tokens_per_s=1000)
        async with engine.request(words(50), 0) as request:
            await engine.read(request)
        assert engine.figures().running == 0
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(0.05)


def test_a_profile_sets_what_is_not_said() -> None:
    spec = SyntheticSpec.model_validate({"profile": "h100", "tpot_ms": 1})
    assert (spec.tpot_ms, spec.max_running) == (1, 256)
    assert spec.kv_blocks > SyntheticSpec.model_validate({"profile": "l4"}).kv_blocks
    with pytest.raises(ValidationError, match="profile"):
        SyntheticSpec.model_validate({"profile": "h1000"})


def test_profile_of_an_h100_decodes_at_the_published_speed() -> None:
    async def main() -> float:
        engine = SyntheticEngine(SyntheticSpec.model_validate({"profile": "h100", "kv_blocks": 100_000}))
        await asyncio.gather(*(arrivals(engine, 1, 500) for _ in range(256)))
        return engine.figures().output_tokens / asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(12_500, rel=0.02)
