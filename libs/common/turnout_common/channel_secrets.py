"""What a channel's secret and account may look like, by what the providers themselves accept (domain.md A1-A7).

Pure. Promise: what could never verify a webhook, or never belong to an account, is refused in words that do not show it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from secrets import token_bytes

#: Their secret is made by the provider: Meta's app secret, VK's is typed there and here.
MADE_BY_PROVIDER = frozenset({"whatsapp", "instagram", "vk"})
#: Their deliveries name the account that they are for: without knowing it, a strict ingest takes none of their items.
NAME_THEIR_ACCOUNT = frozenset({"whatsapp", "instagram", "vk"})
EVENTS_SECRET = "whsec_"
EVENTS_PUBLIC_KEY = "whpk_"
ED25519_BYTES = 32
_LONGEST = 1024
_IN_A_HEADER = {
    "telegram": (re.compile(r"[A-Za-z0-9_-]{1,256}"), "1 to 256"),
    "max": (re.compile(r"[A-Za-z0-9_-]{5,256}"), "5 to 256"),
}


class BadChannelValue(ValueError):
    """A secret or an account that the provider could not have; the message says what it must be."""


def new_secret(channel: str, random_bytes: Callable[[int], bytes] = token_bytes) -> str:
    """A secret of 256 random bits in the form that the provider takes. Raises BadChannelValue where it makes its own."""
    if channel in MADE_BY_PROVIDER:
        raise BadChannelValue(
            f"{channel} gives the secret itself: change it there and pass it on with --secret"
        )
    raw = random_bytes(32)
    if channel == "events":
        return EVENTS_SECRET + base64.b64encode(raw).decode()
    if channel in _IN_A_HEADER:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return raw.hex()


def require_secret(channel: str, secret: str) -> None:
    """Raises BadChannelValue for a secret with which no delivery could verify."""
    if not 0 < len(secret) <= _LONGEST:
        raise BadChannelValue(f"a secret has 1 to {_LONGEST} characters")
    if channel == "events":
        _require_events_secret(secret)
    elif (form := _IN_A_HEADER.get(channel)) and not form[0].fullmatch(secret):
        raise BadChannelValue(f"a secret of {channel} has {form[1]} characters out of A-Z, a-z, 0-9, _ and -")


def require_routing_id(channel: str, routing_id: str) -> None:
    """Raises BadChannelValue for what is no account of that provider."""
    if channel in NAME_THEIR_ACCOUNT and not (
        routing_id.isascii() and routing_id.isdecimal() and len(routing_id) <= 32
    ):
        raise BadChannelValue(
            f"a routing id of {channel} is a number, as the provider shows it, without a sign"
        )


def _require_events_secret(secret: str) -> None:
    """Standard Webhooks: whsec_ and 24 to 64 bytes, or whpk_ and an Ed25519 public key, in base64, padded or not."""
    for prefix, least, most in ((EVENTS_SECRET, 24, 64), (EVENTS_PUBLIC_KEY, ED25519_BYTES, ED25519_BYTES)):
        if secret.startswith(prefix) and least <= _decoded_length(secret.removeprefix(prefix)) <= most:
            return
    raise BadChannelValue(
        "a secret of events is whsec_ and 24 to 64 bytes in base64, or whpk_ and an Ed25519 public key of 32 bytes"
    )


def _decoded_length(text: str) -> int:
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except ValueError:
        return 0
