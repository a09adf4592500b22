"""Configurations that tests begin with, as values to be changed."""

from collections.abc import Mapping
from typing import Any

FREE = "free"


def compatible(url: str) -> dict[str, Any]:
    """Describe a provider that speaks OpenAI's dialect at this origin."""
    return {"type": "openai-compatible", "base_url": f"{url}/v1"}


def one_model(url: str, **route: Any) -> dict[str, Any]:
    """Describe a route ``auto`` with the single model ``scripted``."""
    return {
        "providers": {"upstream": compatible(url)},
        "models": {"scripted": {"provider": "upstream", "price": {"input": 1.0, "output": 2.0}}},
        "routes": {"auto": {"models": ["scripted"], **route}},
    }


def two_models(
    first_url: str, second_url: str, *, timeouts: Mapping[str, float] | None = None, **route: Any
) -> dict[str, Any]:
    """Describe a route ``auto``: the model ``cheap`` at the first origin, ``dear`` at the second."""
    return {
        "providers": {"one": compatible(first_url), "two": compatible(second_url)},
        "models": {
            "cheap": {"provider": "one", "price": {"input": 1.0, "output": 2.0}},
            "dear": {"provider": "two", "price": {"input": 10.0, "output": 20.0}},
        },
        "routes": {"auto": {"models": ["cheap", "dear"], **route}},
        "timeouts": {"first_token_s": 5, "idle_s": 5, "total_s": 20, **(timeouts or {})},
    }
