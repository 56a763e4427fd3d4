"""The demo tenant `default` of the development profile: channels with fixed, well-known secrets, on loopback only."""

from __future__ import annotations

import base64

import asyncpg

from turnout_cli.demo_salon import demo_salon
from turnout_common.security import read_master_key
from turnout_common.tenants import (
    TenantExists,
    TenantSettings,
    create_api_token,
    create_tenant,
    set_channel,
)

DEMO_TENANT = "default"
DEMO_TIMEZONE = "Europe/Berlin"
DEMO_CURRENCY = "EUR"
DEMO_SECRETS = {
    "calcom": "demo-calcom-secret",
    "telegram": "demo-telegram-secret",
    "events": "whsec_" + base64.b64encode(b"demo-standard-webhooks-secret-00").decode(),
}
DEMO_TELEGRAM_TOKEN = "100000001:demo-telegram-bot-token"


async def ensure_demo_tenant(dsn_platform: str, master_key: str) -> str:
    """Creates the demo tenant once, and gives a new owner token for it at every call.

    `dsn_platform` is a DSN of role turnout_platform, `master_key` the key's base64 text.
    """
    key = read_master_key(master_key, None)
    connection = await asyncpg.connect(dsn_platform)
    try:
        try:
            await create_tenant(
                connection,
                key,
                DEMO_TENANT,
                DEMO_TIMEZONE,
                currency=DEMO_CURRENCY,
                settings=demo_settings(),
                demo=True,
                actor="up",
            )
        except TenantExists:
            pass
        else:
            for channel, secret in DEMO_SECRETS.items():
                token = DEMO_TELEGRAM_TOKEN if channel == "telegram" else None
                await set_channel(
                    connection, key, DEMO_TENANT, channel, secret=secret, api_token=token, actor="up"
                )
        return await create_api_token(connection, DEMO_TENANT, "owner", label="demo", actor="up")
    finally:
        await connection.close()


def demo_settings() -> TenantSettings:
    """Who Cal.com's organizers and event types are in the demo salon."""
    salon = demo_salon(DEMO_TIMEZONE, DEMO_CURRENCY)
    return TenantSettings(staff_map=salon.staff_map, service_map=salon.service_map)
