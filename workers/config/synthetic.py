"""The settings of the synthetic engine: its speed, its size, and how it fails.

The profiles are one GPU with Llama 3.1 8B in bfloat16 on vLLM, approximately: good for the shape of a curve, not for a
purchase. Where the figures come from:

- The step of a batch of one: A100 40GB, 75 tokens/s (johnmusgrave.com, "vLLM throughput-latency sweep on NVIDIA A100",
  vLLM 0.23); H100 80GB, TPOT p50 6.48 ms, TTFT p50 14 ms with short prompts (yobitelcomm.github.io/bench, "concurrency
  sweep", vLLM 0.21). L4: no measurement was found, so 16 GB of weights at 77% of its 300 GB/s, the part of the memory's
  speed that the first source states for the A100.
- TTFT without load: the H100's 14 ms, in the proportion of the steps for the others.
- What a further request adds to a step: its keys and values are read, 128 KiB a token (32 layers, 8 heads of 128,
  twice, 2 bytes) of 1,024 tokens, at 77% of 1,555, 3,350 and 300 GB/s. 256 requests on an H100 then make 12,500
  tokens/s, which morphllm.com/vllm-benchmarks gives as its peak.
- Reading prompts: 16 GFLOP a token at half of the data sheets' dense 312, 989 and 121 TFLOP/s. An estimate.
- The cache: 90% of 40, 80 and 24 GB less weights and 2 GB for the rest, in blocks of 16 tokens.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workers.config.fields import Strict

_GPU = {"max_running": 256, "max_batched_tokens": 8192}
_PROFILES: dict[str, dict[str, float]] = {
    "a100": _GPU
    | {"ttft_ms": 29, "tpot_ms": 13.3, "tpot_per_request_ms": 0.11, "prefill_tokens_per_s": 9_700, "kv_blocks": 8_600},
    "h100": _GPU
    | {
        "ttft_ms": 14,
        "tpot_ms": 6.5,
        "tpot_per_request_ms": 0.055,
        "prefill_tokens_per_s": 31_000,
        "kv_blocks": 25_700,
    },
    "l4": _GPU
    | {"ttft_ms": 150, "tpot_ms": 70, "tpot_per_request_ms": 0.58, "prefill_tokens_per_s": 3_800, "kv_blocks": 1_700},
}


class FaultsSpec(Strict):
    """How the synthetic engine fails, always at the same places; nothing fails unless it is asked for."""

    fail_every: Annotated[int | None, Field(ge=1, description="Each so many-th request is answered 500.")] = None
    cut_after_tokens: Annotated[
        int | None, Field(ge=0, description="Answers break off after so many tokens: the connection closes.")
    ] = None
    stall_after_tokens: Annotated[
        int | None, Field(ge=0, description="Answers stop after so many tokens and hold their place until left.")
    ] = None
    crash_after_requests: Annotated[
        int | None, Field(ge=0, description="The request after so many ends the whole process, without a word.")
    ] = None


class SyntheticSpec(Strict):
    """How fast and how large the synthetic engine pretends to be. A profile sets what is not said beside it."""

    profile: Annotated[
        Literal["a100", "h100", "l4"] | None,
        Field(description="One GPU with an 8B model in bfloat16, approximately."),
    ] = None
    ttft_ms: Annotated[
        float, Field(ge=0, description="From leaving the queue to the first token, before the prompt's length counts.")
    ] = 50.0
    tpot_ms: Annotated[float, Field(ge=0, description="A step: each running request makes a token in it.")] = 5.0
    tpot_per_request_ms: Annotated[
        float, Field(ge=0, description="What each running request after the first adds to a step.")
    ] = 0.0
    prefill_tokens_per_s: Annotated[
        float | None,
        Field(gt=0, description="How fast prompts are read; it lengthens the steps. Without it they take no time."),
    ] = None
    max_running: Annotated[int, Field(ge=1, description="Requests that produce tokens at once; others wait.")] = 16
    max_batched_tokens: Annotated[
        int, Field(ge=1, description="Tokens of one step, read and made; longer prompts take several steps.")
    ] = 8192
    max_waiting: Annotated[
        int, Field(ge=0, description="Requests that may wait; one more is answered 503 with Retry-After.")
    ] = 256
    kv_blocks: Annotated[int, Field(ge=1, description="Blocks of the KV cache; requests wait when it is full.")] = 8192
    block_size: Annotated[int, Field(ge=1, description="Tokens of a block.")] = 16
    prefix_caching: Annotated[bool, Field(description="Whether prompts that begin alike are read once.")] = True
    natural_tokens: Annotated[int, Field(ge=1, description="Tokens after which an answer ends by itself.")] = 64
    embedding_size: Annotated[int, Field(ge=1, description="Numbers of an embedding.")] = 384
    start_s: Annotated[float, Field(ge=0, description="How long starting takes.")] = 0.0
    faults: FaultsSpec = FaultsSpec()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, given: Any) -> Any:
        # A profile that does not exist is left to the field's own check.
        name = given.get("profile") if isinstance(given, dict) else None
        return _PROFILES[name] | given if isinstance(name, str) and name in _PROFILES else given
