"""The registry of providers: one line each."""

from turnout_ingest.providers.alias import resolve
from turnout_ingest.providers.calcom import Calcom
from turnout_ingest.providers.instagram import Instagram
from turnout_ingest.providers.max import Max
from turnout_ingest.providers.provider import Provider
from turnout_ingest.providers.standard_webhooks import StandardWebhooks
from turnout_ingest.providers.telegram import Telegram
from turnout_ingest.providers.vk import Vk
from turnout_ingest.providers.whatsapp import WhatsApp

PROVIDERS: dict[str, Provider] = {
    provider.channel.value: provider
    for provider in (
        Calcom(),
        Instagram(),
        Max(),
        StandardWebhooks(),
        Telegram(),
        Vk(),
        WhatsApp(),
    )
}

__all__ = ["PROVIDERS", "resolve"]
