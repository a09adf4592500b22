"""Describes the model routes for ``/docs`` by hand, since they stand beside FastAPI, which does not see them.

What a caller must know of a body, its endpoint says; what is described here is what the gateway adds.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.formats.registry import COUNTING, ENDPOINTS
from gateway.types import Endpoint

_HEADERS = {
    "x-tollway-request-id": "The request's id, for GET /v1/requests/{id}.",
    "x-request-id": "The same, where OpenAI's clients look for it; `request-id` for Anthropic's.",
    "x-tollway-target": "The target that answered.",
    "x-tollway-reason": "Why it was this one.",
    "x-tollway-cost-usd": "What the call cost; without a stream only (with one: its last comment).",
}

_ERRORS = {
    "400": "The body is malformed, or asks for what no target of the route can do.",
    "401": "The key is missing or unknown.",
    "403": "The key may not use this model.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "429": "A limit of the key is reached; Retry-After says when to try again.",
    "503": "No target could answer; Retry-After says when to try again.",
    "504": "The request's total time ran out.",
}


def add_llm_routes(api: FastAPI) -> None:
    """Make ``/openapi.json`` and ``/docs`` list the model routes beside FastAPI's own."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            schema = get_openapi(title=api.title, version=api.version, summary=api.summary, routes=api.routes)
            for endpoint in (*ENDPOINTS, *COUNTING):
                schema["paths"][endpoint.path] = {"post": _operation(endpoint)}
            schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            api.openapi_schema = schema
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign] # FastAPI documents this assignment ("Extending OpenAPI")


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    members = endpoint.schema
    body = {
        "type": "object",
        "required": ["model", next(iter(members))],
        "properties": {
            "model": {"type": "string", "description": "A route, or a model by its own name.", "example": "auto"},
            **members,
        },
        "additionalProperties": True,
    }
    error_schema = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    }
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}
    answer = {"application/json": {"schema": {"type": "object"}}}
    media_type = "multipart/form-data" if "file" in members else "application/json"
    if "file" in members:
        answer["text/plain"] = {"schema": {"type": "string"}}
    if "stream" in members:
        answer["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": endpoint.summary,
        "operationId": endpoint.path.removeprefix("/v1/").replace("/", "-"),
        "tags": ["models"],
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": {media_type: {"schema": body}}},
        "responses": {
            "200": {"description": "The answer, as the target gave it.", "headers": headers, "content": answer},
            **{
                status: {"description": text, "content": {"application/json": {"schema": error_schema}}}
                for status, text in _ERRORS.items()
            },
        },
    }
