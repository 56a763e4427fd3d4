"""Values that every event is made of. All strings are bounded; sealed text is the only long one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
#: An identifier that someone else made: a uid, a staff id, an item of the stock.
Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: A short machine word: a reason code, a locale.
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
#: 32 hex digits: a keyed hash of a contact (security.TenantKeys.contact_hash).
ContactHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
#: base64url of a sealed value (security.TenantKeys.seal_text).
Sealed = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=65536)]
Instant = AwareDatetime


class WireModel(BaseModel):
    """Frozen, and closed to unknown fields when built by a producer."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


class Channel(StrEnum):
    """Where an item came from or a message goes to."""

    CALCOM = "calcom"
    TELEGRAM = "telegram"
    WHATSAPP = "whatsapp"
    INSTAGRAM = "instagram"
    VK = "vk"
    MAX = "max"
    EVENTS = "events"
    OWN = "own"

    @property
    def gives_receipts(self) -> bool:
        """Whether the provider tells a bot that a message was delivered (domain.md, Part C)."""
        return self in (Channel.WHATSAPP, Channel.INSTAGRAM)


class Actor(StrEnum):
    """Who did it."""

    CLIENT = "client"
    SALON = "salon"
    SYSTEM = "system"
    UNKNOWN = "unknown"
