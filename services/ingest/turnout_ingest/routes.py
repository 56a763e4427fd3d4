"""From a path or an account to a tenant's channel, from memory: made ready once per version of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from turnout_common.events.values import Channel
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import Tenant
from turnout_ingest.limits import Bucket
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import ChannelContext, Provider
from turnout_ingest.settings import IngestSettings

log = structlog.get_logger()
#: Below this a secret can be guessed at the rate that we answer at. It is the tenant's, so it is told and not refused.
LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Route:
    """A tenant's channel. `bucket` is shared by the tenant's channels; None where requests are not limited."""

    tenant: Tenant
    provider: Provider
    context: ChannelContext
    bucket: Bucket | None


class Routes:
    """All usable channels of all tenants."""

    def __init__(self, directory: TenantDirectory, settings: IngestSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._made: dict[tuple[str, str], Route] = {}
        self._buckets: dict[str, Bucket] = {}

    def of(self, channel: str, tenant_id: str) -> Route | None:
        """The tenant's channel; None when either is unknown, switched off or suspended."""
        tenant = self._directory.get(tenant_id)
        route = self._made.get((channel, tenant_id))
        if route is not None and route.tenant is tenant:
            return route
        self._made.pop((channel, tenant_id), None)
        made = self._make(channel, tenant) if tenant else None
        if made is not None:
            self._made[channel, tenant_id] = made
        return made

    def of_account(self, channel: str, routing_id: str) -> Route | None:
        """The channel of the tenant to whom the provider's account belongs."""
        tenant = self._directory.by_routing_id(channel, routing_id)
        return self.of(channel, tenant.tenant_id) if tenant is not None else None

    def all_of(self, channel: str) -> Iterator[Route]:
        """The channel of every tenant that has it."""
        for tenant in self._directory.all():
            route = self.of(channel, tenant.tenant_id)
            if route is not None:
                yield route

    def _make(self, channel: str, tenant: Tenant) -> Route | None:
        provider, configured = PROVIDERS.get(channel), tenant.channels.get(channel)
        if provider is None or configured is None or tenant.keys is None:
            return None
        if not tenant.active or not configured.enabled:
            return None
        if any(0 < len(secret) < LEAST_SECRET for secret in configured.secrets):
            log.warning(
                "a channel's secret is short: set a longer one", tenant_id=tenant.tenant_id, channel=channel
            )
        secrets = [form for secret in configured.secrets if secret for form in provider.secret_bytes(secret)]
        context = ChannelContext(
            tenant_id=tenant.tenant_id,
            channel=Channel(channel),
            secrets=tuple(secrets),
            keys=tenant.keys,
            routing_id=configured.routing_id,
            handshake=configured.handshake.encode() if configured.handshake else None,
            strict_schema=self._settings.strict_inbound_schema,
            strict_tenant=self._settings.strict_tenant_config,
        )
        return Route(tenant, provider, context, self._bucket(provider, tenant.tenant_id))

    def _bucket(self, provider: Provider, tenant_id: str) -> Bucket | None:
        rate = self._settings.tenant_requests_per_second / self._settings.workers
        if not rate or not provider.sends_again:
            return None
        burst = max(1.0, self._settings.tenant_request_burst / self._settings.workers)
        return self._buckets.setdefault(tenant_id, Bucket(rate, burst))
