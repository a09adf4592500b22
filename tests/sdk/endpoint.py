"""Where the official client is pointed, and how a case is played there: whatever is behind the endpoint."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from openai import AsyncOpenAI, OpenAI


class Endpoint(NamedTuple):
    """Where the client is pointed: all that an app changes."""

    base_url: str
    model: str
    api_key: str = "unused"


Case = Callable[[OpenAI, str], None] | Callable[[AsyncOpenAI, str], Awaitable[None]]
Play = Callable[[Case], Awaitable[None]]


@asynccontextmanager
async def clients(endpoint: Endpoint) -> AsyncIterator[Play]:
    """Make both clients; what is yielded plays a case with the one that its kind of function asks for.

    A blocking client works in a thread of its own, since the gateway may live in the caller's loop.
    """
    settings: dict[str, Any] = {
        "base_url": endpoint.base_url,
        "api_key": endpoint.api_key,
        "max_retries": 0,
        "timeout": 120,
    }
    async with AsyncOpenAI(**settings) as asynchronous:
        with OpenAI(**settings) as blocking:

            async def play(case: Case) -> None:
                use: Callable[..., Any] = case
                if inspect.iscoroutinefunction(use):
                    await use(asynchronous, endpoint.model)
                else:
                    await asyncio.to_thread(use, blocking, endpoint.model)

            yield play
