"""What the synthetic engine pretends to be: its speed, its size, and how it fails."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SyntheticSpec(BaseModel):
    """How fast the synthetic engine pretends to be. All times are per request, in milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_ms: Annotated[float, Field(ge=0, description="From leaving the queue to the first token.")] = 50.0
    tpot_ms: Annotated[float, Field(ge=0, description="Between two tokens after the first.")] = 5.0
    max_running: Annotated[int, Field(ge=1, description="Requests that produce tokens at once; others wait.")] = 16
    max_waiting: Annotated[
        int, Field(ge=0, description="Requests that may wait; one more is answered 503 with Retry-After.")
    ] = 256
