"""GET /health, /ready, /metrics and /status, the same on every service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Gives what is not ready, by name, in words for the operator; empty when all is well.
Readiness = Callable[[], Awaitable[dict[str, str]]]
Status = Callable[[], Awaitable[dict[str, Any]]]


def health_router(service: str, readiness: Readiness, status: Status) -> APIRouter:
    """`/health`: the process answers. `/ready`: its dependencies do, else 503 with what does not. `/status`: figures
    for `turnout status` (lag, accepted, events, freshness_seconds, where the service has them)."""
    router = APIRouter(tags=["operations"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "service": service}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        faults = await readiness()
        return JSONResponse({"ready": not faults, "faults": faults}, status_code=503 if faults else 200)

    @router.get("/status")
    async def figures() -> dict[str, Any]:
        return await status()

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
