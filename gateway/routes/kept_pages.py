"""What callers may do with the responses that are kept of theirs: see, list what they answered, delete.

Answers are OpenAI's: platform.openai.com/docs/api-reference/responses/{get,delete,cancel,input-items}.
"""

import asyncio

import msgspec
from fastapi import FastAPI, Request, Response

from gateway.auth.base import Authenticator
from gateway.config.snapshot import Current
from gateway.errors import ErrorKind, GatewayError
from gateway.formats.responses.items import list_items, page_of
from gateway.kept.responses import Kept, ResponseStore


class KeptPages:
    """Answers them."""

    def __init__(self, current: Current, authenticator: Authenticator, store: ResponseStore) -> None:
        self._current = current
        self._authenticator = authenticator
        self._store = store

    async def show_response(self, request: Request, response_id: str) -> Response:
        """Show a response that is kept of this key."""
        kept = await self._kept(request, response_id)
        if request.query_params.get("stream") == "true":
            sentence = "Only what runs in the background can be streamed later; leave 'stream' out."
            raise GatewayError(ErrorKind.INVALID_REQUEST, sentence, param="stream")
        return _json(bytes(kept.response))

    async def list_input_items(self, request: Request, response_id: str) -> Response:
        """List the items that a response was the answer to, a page at a time."""
        page = page_of(request.query_params)
        kept = await self._kept(request, response_id)
        return _json(await asyncio.to_thread(list_items, response_id, bytes(kept.input), page))

    async def delete_response(self, request: Request, response_id: str) -> Response:
        """Delete a response; those that went on from it stay."""
        key_id = await self._key_id(request)
        if not await self._store.forget(key_id, response_id):
            raise self._unknown()
        return _json(msgspec.json.encode({"id": response_id, "object": "response", "deleted": True}))

    async def cancel_response(self, request: Request, response_id: str) -> Response:
        """Refuse to cancel a response: none runs in the background."""
        await self._kept(request, response_id)
        sentence = "Only a response that runs in the background can be cancelled; hang up on any other."
        raise GatewayError(ErrorKind.INVALID_REQUEST, sentence)

    async def _kept(self, request: Request, response_id: str) -> Kept:
        kept = await self._store.find(await self._key_id(request), response_id)
        if kept is None:
            raise self._unknown()
        return kept

    async def _key_id(self, request: Request) -> str:
        principal = await self._authenticator.authenticate(request.headers, self._current.snapshot.keys)
        if not self._store.is_on:
            raise self._unknown()
        return principal.key_id

    def _unknown(self) -> GatewayError:
        why = "or no longer" if self._store.is_on else "for none are kept (responses.keep is 0)"
        return GatewayError(ErrorKind.NOT_FOUND, f"This key has no such response here, {why}.")


def add_kept_pages(api: FastAPI, pages: KeptPages) -> None:
    """Add them; the first line of each docstring is its summary in ``/docs``."""
    path = "/v1/responses/{response_id}"
    api.get(path, tags=["responses"])(pages.show_response)
    api.delete(path, tags=["responses"])(pages.delete_response)
    api.get(f"{path}/input_items", tags=["responses"])(pages.list_input_items)
    api.post(f"{path}/cancel", tags=["responses"])(pages.cancel_response)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
