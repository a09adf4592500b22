"""The types of single values in the ``workers:`` section, and the subsections that only vLLM reads."""

import re
from datetime import date
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from workers.config.problems import spoken

# By vLLM's name, the field of ``ModelSpec`` that says it. What is not said is left to vLLM.
VLLM_NAMES = {
    "revision": "revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "max_model_len": "max_model_len",
    "kv_cache_memory_bytes": "kv_cache_memory",
    "kv_cache_dtype": "kv_cache_dtype",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enable_prefix_caching": "prefix_caching",
    "enable_chunked_prefill": "chunked_prefill",
    "cpu_offload_gb": "cpu_offload",
    "speculative_config": "speculative",
    "chat_template": "chat_template",
    "tool_call_parser": "tool_parser",
    "reasoning_parser": "reasoning_parser",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "pipeline_parallel",
    "data_parallel_size": "data_parallel",
}

# The GPUs that Ray gives to a replica follow from these.
RANKS = frozenset({"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"})

# What the replica's own server decides.
SERVERS_OWN = frozenset({"model", "served_model_name", "lora_modules", "host", "port", "uds", "api_key", "root_path"})

# Further names are only what a caller writes as `model`: hub ids are common.
_SERVED = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")


def is_local(source: str) -> bool:
    """Return whether a source is a path on this machine, and not a hub id or an address."""
    return source.startswith(("/", "~", "."))


def _absolute(source: str) -> str:
    if not is_local(source):
        return source
    # Made here, where the user's working directory is known: a replica has another.
    try:
        path = Path(source).expanduser().absolute()
        path.resolve().exists()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{source!r} is no path: {error}") from error
    return str(path)


def _served(name: str) -> str:
    if not _SERVED.match(name):
        raise ValueError(f"{name!r} is no name; it begins with a letter or digit and holds only those and . _ : / -")
    return name


Source = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
ServedName = Annotated[str, AfterValidator(_served)]
Size = Annotated[ByteSize, Field(gt=0)]


class Strict(BaseModel):
    """A section: no other keys, no changes, and nothing that YAML has made of what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: object, info: ValidationInfo) -> object:
        kinds = _plain_kinds(cast("Any", cls.model_fields[info.field_name or ""].annotation))
        if isinstance(value, bool) and bool not in kinds and any(issubclass(kind, int | float) for kind in kinds):
            raise ValueError(f"YAML reads this as {str(value).lower()}; write a number")
        if str in kinds and not kinds & {bool, int, float} and isinstance(value, bool | int | float | date):
            raise ValueError(f"YAML reads this as {spoken(value)}; write it in quotes")
        return value


@cache
def _plain_kinds(annotation: Any) -> frozenset[type]:
    """Return the plain types that an annotation takes at its top."""
    if get_origin(annotation) is Literal:
        return frozenset(map(type, get_args(annotation)))
    if isinstance(annotation, type):
        return frozenset({annotation})
    if get_origin(annotation) in (Annotated, Union, UnionType):
        inner = get_args(annotation)
        return frozenset().union(*map(_plain_kinds, inner[:1] if get_origin(annotation) is Annotated else inner))
    return frozenset()


class LoraSpec(Strict):
    """LoRA adapters that share the model's weights; each is called by its own name."""

    adapters: Annotated[
        dict[ServedName, Source], Field(description="Name to directory (absolute, `~` or `./`) or hub id.")
    ] = Field(default_factory=dict)
    at_run_time: Annotated[
        bool,
        Field(
            description="Allow `/v1/load_lora_adapter` at the replica. It loads whatever directory its caller names, "
            "so leave it off where others reach the replicas."
        ),
    ] = False
    max_rank: Annotated[
        Literal[1, 8, 16, 32, 64, 128, 256, 320, 512], Field(description="The largest rank of any adapter.")
    ] = 16
    max_active: Annotated[int, Field(ge=1, le=1_024, description="Different adapters that one batch may use.")] = 1


class SpeculativeSpec(Strict):
    """Speculative decoding: a cheap method drafts tokens, the model verifies several in one step."""

    method: Annotated[
        str | None, Field(description="vLLM's method, such as `ngram`, `eagle3`, `draft_model`; none: from `model`.")
    ] = None
    model: Annotated[Source | None, Field(description="The draft model or head; `ngram` needs none.")] = None
    tokens: Annotated[int, Field(ge=1, le=1_024, description="Tokens drafted per step.")]
    lookup_max: Annotated[
        int | None, Field(ge=1, le=1_024, description="For `ngram`: the longest match in the prompt.")
    ] = None

    @model_validator(mode="after")
    def _has_a_drafter(self) -> Self:
        if self.method is None and self.model is None:
            raise ValueError("say a `method` that needs no model, such as ngram, or the draft `model`")
        return self
