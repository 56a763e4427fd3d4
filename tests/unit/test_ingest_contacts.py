"""Contacts: one form for one person, and no link where the source did not say enough."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_fixtures import KEYS, opened
from turnout_ingest.contacts import (
    LONGEST_TEXT,
    label,
    mail_address,
    phone_number,
    sealed_contact,
    sealed_text,
)


@pytest.mark.parametrize(
    "given",
    ["+49 30 23125 077", "+493023125077", " +49(0)30 23125077 ", "+49-30-23125-077", "+49/30/23125077"],
)
def test_one_number_however_it_is_written(given: str) -> None:
    assert phone_number(given) == "+493023125077"


@pytest.mark.parametrize(
    "given", [None, "", "030 23125077", "+", "+1", "+99999", "call me", "+49" + "1" * 40, "+\x00"]
)
def test_number_that_could_be_anybodys_is_none(given: str | None) -> None:
    assert phone_number(given) is None


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (" Igor@Guest.Example ", "igor@guest.example"),
        ("ИГОРЬ@пример.example", "игорь@пример.example"),
        ("493023125077@sms.cal.com", None),
        ("nobody", None),
        ("@", None),
        (None, None),
        ("a@" + "b" * 400, None),
    ],
)
def test_mail_address(given: str | None, address: str | None) -> None:
    assert mail_address(given) == address


@pytest.mark.parametrize(
    ("given", "word"), [("pt-BR", "pt-BR"), ("de de", None), ("", None), (None, None), ("x" * 65, None)]
)
def test_label(given: str | None, word: str | None) -> None:
    assert label(given) == word


def test_person_of_whom_nothing_is_known_is_none() -> None:
    assert sealed_contact(KEYS, name=" ", email="none", phone="1", locale="de") is None


def test_other_tenant_gives_other_hashes() -> None:
    contact = sealed_contact(KEYS, email="igor@guest.example")

    assert contact is not None and contact.email_hash == KEYS.contact_hash("email", "igor@guest.example")
    assert contact.phone_hash is None


def test_text_is_cut_where_the_wire_ends() -> None:
    sealed = sealed_text(KEYS, "notes", "я" * (LONGEST_TEXT + 1))

    assert sealed is not None and len(opened("notes", sealed)) == LONGEST_TEXT
    assert sealed_text(KEYS, "notes", " \n") is None


def test_longest_text_of_the_widest_letters_fits_the_wire() -> None:
    sealed = sealed_text(KEYS, "notes", "😀" * LONGEST_TEXT)

    assert sealed is not None and len(sealed) <= 65536


def _by_the_library(text: str) -> str | None:
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    possible = phonenumbers.is_possible_number(number)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if possible else None


NUMBERS = st.builds(
    "+{}{}".format,
    st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)),
    st.from_regex(r"(0|1|8|15|044)?[0-9]{2,12}", fullmatch=True),
)


@settings(max_examples=600, deadline=None)
@given(NUMBERS)
def test_number_that_is_passed_by_the_library_is_what_the_library_gives(text: str) -> None:
    assert phone_number(text) == _by_the_library(text)


def test_number_that_names_its_country_beside_itself_only_links_nobody() -> None:
    assert phone_number("030 23125001;phone-context=+49") is None
