"""Who asks, and for which tenant and member of staff they may. Unknown and forbidden tenants get one answer."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import asyncpg

from turnout_common.security import token_hash
from turnout_common.tenants import Principal, authenticate
from turnout_kpi_api.problems import BadRequest, NotFound, Unauthorized

#: A revoked token is refused after this many seconds at the latest.
CACHE_SECONDS = 30.0
CACHE_TOKENS = 10_000
_BEARER = re.compile(r"^Bearer +([A-Za-z0-9_.~+/-]{1,512}=*) *$", re.IGNORECASE)


@dataclass(frozen=True)
class Scope:
    """What one request may see.

    `staff_id` is the filter; `own_staff_id` is set for a member of staff, whom row-level security confines to it;
    `demo_only` for a caller without a token.
    """

    tenant_id: str
    staff_id: str | None = None
    own_staff_id: str | None = None
    demo_only: bool = False


class Access:
    """Turns an Authorization header into a Scope. A valid token is remembered for CACHE_SECONDS."""

    def __init__(
        self, pool: asyncpg.Pool, *, demo_is_open: bool, seconds: Callable[[], float] = monotonic
    ) -> None:
        self._pool = pool
        self._demo_is_open = demo_is_open
        self._seconds = seconds
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def scope(self, header: str | None, tenant_id: str | None, staff_id: str | None) -> Scope:
        """What the holder of `header` sees of `tenant_id` (their own by default). Raises ProblemError."""
        if header is None:
            return self._without_token(tenant_id, staff_id)
        principal = await self._principal(header)
        allowed = principal.tenant_id or tenant_id
        if allowed is None:
            raise BadRequest("tenantId", "an operator's token holds for all tenants: say which, ?tenantId=…")
        if tenant_id not in (None, allowed):
            raise no_such_tenant()
        if principal.staff_id is not None and staff_id not in (None, principal.staff_id):
            raise no_such_staff()
        return Scope(allowed, principal.staff_id or staff_id, principal.staff_id)

    def _without_token(self, tenant_id: str | None, staff_id: str | None) -> Scope:
        if not self._demo_is_open or tenant_id is None:
            raise missing_token()
        return Scope(tenant_id, staff_id, demo_only=True)

    async def _principal(self, header: str) -> Principal:
        found = _BEARER.match(header)
        if found is None:
            raise Unauthorized("send the header `Authorization: Bearer <token>`", invalid=True)
        token = found.group(1)
        digest = token_hash(token)
        known = self._known.get(digest)
        if known and self._seconds() - known[0] < CACHE_SECONDS:
            return known[1]
        async with self._pool.acquire() as connection:
            principal = await authenticate(connection, token)
        self._remember(digest, principal)
        if principal is None:
            raise Unauthorized("the token is unknown or revoked; the owner can make a new one", invalid=True)
        return principal

    def _remember(self, digest: bytes, principal: Principal | None) -> None:
        self._known.pop(digest, None)
        if principal is not None:
            self._known[digest] = (self._seconds(), principal)
            if len(self._known) > CACHE_TOKENS:
                self._known.popitem(last=False)


def missing_token() -> Unauthorized:
    return Unauthorized("send the header `Authorization: Bearer <token>`", invalid=False)


def no_such_tenant() -> NotFound:
    return NotFound(
        "there is no such tenant for this token", "check tenantId; an owner's token holds for one tenant"
    )


def no_such_staff() -> NotFound:
    return NotFound(
        "there is no such member of staff for this token", "a member of staff sees their own figures only"
    )
