"""The time-outs of the configuration: for all upstreams, for one provider, on one route. ``build`` merges the three."""

from typing import TypeVar

from pydantic import Field, model_validator

from gateway.config.fields import Seconds
from gateway.config.section import Section

TimeoutsT = TypeVar("TimeoutsT", "TimeoutsSection", "ProviderTimeoutsSection")


class TimeoutsSection(Section):
    """How long to wait for an upstream, in seconds."""

    connect_s: Seconds = Field(default=2, description="For a connection, the look-up of the host's name included.")
    first_token_s: Seconds = Field(
        default=20,
        description="To the first token; then the next target is tried. A caller who wants no stream is patient for "
        "longer where the answer is expected to take longer, or where no other target is left.",
    )
    idle_s: Seconds = Field(default=15, description="Between two pieces of an answer; then it counts as stalled.")
    total_s: Seconds = Field(default=600, description="For the whole request, over all targets tried.")
    cold_start_s: Seconds = Field(
        default=120, description="For the first replica of an own model, when nothing else can serve the request."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "TimeoutsSection":
        return _reachable(self)


class ProviderTimeoutsSection(Section):
    """How long to wait for one provider, in seconds; what is left out is as in `timeouts`."""

    connect_s: Seconds | None = Field(
        default=None, description="For a connection, the look-up of the host's name included."
    )
    first_token_s: Seconds | None = Field(default=None, description="To the first token.")
    idle_s: Seconds | None = Field(default=None, description="Between two pieces of an answer.")
    total_s: Seconds | None = Field(
        default=None, description="For one attempt here, all of its answer included; within the whole request's time."
    )
    cold_start_s: Seconds | None = Field(default=None, description="For the first replica of an own model.")

    @model_validator(mode="after")
    def _ordered(self) -> "ProviderTimeoutsSection":
        return _reachable(self)


class RouteTimeoutsSection(ProviderTimeoutsSection):
    """How long to wait on one route, in seconds; comes before the provider's, and that before `timeouts`."""

    total_s: Seconds | None = Field(default=None, description="For the whole request, over all targets tried.")


def _reachable(section: TimeoutsT) -> TimeoutsT:
    """Refuse a wait that is longer than the whole. Raises ValueError."""
    for name in ("connect_s", "first_token_s", "idle_s"):
        if section.total_s is not None and (getattr(section, name) or 0) > section.total_s:
            raise ValueError(f"{name} is longer than total_s, so it could never be reached")
    return section
