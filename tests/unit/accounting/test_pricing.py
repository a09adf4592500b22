"""Money, to the nano-dollar; with the cases in which peers got it wrong."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.pricing import cost_nano_usd, hardware_cost_nano_usd, price_of
from gateway.tariff import Rates, Usage

USD = 10**9


def test_cached_tokens_cost_the_cached_price() -> None:
    """The figures of litellm #31714, of the same kind as #11789: 27,146 of 27,147 prompt tokens came from the cache."""
    rates = Rates(
        input_nano_usd_per_mtok=1_400_000_000,
        cached_input_nano_usd_per_mtok=260_000_000,
        output_nano_usd_per_mtok=4_400_000_000,
    )
    assert cost_nano_usd(Usage(input_tokens=1, cached_input_tokens=27_146, output_tokens=351), rates) == 8_603_760


def test_cache_writes_are_billed_once() -> None:
    """The figures of litellm #9812: $0.054399 by the provider's own console, where $0.091311 was computed."""
    rates = price_of("anthropic", "claude-3-7-sonnet-20250219")
    assert rates is not None
    assert cost_nano_usd(Usage(input_tokens=3, cache_write_tokens=12_304, output_tokens=550), rates) == 54_399_000


def test_reasoning_tokens_are_billed() -> None:
    """Litellm #10567: hidden reasoning costs what output costs when the book has no price of its own for it."""
    rates = price_of("openai", "gpt-5-mini")
    assert rates is not None
    visible = cost_nano_usd(Usage(output_tokens=100), rates)
    assert cost_nano_usd(Usage(output_tokens=100, reasoning_tokens=900), rates) == 10 * visible


def test_rounding_is_half_up_and_happens_once() -> None:
    """Half a nano-dollar counts as one; two classes of a quarter each do too, for they are added first."""
    assert cost_nano_usd(Usage(input_tokens=1), Rates(input_nano_usd_per_mtok=500_000)) == 1
    assert cost_nano_usd(Usage(input_tokens=1), Rates(input_nano_usd_per_mtok=499_999)) == 0
    quarters = Rates(input_nano_usd_per_mtok=250_000, output_nano_usd_per_mtok=250_000)
    assert cost_nano_usd(Usage(input_tokens=1, output_tokens=1), quarters) == 1


tokens = st.integers(0, 10**9)
rate = st.integers(0, 10**12)


@given(st.builds(Usage, input_tokens=tokens, cached_input_tokens=tokens, output_tokens=tokens), rate, rate, rate, rate)
def test_cost_is_the_sum_of_its_parts(usage: Usage, a: int, b: int, c: int, flat: int) -> None:
    """Each class is billed at its own rate; rounding each apart would differ by less than its number of classes."""
    rates = Rates(
        input_nano_usd_per_mtok=a,
        cached_input_nano_usd_per_mtok=b,
        output_nano_usd_per_mtok=c,
        request_nano_usd=flat,
    )
    exact_times_mtok = usage.input_tokens * a + usage.cached_input_tokens * b + usage.output_tokens * c
    assert abs((cost_nano_usd(usage, rates) - flat) * 10**6 - exact_times_mtok) <= 500_000


def test_own_hardware_costs_its_share_of_the_time() -> None:
    """Half an hour of a replica at $2.50 an hour is $1.25; rates without an hourly price cost no time."""
    rates = Rates(hardware_nano_usd_per_hour=2_500_000_000)
    assert hardware_cost_nano_usd(rates, 1800.0) == 1_250_000_000
    assert hardware_cost_nano_usd(Rates(), 1800.0) == 0


def test_the_price_book_is_resolved_into_flat_rates() -> None:
    """Each class has the book's price, in nano-dollars per million tokens, and the book's version is named."""
    rates = price_of("openai", "gpt-5-mini")
    assert rates is not None
    assert rates.input_nano_usd_per_mtok == USD // 4
    assert rates.cached_input_nano_usd_per_mtok == USD // 40
    assert rates.output_nano_usd_per_mtok == rates.reasoning_nano_usd_per_mtok == 2 * USD
    assert rates.version.startswith("genai-prices/")
    haiku = price_of("anthropic", "claude-haiku-4-5")
    assert haiku is not None
    assert haiku.cache_write_nano_usd_per_mtok == USD * 5 // 4


def test_tiers_give_the_base_and_hours_the_dearest() -> None:
    """Gemini 2.5 Pro is dearer above 200,000 tokens, DeepSeek cheaper by night: a flat rate cannot say either."""
    tiered = price_of("google", "gemini-2.5-pro")
    hourly = price_of("deepseek", "deepseek-chat")
    assert tiered is not None
    assert hourly is not None
    assert tiered.input_nano_usd_per_mtok == USD * 5 // 4
    assert hourly.output_nano_usd_per_mtok == USD * 11 // 10


def test_an_embedding_model_is_priced_by_what_it_reads() -> None:
    """The book has no price for output that there is none of; should there be any, it would not be free."""
    rates = price_of("openai", "text-embedding-3-small")
    assert rates is not None
    assert cost_nano_usd(Usage(input_tokens=1_000_000), rates) == USD // 50
    assert rates.output_nano_usd_per_mtok == rates.input_nano_usd_per_mtok


def test_speech_is_priced_by_its_length() -> None:
    """The book says dollars an hour; ten seconds of whisper-1 are a tenth of a cent."""
    rates = price_of("openai", "whisper-1")
    assert rates is not None
    assert cost_nano_usd(Usage(audio_ms=10_000), rates) == USD // 1000
    assert cost_nano_usd(Usage(audio_ms=5), Rates(audio_nano_usd_per_hour=360_000)) == 1


def test_what_the_book_cannot_price_is_none_rather_than_free() -> None:
    """Unknown names, and a model whose book entry prices no tokens, must not look like free ones."""
    assert price_of("openai", "no-such-model") is None
    assert price_of("no-such-provider", "gpt-5-mini") is None
    assert price_of("openai", "tts-1") is None
    assert price_of("github-copilot", "gpt-4o") is None
