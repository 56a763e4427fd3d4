"""The HTTP application: routes, errors, headers, one log line a request. Connects nothing; `main` gives it its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import asyncpg
import structlog
from fastapi import APIRouter, FastAPI, Request, Response

from turnout_common.clock import Clock
from turnout_common.health import health_router
from turnout_kpi_api.auth import Access
from turnout_kpi_api.problems import add_problem_handlers
from turnout_kpi_api.reads import Reads
from turnout_kpi_api.routes import router

log = structlog.get_logger()
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Parts:
    """What the application answers with."""

    reads: Reads
    access: Access
    clock: Clock


def create_app(parts: Parts | None) -> FastAPI:
    """The application. Without its parts it answers nothing, and only describes itself (documents.py)."""
    app = FastAPI(
        title="Turnout KPI API",
        version="1",
        description="Exact, live KPIs of an appointment business. docs/KPIS.md explains each.",
        # Their pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    app.include_router(router)
    app.include_router(_operations(app))
    app.middleware("http")(_log_and_headers)
    add_problem_handlers(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _operations(app: FastAPI) -> APIRouter:
    async def readiness() -> dict[str, str]:
        try:
            await app.state.parts.reads.as_of()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            return {"postgres": f"does not answer as it should: {type(error).__name__}"}
        return {}

    async def status() -> dict[str, Any]:
        parts: Parts = app.state.parts
        as_of = await parts.reads.as_of()
        return {"as_of": as_of, "freshness_seconds": (parts.clock.now() - as_of).total_seconds()}

    return health_router("kpi-api", readiness, status)


async def _log_and_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    started = perf_counter()
    response = await call_next(request)
    response.headers.update(HEADERS)
    if request.url.path.startswith("/kpi"):
        route = request.scope.get("route")
        log.info(
            "request",
            route=getattr(route, "path", None),
            status=response.status_code,
            ms=round((perf_counter() - started) * 1000, 1),
        )
    return response


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, less its own form of validation errors: here they are problems (400)."""
    document = FastAPI.openapi(app)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
