"""The base class of every section of the configuration file."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
