"""What a mocked provider is: routes of its API, and how to send its webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from turnout_common.clock import Clock
from turnout_mock_providers.behaviours import Behaviours
from turnout_mock_providers.ledger import Ledger


@dataclass(frozen=True)
class Backstage:
    """What all providers share. `tokens`: those that exist, None = every well-formed one."""

    ledger: Ledger
    behaviours: Behaviours
    clock: Clock
    tokens: frozenset[str] | None


@dataclass(frozen=True)
class Webhook:
    """A webhook ready to be posted."""

    headers: dict[str, str]
    body: bytes


class Provider(Protocol):
    """One provider. `name` is its word in the admin API's paths."""

    name: str

    def routes(self) -> list[web.RouteDef]:
        """Its API, as its real clients call it."""
        ...

    def webhook(self, secret: str, told: dict[str, Any]) -> Webhook:
        """What it would post for a client's act, signed with `secret`. Raises ValueError for an act that it cannot do."""
        ...
