"""How models behave in ``tollway simulate``: the section ``simulation`` of the configuration.

Defaults of a provider are what 7,052 recorded calls of Claude Opus 4.5 show (github.com/callanjfox/kv-cache-tester,
``traces``, July 2026: TTFT a line over uncached and all tokens, its spread and its likeness from turn to turn), and
what Anthropic documents of its prompt cache (platform.claude.com/docs/en/build-with-claude/prompt-caching). Those of a
replica are an engine of the size of an 8B model on one GPU: llm-d's default for its prefill rate (15,928 tokens/s), and
vLLM's defaults of a step's tokens and requests.
"""

from typing import Annotated

from pydantic import Field, model_validator

from gateway.config.fields import Count, Milliseconds, Number, Seconds
from gateway.config.section import Section

NotNegative = Annotated[float, Number, Field(ge=0, le=86_400_000)]
Spread = Annotated[float, Number, Field(ge=0, le=3)]


class EpisodeSection(Section):
    """A time in which a provider is slower, or answers nothing."""

    from_s: NotNegative = Field(description="When it begins, in seconds from the first request.")
    to_s: NotNegative = Field(description="When it ends.")
    slower: Annotated[float, Number, Field(ge=0.01, le=1000)] = Field(
        default=1, description="By how much TTFT and TPOT are multiplied."
    )
    status: Annotated[int, Number, Field(ge=400, le=599)] | None = Field(
        default=None, description="Answer every request with this status: `503` is an outage."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "EpisodeSection":
        if self.to_s <= self.from_s:
            raise ValueError("to_s should be after from_s")
        return self


class SimulatedProviderSection(Section):
    """A provider's model: TTFT is a line over the prompt, times a spread that stays alike for a while."""

    ttft_ms: NotNegative = Field(default=2290, description="Time to first token of an empty prompt, in ms.")
    ttft_ms_per_1k_uncached: NotNegative = Field(
        default=13, description="What 1,000 tokens add that the prompt cache does not have, in ms."
    )
    ttft_ms_per_1k_input: NotNegative = Field(default=3, description="What any 1,000 tokens add, in ms.")
    ttft_spread: Spread = Field(
        default=0.35, description="Standard deviation of the logarithm: 0.35 is a p90 of 1.56 times the median."
    )
    alike: Annotated[float, Number, Field(ge=0, le=1)] = Field(
        default=0.6, description="The part of that spread that all calls of a time have in common."
    )
    alike_s: Seconds = Field(default=60, description="In how many seconds what they have in common falls to 1/e.")
    tpot_ms: NotNegative = Field(default=17.9, description="Time per output token, in ms.")
    tpot_spread: Spread = Field(default=0.21, description="Standard deviation of its logarithm.")
    requests_per_minute: Count | None = Field(
        default=None, description="The provider's limit; then 429. Default: none."
    )
    input_tokens_per_minute: Count | None = Field(
        default=None, description="Its limit on tokens read that are not cached; then 429. Default: none."
    )
    cache_minimum_tokens: Annotated[int, Number, Field(ge=0, le=1_000_000_000)] = Field(
        default=1024, description="Prompts that are shorter are not cached."
    )
    cache_lifetime_s: Annotated[float, Number, Field(ge=0, le=31_536_000)] = Field(
        default=300, description="How long a prompt stays cached after its last use; 0: nothing is cached."
    )
    episodes: tuple[EpisodeSection, ...] = Field(default=(), description="Times in which it is slower, or away.")


class SimulatedReplicaSection(Section):
    """A replica of an own model: it reads prompts one after another and writes all answers in steps."""

    replicas: Annotated[int, Number, Field(ge=0, le=1000)] = Field(
        default=1, description="How many there are at the beginning. At 0, the first request starts one."
    )
    start_s: Seconds = Field(default=60, description="How long a replica takes to start.")
    prefill_tokens_per_s: Count = Field(default=15_928, description="Prompt tokens that are read in a second.")
    step_ms: Milliseconds = Field(default=8, description="A step that writes a token of each answer takes this, in ms.")
    step_ms_per_running: NotNegative = Field(default=0.1, description="And this for each answer that is written.")
    step_prompt_tokens: Count = Field(default=2048, description="Prompt tokens that are read in one step beside that.")
    max_running: Count = Field(default=256, description="Requests that are worked on at a time; others wait.")
    max_waiting: Count = Field(default=256, description="Requests that wait; one more is answered 503.")
    kv_tokens: Count = Field(
        default=400_000, description="Tokens that fit into memory: those of running requests, and as many cached ones."
    )


class SimulatedModelSection(Section):
    """How one model behaves in `tollway simulate`."""

    provider: SimulatedProviderSection | None = Field(default=None, description="If it is a provider's.")
    replica: SimulatedReplicaSection | None = Field(default=None, description="If it runs on own hardware.")
