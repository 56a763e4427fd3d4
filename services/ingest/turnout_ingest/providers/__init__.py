"""The registry of providers: one line each."""

from turnout_ingest.providers.calcom import Calcom
from turnout_ingest.providers.provider import Provider
from turnout_ingest.providers.standard_webhooks import StandardWebhooks
from turnout_ingest.providers.telegram import Telegram

PROVIDERS: dict[str, Provider] = {
    provider.channel.value: provider
    for provider in (
        Calcom(),
        StandardWebhooks(),
        Telegram(),
    )
}

__all__ = ["PROVIDERS"]
