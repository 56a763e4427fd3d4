"""What is authentic, written down a second time from the providers' documents: the oracle of the verifiers.

Slow and plain on purpose, and it shares no line with ingest: what both accept is accepted for the same reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

Headers = Mapping[bytes, bytes]
#: One secret for every channel, in the form that `events` wants.
SECRET_BYTES = b"a fuzzer knows this one as well.."
SECRET = "whsec_" + base64.b64encode(SECRET_BYTES).decode()
PLAIN = SECRET.encode()


def signed(channel: str, body: bytes, unix_seconds: int, webhook_id: bytes = b"msg_1") -> dict[bytes, bytes]:
    """The headers that prove `body`. For VK there are none: its secret stands in the body."""
    match channel:
        case "calcom":
            return {b"x-cal-signature-256": _hex(body)}
        case "telegram":
            return {b"x-telegram-bot-api-secret-token": PLAIN}
        case "whatsapp" | "instagram":
            return {b"x-hub-signature-256": b"sha256=" + _hex(body)}
        case "max":
            return {b"x-max-bot-api-secret": PLAIN}
        case "vk":
            return {}
        case "events":
            at = b"%d" % unix_seconds
            return {
                b"webhook-id": webhook_id,
                b"webhook-timestamp": at,
                b"webhook-signature": b"v1," + _standard(webhook_id, at, body),
            }
    raise ValueError(f"no document is known for {channel}")


def authentic(channel: str, headers: Headers, body: bytes, unix_seconds: float) -> bool:
    """Whether a provider that knows the secret can have sent this."""
    match channel:
        case "calcom":
            return headers.get(b"x-cal-signature-256", b"").strip().lower() == _hex(body)
        case "telegram":
            return headers.get(b"x-telegram-bot-api-secret-token") == PLAIN
        case "whatsapp" | "instagram":
            return headers.get(b"x-hub-signature-256", b"").strip().lower() == b"sha256=" + _hex(body)
        case "max":
            return headers.get(b"x-max-bot-api-secret") == PLAIN
        case "vk":
            return _vk_secret(body) == SECRET
        case "events":
            return _standard_holds(headers, body, unix_seconds)
    raise ValueError(f"no document is known for {channel}")


def _hex(body: bytes) -> bytes:
    return hmac.new(PLAIN, body, hashlib.sha256).hexdigest().encode()


def _standard(webhook_id: bytes, at: bytes, body: bytes) -> bytes:
    return base64.b64encode(hmac.new(SECRET_BYTES, webhook_id + b"." + at + b"." + body, "sha256").digest())


def _standard_holds(headers: Headers, body: bytes, unix_seconds: float) -> bool:
    webhook_id, at = headers.get(b"webhook-id", b""), headers.get(b"webhook-timestamp", b"")
    if not webhook_id or not at.isdigit() or len(at) > 12 or abs(unix_seconds - int(at)) > 300:
        return False
    given = headers.get(b"webhook-signature", b"").split()
    return b"v1," + _standard(webhook_id, at, body) in given


def _vk_secret(body: bytes) -> object:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value.get("secret") if isinstance(value, dict) else None
