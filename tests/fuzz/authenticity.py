"""What is authentic, written down a second time from the providers' documents: the oracle of the verifiers.

Slow and plain on purpose, and it shares no line with ingest: what both accept is accepted for the same reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Headers = Mapping[bytes, bytes]
#: One secret for every channel, in the form that `events` wants.
SECRET_BYTES = b"a fuzzer knows this one as well.."
SECRET = "whsec_" + base64.b64encode(SECRET_BYTES).decode()
PLAIN = SECRET.encode()
#: The key of a sender of `events` that signs by v1a, and its public half as a tenant sets it.
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"and a sender's own, for v1a too.")
PUBLIC_BYTES = PRIVATE.public_key().public_bytes_raw()
PUBLIC = "whpk_" + base64.b64encode(PUBLIC_BYTES).decode()
#: Somebody else's key.
STRANGER = Ed25519PrivateKey.from_private_bytes(b"the key of one whom nobody knows")
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def signed(channel: str, body: bytes, unix_seconds: int, webhook_id: bytes = b"msg_1") -> dict[bytes, bytes]:
    """The headers that prove `body`, by the shared secret. For VK there are none: its secret stands in the body."""
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
            return _standard_headers(webhook_id, at, b"v1," + _standard(SECRET_BYTES, webhook_id, at, body))
    raise ValueError(f"no document is known for {channel}")


def signed_v1a(
    body: bytes, unix_seconds: int, key: Ed25519PrivateKey = PRIVATE, webhook_id: bytes = b"msg_1"
) -> dict[bytes, bytes]:
    """As `signed` for `events`, by a sender's own key."""
    at = b"%d" % unix_seconds
    signature = base64.b64encode(key.sign(webhook_id + b"." + at + b"." + body))
    return _standard_headers(webhook_id, at, b"v1a," + signature)


def signed_by_all(body: bytes, unix_seconds: int, webhook_id: bytes = b"msg_1") -> dict[bytes, bytes]:
    """A v1 signature for which the public key, which everybody knows, was taken as a shared secret."""
    at = b"%d" % unix_seconds
    return _standard_headers(webhook_id, at, b"v1," + _standard(PUBLIC_BYTES, webhook_id, at, body))


def authentic(
    channel: str, headers: Headers, body: bytes, unix_seconds: float, secrets: Collection[str] = (SECRET,)
) -> bool:
    """Whether a provider that knows one of the secrets can have sent this. `events` alone has others than `SECRET`."""
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
            return _standard_holds(headers, body, unix_seconds, secrets)
    raise ValueError(f"no document is known for {channel}")


def _hex(body: bytes) -> bytes:
    return hmac.new(PLAIN, body, hashlib.sha256).hexdigest().encode()


def _standard(key: bytes, webhook_id: bytes, at: bytes, body: bytes) -> bytes:
    return base64.b64encode(hmac.new(key, webhook_id + b"." + at + b"." + body, "sha256").digest())


def _standard_headers(webhook_id: bytes, at: bytes, signature: bytes) -> dict[bytes, bytes]:
    return {b"webhook-id": webhook_id, b"webhook-timestamp": at, b"webhook-signature": signature}


def _standard_holds(headers: Headers, body: bytes, unix_seconds: float, secrets: Collection[str]) -> bool:
    webhook_id, at = headers.get(b"webhook-id", b""), headers.get(b"webhook-timestamp", b"")
    if not webhook_id or not at.isdigit() or len(at) > 12 or abs(unix_seconds - int(at)) > 300:
        return False
    given = headers.get(b"webhook-signature", b"").split()
    if SECRET in secrets and b"v1," + _standard(SECRET_BYTES, webhook_id, at, body) in given:
        return True
    # Ed25519 gives a message one signature: whoever has the key writes this one, and nobody else can.
    genuine = b"v1a," + base64.b64encode(PRIVATE.sign(webhook_id + b"." + at + b"." + body))
    return PUBLIC in secrets and any(_is_the_same_base64(genuine, each) for each in given)


def _is_the_same_base64(genuine: bytes, given: bytes) -> bool:
    """64 bytes fill 85 letters and two bits of the next; what stands in its other four is nothing that was signed."""
    if len(given) != len(genuine) or given[:-3] != genuine[:-3] or given[-2:] != b"==":
        return False
    return given[-3] in BASE64 and BASE64.index(given[-3]) >> 4 == BASE64.index(genuine[-3]) >> 4


def _vk_secret(body: bytes) -> object:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value.get("secret") if isinstance(value, dict) else None
