"""One callback of an app for many tenants, as Meta has it: which of them a delivery is for, and which it is verified for.

In: a body that nobody has verified, and the accounts that it names. Out: the routes of the tenants whose own secret
verifies it, and their rows. Nothing of another tenant is stored under a tenant whose secret does not hold. The database
is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from turnout_ingest.acceptance import Row, rows_of
from turnout_ingest.providers.provider import Delivery, Headers, Provider
from turnout_ingest.routes import Route, Routes

#: A delivery is signed with one app's secret. What names tenants of more apps than this is no provider's, and must not
#: make us hash its megabytes for each.
MOST_SECRETS = 16
#: What names no tenant may be of any app, and nobody has verified it: the bytes that we hash for it are bounded, not
#: the apps. It is as much as MOST_SECRETS make of the largest body, so a stranger gains nothing; what Meta sends of
#: templates is below 4 KiB and is compared with 12,000 secrets.
MOST_HASHED = 48 * 1024 * 1024
#: What a comparison costs beside its bytes, in bytes.
LEAST_HASHED = 4096


def addressed(routes: Routes, channel: str, provider: Provider, body: bytes) -> list[Route]:
    """The channels whose accounts the body names, in the order of their ids."""
    found = (routes.of_account(channel, account) for account in sorted(provider.routing_ids(body)))
    return [route for route in found if route is not None]


def verified(
    provider: Provider, named: Sequence[Route], headers: Headers, body: bytes, now: datetime
) -> list[Route]:
    """Those of `named` whose own secrets verify the body; tenants of one app share them, and one look."""
    holds: dict[tuple[bytes, ...], bool] = {}
    for route in named:
        secrets = route.context.secrets
        if secrets not in holds and len(holds) < MOST_SECRETS:
            holds[secrets] = provider.verify(headers, body, secrets, now)
    return [route for route in named if holds.get(route.context.secrets, False)]


def verified_by_an_app(
    provider: Provider, apps: Sequence[Route], headers: Headers, body: bytes, now: datetime
) -> list[Route]:
    """The first of `apps` whose secrets verify a body that names none of them, alone: one app has signed it."""
    left = max(MOST_SECRETS, MOST_HASHED // max(len(body), LEAST_HASHED))
    for route in apps:
        left -= len(route.context.secrets)
        if left < 0:
            break
        if provider.verify(headers, body, route.context.secrets, now):
            return [route]
    return []


def of_apps(routes: Routes, channel: str) -> list[Route]:
    """A tenant for each secret of the channel, the secrets that most tenants share first: whom a delivery is kept under
    that names no account of ours, as Meta sends of templates, by its test button, and of a number that has left us."""
    of_secrets: dict[tuple[bytes, ...], list[Route]] = {}
    for route in sorted(routes.all_of(channel), key=lambda route: route.tenant.tenant_id):
        of_secrets.setdefault(route.context.secrets, []).append(route)
    return [found[0] for found in sorted(of_secrets.values(), key=len, reverse=True)]


def shared_rows(
    provider: Provider, routes: Sequence[Route], headers: Headers, body: bytes, now: datetime
) -> list[Row]:
    """Each tenant's own items. What names an account of none of them, or none at all, is kept under the first."""
    if len(routes) == 1:
        return rows_of(provider, Delivery(routes[0].context, headers, body, now))
    of_account = {route.context.routing_id or "": route.context for route in routes}
    shares = provider.shares(body, list(of_account))
    return [
        row
        for account, share in shares.items()
        for row in rows_of(provider, Delivery(of_account[account], headers, share, now))
    ]
