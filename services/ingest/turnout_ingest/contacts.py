"""People's contacts as they leave ingest: normalised, hashed for linking, sealed for whoever must write to them."""

from __future__ import annotations

import json
import re

import phonenumbers

from turnout_common.events import Contact
from turnout_common.security import TenantKeys

_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
#: Cal.com makes an address of this domain up for a guest who gave a phone number only.
_MADE_UP_MAIL = "@sms.cal.com"
_LONGEST_NAME = 255
#: Sealed text is bounded on the wire; no messenger sends more, and a booking's notes beyond it are cut.
LONGEST_TEXT = 10_000


def phone_number(text: str | None) -> str | None:
    """The number in E.164, or None: without a leading + it could be of any country, so it links nobody."""
    if text is None or len(text) > 40 or not text.strip().startswith("+"):
        return None
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def mail_address(text: str | None) -> str | None:
    """The address in lower case, or None for what is none."""
    address = (text or "").strip().lower()
    if not 3 <= len(address) <= 320 or "@" not in address or address.endswith(_MADE_UP_MAIL):
        return None
    return address


def label(text: str | None) -> str | None:
    """`text` where it is a machine word such as a locale, else None."""
    return text if text is not None and _LABEL.fullmatch(text) else None


def sealed_contact(
    keys: TenantKeys,
    *,
    name: str | None = None,
    email: str | None = None,
    phone: str | None = None,
    locale: str | None = None,
) -> Contact | None:
    """The person for `inbound_webhooks`, or None when nothing is known of them."""
    address, number = mail_address(email), phone_number(phone)
    known = (name or "").strip()[:_LONGEST_NAME] or None
    if not (known or address or number):
        return None
    person = json.dumps({"name": known, "email": address, "phone": number}, ensure_ascii=False)
    return Contact(
        phone_hash=keys.contact_hash("phone", number) if number else None,
        email_hash=keys.contact_hash("email", address) if address else None,
        sealed=keys.seal_text("contact", person),
        locale=label(locale),
    )


def sealed_text(keys: TenantKeys, purpose: str, text: str | None) -> str | None:
    """Free text sealed under `purpose`, or None when there is none."""
    return keys.seal_text(purpose, text[:LONGEST_TEXT]) if text and text.strip() else None
