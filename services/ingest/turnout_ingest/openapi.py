"""The OpenAPI of the webhook routes, by hand, since they are no FastAPI routes: contracts/openapi/ingest.json.

One operation a channel, with what that provider signs, sends and is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from turnout_ingest.providers import PROVIDERS

TEXT = "text/plain"
TENANT = {
    "name": "tenant_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
    "example": "default",
}
QUERY = [
    {"name": "hub.mode", "in": "query", "required": True, "schema": {"const": "subscribe"}},
    {"name": "hub.verify_token", "in": "query", "required": True, "schema": {"type": "string"}},
    {"name": "hub.challenge", "in": "query", "required": True, "schema": {"type": "string"}, "example": "1158201444"},
]  # fmt: skip
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}


@dataclass(frozen=True)
class Documented:
    """What stands in the document of one channel. `headers`: those that sign, with what they hold."""

    title: str
    signed: str
    headers: dict[str, str]
    example: dict[str, Any]
    success: str
    shared: bool = False
    handshake: bool = False


META = {"X-Hub-Signature-256": "`sha256=` and the hex HMAC-SHA256 of the raw body under the app's secret."}
CHANNELS: dict[str, Documented] = {
    "calcom": Documented(
        "Cal.com",
        "The hex HMAC-SHA256 of the raw body under the subscription's secret.",
        {"X-Cal-Signature-256": "The hex HMAC-SHA256 of the raw body."},
        {"triggerEvent": "PING", "createdAt": "2026-11-24T12:00:00.000Z", "payload": {}},
        "Stored durably, or known and not needed.",
    ),
    "telegram": Documented(
        "Telegram Bot API",
        "The `secret_token` of setWebhook, in a header.",
        {"X-Telegram-Bot-Api-Secret-Token": "The secret token."},
        {
            "update_id": 730044,
            "message": {"message_id": 7, "date": 1795521600, "text": "hi", "chat": {"id": 5, "type": "private"}},
        },
        "Stored, ignored or quarantined; empty, since a body would be a call of the Bot API.",
    ),
    "whatsapp": Documented(
        "WhatsApp Cloud API",
        "The HMAC-SHA256 of the raw body under the app's secret. Up to 1,000 updates and three times the size limit.",
        META,
        {"object": "whatsapp_business_account", "entry": []},
        "Each update is stored, ignored or quarantined by itself.",
        shared=True,
        handshake=True,
    ),
    "instagram": Documented(
        "Instagram messaging",
        "The HMAC-SHA256 of the raw body under the app's secret. Up to 1,000 updates and three times the size limit.",
        META,
        {"object": "instagram", "entry": []},
        "Each update is stored, ignored or quarantined by itself.",
        shared=True,
        handshake=True,
    ),
    "vk": Documented(
        "VK Callback API",
        "The field `secret` of the body.",
        {},
        {"type": "confirmation", "group_id": 204733001, "secret": "the secret of the server"},
        "`ok`, or the group's confirmation code for the type `confirmation`.",
        shared=True,
    ),
    "max": Documented(
        "MAX Bot API",
        "The `secret` of the subscription, in a header.",
        {"X-Max-Bot-Api-Secret": "The secret."},
        {"update_type": "bot_started", "timestamp": 1795521600000, "chat_id": 5, "user": {"user_id": 5}},
        "Stored, ignored or quarantined; any other status would be a failure to MAX.",
    ),
    "events": Documented(
        "Standard Webhooks",
        "Standard Webhooks v1 or v1a over `{id}.{timestamp}.{raw body}`, at most 5 minutes old. The catalogue of business "
        "facts is docs/FACTS.md.",
        {
            "webhook-id": "The same for each try; what is sent twice under it is stored once.",
            "webhook-timestamp": "Unix seconds of this try.",
            "webhook-signature": "One or more of `v1,<base64>`, separated by spaces.",
        },
        {"type": "payment.received", "timestamp": "2026-11-24T12:00:00Z", "data": {}},
        "Stored durably.",
    ),
    "vkmax": Documented(
        "VK or MAX, by the shape of the body",
        "As `vk` or `max`: the old name of both.",
        {"X-Max-Bot-Api-Secret": "The secret, for MAX."},
        {"update_type": "bot_started", "timestamp": 1795521600000, "chat_id": 5, "user": {"user_id": 5}},
        "As `vk` or `max`.",
        shared=True,
    ),
}  # fmt: skip


def webhook_paths() -> dict[str, Any]:
    """The path items of all channels."""
    paths: dict[str, Any] = {}
    for channel, what in CHANNELS.items():
        paths[f"/webhooks/{channel}/{{tenant_id}}"] = _path(channel, what, shared=False)
        if what.shared:
            paths[f"/webhooks/{channel}"] = _path(channel, what, shared=True)
    return paths


def security_schemes() -> dict[str, Any]:
    return {
        name: {"type": "apiKey", "in": "header", "name": name, "description": words}
        for what in CHANNELS.values()
        for name, words in what.headers.items()
    }


def _path(channel: str, what: Documented, *, shared: bool) -> dict[str, Any]:
    parameters = [] if shared else [TENANT]
    item: dict[str, Any] = {"post": _post(channel, what, shared=shared)}
    if what.handshake:
        item["get"] = _get(channel, what, shared=shared)
    return ({"parameters": parameters} if parameters else {}) | item


def _post(channel: str, what: Documented, *, shared: bool) -> dict[str, Any]:
    of_all = " One callback for all tenants of an app: each item goes to the tenant whose account it names and whose secret verifies it."
    operation: dict[str, Any] = {
        "tags": ["webhooks"],
        "operationId": f"receive_{channel}" + ("_for_all" if shared else ""),
        "summary": f"Receive a webhook of {what.title}" + (", for all tenants" if shared else ""),
        "description": what.signed
        + (of_all if shared else "")
        + " A success answer is sent after the commit; a repeated delivery gets the same answer as the first.",
        "requestBody": {
            "required": True,
            "description": "The provider's own body.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": what.example}},
        },
        "responses": _answers(channel, what, shared=shared),
    }
    if what.headers and channel != "vkmax":
        operation["security"] = [{name: [] for name in what.headers}]
    return operation


def _get(channel: str, what: Documented, *, shared: bool) -> dict[str, Any]:
    return {
        "tags": ["webhooks"],
        "operationId": f"confirm_{channel}" + ("_for_all" if shared else ""),
        "summary": f"Answer the handshake of {what.title}",
        "description": "Meta checks a callback by its verify token (`turnout tenant channel set --handshake`).",
        "parameters": QUERY,
        "responses": {
            "200": _said("The challenge alone.", TEXT),
            "401": _said("Tenant or channel unknown or suspended."),
            "403": _said("The verify token is another one, or this is no handshake."),
            "404": _said("With STRICT_TENANT_CONFIG off: tenant or channel unknown."),
            "429": _said("Refused too often within a minute.", headers=RETRY_AFTER),
        },
    }


def _answers(channel: str, what: Documented, *, shared: bool) -> dict[str, Any]:
    provider = PROVIDERS.get(channel)
    status = provider.answers.success if provider is not None else 200
    text = TEXT if provider is None or provider.answers.text else None
    answers = {str(status): _said(what.success, text)}
    if provider is not None and provider.answers.quarantined >= 400:
        words = "Verified, but not the provider's envelope; kept in quarantine. The text says why."
        answers[str(provider.answers.quarantined)] = _said(words, TEXT)
    else:
        answers["400"] = _said("The request is no HTTP that can be read.", TEXT)
    answers["401"] = _said(
        "No tenant that the body names verifies it."
        if shared
        else "Signature or secret missing or wrong, or tenant or channel unknown or suspended."
    )
    answers["404"] = _said("With STRICT_TENANT_CONFIG off: tenant or channel unknown.")
    answers["408"] = _said("The body did not come within 10 seconds.")
    if provider is not None and provider.answers.conflict >= 400:
        words = "This webhook-id was received before with other content; kept."
        answers[str(provider.answers.conflict)] = _said(words, TEXT)
    answers["413"] = _said("The body is larger than TURNOUT_MAX_BODY_BYTES allows.")
    if channel != "calcom":
        words = "The tenant is over its rate, or the sender was refused too often within a minute."
        answers["429"] = _said(words, headers=RETRY_AFTER)
    answers["503"] = _said(
        "Not stored: the queue is full or Postgres does not answer. Send again.", headers=RETRY_AFTER
    )
    return dict(sorted(answers.items()))


def _said(words: str, content: str | None = None, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": words}
    if content is not None:
        found["content"] = {content: {"schema": {"type": "string"}}}
    if headers is not None:
        found["headers"] = headers
    return found
