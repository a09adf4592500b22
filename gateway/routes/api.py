"""The FastAPI application, everything that is not relayed: models, past requests, traces, health, metrics, docs."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from msgspec.structs import asdict
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway.accounting.base import Ledger
from gateway.auth.base import Authenticator
from gateway.clock import Ids
from gateway.config.snapshot import Current
from gateway.errors import ErrorKind, GatewayError
from gateway.execution.relay import usd
from gateway.routes.access import foreign
from gateway.routes.docs import docs_page
from gateway.routes.http1_exchange import Refused
from gateway.routes.http1_head import is_anthropics, written
from gateway.routes.openapi import add_llm_routes
from gateway.telemetry.calibration import compare
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from gateway.trace import Sums, Trace, TracedCall
from gateway.types import CallRecord, LedgerEntry, Principal


class Pages:
    """What the application answers."""

    def __init__(
        self,
        *,
        current: Current,
        authenticator: Authenticator,
        ledger: Ledger,
        flush: Callable[[], Awaitable[None]],
        metrics: Metrics,
        unready: Callable[[], list[str]],
        ids: Ids,
        refused: Refused,
    ) -> None:
        self._current = current
        self._authenticator = authenticator
        self._ledger = ledger
        self._flush = flush
        self._metrics = metrics
        self._scraping = asyncio.Lock()  # one at a time: to write out a few MB takes ten times as much
        self._unready = unready
        self._ids = ids
        self._refused = refused

    async def list_models(self, request: Request) -> Response:
        """List the routes and models that this key may use."""
        names = self._visible(await self._principal(request))
        if is_anthropics(request.scope["raw_path"], request.headers):
            ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
            return _json({"data": [_anthropics_model(name) for name in names], "has_more": False, **ends})
        return _json({"object": "list", "data": [_model(name) for name in names]})

    async def show_model(self, request: Request, name: str) -> Response:
        """Show one route or model."""
        principal = await self._principal(request)
        if name not in self._visible(principal):
            sentence = "There is no such model for this key; GET /v1/models lists them."
            raise GatewayError(ErrorKind.MODEL_NOT_FOUND, sentence, param="model")
        return _json(
            _anthropics_model(name) if is_anthropics(request.scope["raw_path"], request.headers) else _model(name)
        )

    async def show_request(self, request: Request, call_id: str) -> Response:
        """Show what a request cost and took, and why it went where it went."""
        principal = await self._principal(request)
        await self._flush()
        found = await self._ledger.find(call_id)
        if found is None or found[0].key_id != principal.key_id:
            sentence = "This key made no request with that id; it is in the header x-tollway-request-id."
            raise GatewayError(ErrorKind.NOT_FOUND, sentence)
        return _json(explain(*found))

    async def show_trace(self, request: Request, trace_id: str) -> Response:
        """Show what the requests with one trace id in their W3C ``traceparent`` did and cost, each and together."""
        principal = await self._principal(request)
        await self._flush()
        trace = await self._ledger.find_trace(trace_id, principal.key_id)
        if trace is None:
            sentence = "No request of this key went to a target with that trace id in its traceparent header."
            raise GatewayError(ErrorKind.NOT_FOUND, sentence)
        return _json(sum_up(trace))

    async def refuse_compact(self) -> Response:
        """Say what to do in place of a compaction by the provider."""
        sentence = "Nothing is compacted here; have a model sum up the items, and send its summary as 'input'."
        raise GatewayError(ErrorKind.UNSUPPORTED, sentence)

    async def refuse_conversations(self) -> Response:
        """Say what to do in place of a conversation that the provider keeps."""
        sentence = "No conversations are kept here; go on from a response by its id as 'previous_response_id'."
        raise GatewayError(ErrorKind.UNSUPPORTED, sentence)

    async def healthz(self) -> Response:
        """Answer that the process is alive."""
        return _json({"status": "ok"})

    async def readyz(self) -> Response:
        """Return whether requests can be served; 503 with the reasons if not."""
        reasons = self._unready()
        return _json({"status": "not ready", "reasons": reasons}, 503) if reasons else _json({"status": "ready"})

    async def show_metrics(self, request: Request) -> Response:
        """Show the Prometheus metrics."""
        await self._permit("metrics", request)
        async with self._scraping:
            written = await asyncio.to_thread(self._metrics.reading())
        return Response(written, headers={"content-type": CONTENT_TYPE})

    async def show_openapi(self, request: Request) -> Response:
        """Describe this API for programs."""
        await self._permit("openapi", request)
        return _json(request.app.openapi())

    async def show_docs(self, request: Request) -> Response:
        """Describe this API for people."""
        await self._permit("docs", request)
        return Response(docs_page(request.app.openapi()), media_type="text/html")

    async def _permit(self, page: str, request: Request) -> None:
        """Raise GatewayError unless the caller may see a page: as configured, or else if local or with a key."""
        snapshot = self._current.snapshot
        access = snapshot.server.pages.get(page)
        if access is None:
            is_local = snapshot.server.is_loopback and not foreign(
                request.headers, request.scope["raw_path"], snapshot.server
            )
            access = "open" if is_local else "key"
        if access == "off":
            raise _not_here(404)
        if access == "key":
            await self._principal(request)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer an error of ours, or an address or method that there is not."""
        allow = {}
        if isinstance(error, HTTPException):
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                allow["allow"] = ", ".join(_methods(request))
            error = _not_here(error.status_code)
        if not isinstance(error, GatewayError):
            raise error
        self._refused(error, error.status)
        body, headers = written(error, request.scope["raw_path"], request.headers, self._ids)
        return Response(
            body, error.status, allow | {str(name, "ascii"): str(value, "ascii") for name, value in headers}
        )

    async def _principal(self, request: Request) -> Principal:
        return await self._authenticator.authenticate(request.headers, self._current.snapshot.keys)

    def _visible(self, principal: Principal) -> list[str]:
        allowed = principal.allowed_models
        return [name for name in self._current.snapshot.routes if allowed is None or name in allowed]


def create_api(pages: Pages, *, version: str) -> FastAPI:
    """Make the application; the first line of each page's docstring is its summary in ``/docs``."""
    api = FastAPI(
        title="Tollway",
        version=version,
        summary="One OpenAI-compatible endpoint in front of many language models.",
        exception_handlers={GatewayError: pages.refuse, HTTPException: pages.refuse},
        docs_url=None,  # FastAPI's pages load their scripts from the internet
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # its address would be made of the caller's Host
    )
    api.get("/v1/models", tags=["models"])(pages.list_models)
    api.get("/v1/models/{name:path}", tags=["models"])(pages.show_model)
    api.post("/v1/responses/compact", include_in_schema=False)(pages.refuse_compact)
    api.api_route("/v1/conversations{_:path}", methods=["DELETE", "GET", "POST"], include_in_schema=False)(
        pages.refuse_conversations
    )
    api.get("/v1/requests/{call_id}", tags=["requests"])(pages.show_request)
    api.get("/v1/traces/{trace_id}", tags=["requests"])(pages.show_trace)
    api.get("/healthz", tags=["operations"])(pages.healthz)
    api.get("/readyz", tags=["operations"])(pages.readyz)
    api.get("/metrics", tags=["operations"])(pages.show_metrics)
    api.get("/openapi.json", include_in_schema=False)(pages.show_openapi)
    api.get("/docs", include_in_schema=False)(pages.show_docs)
    add_llm_routes(api)
    return api


def _methods(request: Request) -> list[str]:
    """Return what all pages at an address take; the framework names the methods of the first one alone."""
    at_address = [each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in at_address for method in route.methods}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _not_here(status: int) -> GatewayError:
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return GatewayError(ErrorKind.METHOD_NOT_ALLOWED, "This address does not take that method; see /docs.")
    return GatewayError(ErrorKind.NOT_FOUND, "There is nothing at this address; see /docs for those that exist.")


def explain(record: CallRecord, entries: tuple[LedgerEntry, ...]) -> dict[str, Any]:
    """Lay out what is known of a call: what it cost and took, what was considered, what dropped out, what was tried."""
    return {
        "object": "tollway.request",
        "id": record.call_id,
        "trace_id": entries[0].trace_id if entries else None,
        "received_at_ns": record.received_at_ns,
        "operation": record.operation,
        "model": record.route,
        "policy_version": record.policy_version,
        "stream": record.stream,
        "outcome": record.outcome,
        "status": record.status,
        "error_kind": record.error_kind,
        "cause": record.cause,
        "target": record.target_id,
        "reason": record.reason,
        "cost_nano_usd": record.cost_nano_usd,
        "cost_usd": usd(record.cost_nano_usd),
        "ttft_ms": record.ttft_ms,
        "tpot_ms": record.tpot_ms,
        "duration_ms": record.duration_ms,
        "overhead_ms": record.overhead_ms,
        "bridged_for": record.bridged_for,
        "left_out": record.left_out,
        "session": record.session,
        "calibration": {
            quantity: {"predicted": predicted, "measured": measured}
            for quantity, (predicted, measured) in compare(record).items()
        },
        "considered": record.considered,
        "dropped": record.dropped,
        "attempts": [asdict(each) | {"usage": asdict(each.usage)} for each in entries],
    }


def sum_up(trace: Trace) -> dict[str, Any]:
    """Lay out a trace: its calls in the order of their arrival, and all of them together."""
    return {
        "object": "tollway.trace",
        "id": trace.trace_id,
        "calls": [_traced(call) for call in trace.calls],
        "has_more": trace.call_count > len(trace.calls),
        "call_count": trace.call_count,
        **_sums(trace.total),
    }


def _traced(call: TracedCall) -> dict[str, Any]:
    return {
        "id": call.call_id,
        "received_at_ns": call.received_at_ns,
        "operation": call.operation,
        "model": call.route,
        "target": call.target_id,
        "outcome": call.outcome,
        "status": call.status,
        "ttft_ms": call.ttft_ms,
        "duration_ms": call.duration_ms,
        **_sums(call),
    }


def _sums(sums: Sums) -> dict[str, Any]:
    usage = {name: getattr(sums, name) for name in Sums.__struct_fields__ if name != "cost_nano_usd"}
    return {
        "cost_nano_usd": sums.cost_nano_usd,
        "cost_usd": usd(sums.cost_nano_usd),
        "total_tokens": sum(count for name, count in usage.items() if name.endswith("_tokens")),
        "usage": usage,
    }


def _anthropics_model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _model(name: str) -> dict[str, Any]:
    # OpenAI's shape; the configuration knows no creation date, and clients want an integer.
    return {"id": name, "object": "model", "created": 0, "owned_by": "tollway"}


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
