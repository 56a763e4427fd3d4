"""People's contacts as they leave ingest: normalised, hashed for linking, sealed for whoever must write to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import phonenumbers
from pydantic_core import to_json

from turnout_common.events import Contact
from turnout_common.security import TenantKeys

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
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
    if _is_normal(text):
        return text
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _is_normal(text: str) -> bool:
    """Whether `text` is what `phonenumbers` would give for it: E.164 already, without a prefix of national dialling and
    of a length that its country has. Nearly every number comes like that, and the library takes 12 us for one."""
    if _E164.fullmatch(text) is None:
        return False
    for digits in (1, 2, 3):
        plan = _numbering_plan(int(text[1 : 1 + digits]))
        if plan is not None:
            national = text[1 + digits :]
            prefixed = plan.national_prefix is not None and plan.national_prefix.match(national)
            return len(national) in plan.lengths and not prefixed
    return False


@dataclass(frozen=True, slots=True)
class _NumberingPlan:
    """What a country's numbers after its code are: their lengths, and the prefix that is no part of them."""

    lengths: frozenset[int]
    national_prefix: re.Pattern[str] | None


@cache
def _numbering_plan(country_code: int) -> _NumberingPlan | None:
    """Of a code of one to three digits, so that the cache is bounded; None where there is no such code."""
    region = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(country_code, ("",))[0]
    metadata = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code(country_code, region)
    if metadata is None or metadata.general_desc is None:
        return None
    prefix = metadata.national_prefix_for_parsing
    lengths = frozenset(metadata.general_desc.possible_length)
    return _NumberingPlan(lengths, re.compile(prefix) if prefix else None)


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
    person = to_json({"name": known, "email": address, "phone": number}).decode()
    return Contact(
        phone_hash=keys.contact_hash("phone", number) if number else None,
        email_hash=keys.contact_hash("email", address) if address else None,
        sealed=keys.seal_text("contact", person),
        locale=label(locale),
    )


def sealed_text(keys: TenantKeys, purpose: str, text: str | None) -> str | None:
    """Free text sealed under `purpose`, or None when there is none."""
    return keys.seal_text(purpose, text[:LONGEST_TEXT]) if text and text.strip() else None
