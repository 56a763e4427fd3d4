"""The mock providers' application: their APIs, the admin API, and the operations routes of every service."""

from __future__ import annotations

from aiohttp import web

from turnout_common.clock import Clock
from turnout_mock_providers.admin import Admin
from turnout_mock_providers.behaviours import Behaviours
from turnout_mock_providers.ledger import Ledger
from turnout_mock_providers.providers import all_providers
from turnout_mock_providers.providers.provider import Backstage


def create_app(clock: Clock, tokens: frozenset[str] | None = None) -> web.Application:
    """A fresh set of providers that have sent nothing. `tokens`: those that exist, None = every well-formed one."""
    backstage = Backstage(Ledger(int(clock.now().timestamp())), Behaviours(), clock, tokens)
    providers = all_providers(backstage)
    app = web.Application()
    app.add_routes(Admin(backstage, providers).routes())
    for provider in providers:
        app.add_routes(provider.routes())
    app.add_routes(_operations(backstage))
    return app


def _operations(backstage: Backstage) -> list[web.RouteDef]:
    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "service": "mock-providers"})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "faults": {}})

    async def status(_request: web.Request) -> web.Response:
        sent, calls = backstage.ledger.counts
        return web.json_response({"accepted": sent, "calls": calls})

    return [web.get("/health", health), web.get("/ready", ready), web.get("/status", status)]
