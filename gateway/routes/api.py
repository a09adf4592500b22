"""The FastAPI application: everything that is not relayed. Models, what became of a request, health, metrics, docs."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from gateway.accounting.base import Ledger
from gateway.auth.base import Authenticator
from gateway.clock import Ids
from gateway.config.snapshot import Current, Snapshot
from gateway.errors import ErrorKind, GatewayError
from gateway.execution.relay import usd
from gateway.routes.openapi import add_llm_routes
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from gateway.types import CallRecord, LedgerEntry, Principal
from gateway.wire.errors import render

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_api(  # noqa: PLR0913 - what the pages show
    *,
    version: str,
    lifespan: Lifespan,
    current: Current,
    authenticator: Authenticator,
    ledger: Ledger,
    metrics: Metrics,
    unready: Callable[[], list[str]],
    ids: Ids,
) -> FastAPI:
    """Make the application; ``unready`` returns sentences that say why requests would fail now, or none."""
    api = FastAPI(
        title="Tollway",
        version=version,
        lifespan=lifespan,
        summary="One OpenAI-compatible endpoint in front of many language models.",
    )

    def error_response(error: GatewayError) -> Response:
        return Response(render("openai", error, ids("req")), error.status, media_type="application/json")

    @api.exception_handler(GatewayError)
    async def gateway_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, GatewayError):
            raise error
        return error_response(error)

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:  # noqa: PLR2004 - an HTTP status
            return error_response(
                GatewayError(ErrorKind.METHOD_NOT_ALLOWED, "This address does not take that method; see /docs.")
            )
        return error_response(
            GatewayError(ErrorKind.NOT_FOUND, "There is nothing at this address; see /docs for those that exist.")
        )

    async def principal_of(request: Request) -> Principal:
        return await authenticator.authenticate(request.headers, current.snapshot.keys)

    @api.get("/v1/models", tags=["models"], summary="List the routes and models that this key may use")
    async def list_models(request: Request) -> Response:
        principal = await principal_of(request)
        return _json({"object": "list", "data": [_model(name) for name in _visible(current.snapshot, principal)]})

    @api.get("/v1/models/{name:path}", tags=["models"], summary="Show one route or model")
    async def show_model(request: Request, name: str) -> Response:
        principal = await principal_of(request)
        if name not in _visible(current.snapshot, principal):
            raise GatewayError(
                ErrorKind.MODEL_NOT_FOUND, "There is no such model for this key; GET /v1/models lists them.", param="model"
            )
        return _json(_model(name))

    @api.get("/v1/requests/{call_id}", tags=["requests"], summary="What a request cost, took, and why it went there")
    async def show_request(request: Request, call_id: str) -> Response:
        principal = await principal_of(request)
        await ledger.flush()
        found = await ledger.find(call_id)
        if found is None or found[0].key_id != principal.key_id:
            raise GatewayError(
                ErrorKind.NOT_FOUND, "This key made no request with that id; it is in the header x-tollway-request-id."
            )
        return _json(explain(*found))

    @api.get("/healthz", tags=["operations"], summary="The process is alive")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @api.get("/readyz", tags=["operations"], summary="Requests can be served; 503 with the reasons if not")
    async def readyz() -> Response:
        reasons = unready()
        return _json({"status": "not ready", "reasons": reasons}, 503) if reasons else _json({"status": "ready"})

    @api.get("/metrics", tags=["operations"], summary="Prometheus metrics")
    async def show_metrics() -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    add_llm_routes(api)
    return api


def explain(record: CallRecord, entries: tuple[LedgerEntry, ...]) -> dict[str, Any]:
    """Lay out what is known of a call: what it cost and took, what was considered, what dropped out, what was tried."""
    return {
        "object": "tollway.request",
        "id": record.call_id,
        "received_at_ns": record.received_at_ns,
        "operation": record.operation,
        "model": record.route,
        "policy_version": record.policy_version,
        "stream": record.stream,
        "outcome": record.outcome,
        "status": record.status,
        "error_kind": record.error_kind,
        "target": record.target_id,
        "reason": record.reason,
        "cost_nano_usd": record.cost_nano_usd,
        "cost_usd": usd(record.cost_nano_usd),
        "ttft_ms": record.ttft_ms,
        "tpot_ms": record.tpot_ms,
        "duration_ms": record.duration_ms,
        "overhead_ms": record.overhead_ms,
        "considered": record.considered,
        "dropped": record.dropped,
        "attempts": entries,
    }


def _visible(snapshot: Snapshot, principal: Principal) -> list[str]:
    allowed = principal.allowed_models
    return [name for name in snapshot.routes if allowed is None or name in allowed]


def _model(name: str) -> dict[str, Any]:
    # OpenAI's shape; the configuration knows no creation date, and clients want an integer.
    return {"id": name, "object": "model", "created": 0, "owned_by": "tollway"}


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
