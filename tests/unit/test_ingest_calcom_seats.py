"""Cal.com bodies of several attendees: each is an item of its own, and its kept bytes give that item alone again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, all_delivered, body_of, event_of, value_of
from turnout_ingest.acceptance import Row
from turnout_ingest.providers.calcom_parts import MOST_BYTES
from turnout_ingest.providers.provider import Fate

ANA, BEN, CAI = "ana@client.example", "ben@client.example", "cai@client.example"
MAIL = "canary.quillfeather@client.example"


def attendee(email: str, **fields: Any) -> dict[str, Any]:
    return {"name": email.partition("@")[0].title(), "email": email, "timeZone": "Europe/Berlin"} | fields


def seats(name: str, *emails: str, **payload: Any) -> dict[str, Any]:
    """The sample `name` about these seats."""
    body: dict[str, Any] = value_of("calcom", name)
    body["payload"] |= {"seatsPerTimeSlot": 8, "attendees": [attendee(email) for email in emails]} | payload
    return body


def marks(*marked: tuple[str, bool]) -> dict[str, Any]:
    body: dict[str, Any] = value_of("calcom", "no_show_marked")
    body["payload"]["attendees"] = [{"email": email, "noShow": absent} for email, absent in marked]
    return body


def meeting(*attendees: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = value_of("calcom", "meeting_ended")
    return body | {"attendees": list(attendees)} | fields


def hashed(email: str) -> str:
    return KEYS.contact_hash("email", email)


def events(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in rows if row.payload is not None]


def said(body: dict[str, Any], *wanted: str) -> list[tuple[Any, ...]]:
    return [tuple(event.get(field) for field in wanted) for event in events(all_delivered("calcom", body))]


def raw(row: Row) -> bytes:
    assert row.sealed is not None
    return KEYS.open("raw", row.sealed)


BODIES = {
    "seats": seats("created", ANA, BEN, CAI),
    "seats cancelled": seats("cancelled_by_salon", ANA, BEN),
    "seats moved": seats("rescheduled", ANA, BEN),
    "marks": marks((ANA, True), (BEN, False), (CAI, True)),
    "meeting": meeting(
        attendee(ANA, id=1), attendee(BEN, id=2, noShow=True), attendee(CAI, id=3, noShow=True)
    ),
    "meeting, order changed": meeting(attendee(BEN, id=2, noShow=True), attendee(ANA, id=1)),
    "meeting with seats": meeting(attendee(ANA, bookingSeat={"id": 1}), attendee(BEN, bookingSeat={"id": 2})),
    "meeting without ids": meeting(attendee(ANA), attendee(BEN, noShow=True)),
}


@pytest.mark.parametrize("name", BODIES)
def test_kept_bytes_of_each_item_give_that_item_alone_under_its_key(name: str) -> None:
    rows = all_delivered("calcom", BODIES[name])

    assert len(rows) > 1
    assert len({row.key_hash for row in rows}) == len(rows)
    for row in rows:
        (again,) = all_delivered("calcom", raw(row))
        own = ("item_id", "contact", "notes_sealed")
        first, second = ({k: v for k, v in event.items() if k not in own} for event in events([row, again]))
        assert (again.key_hash, again.content_hash, second) == (row.key_hash, row.content_hash, first)


@pytest.mark.parametrize("name", BODIES)
def test_the_same_body_gives_the_same_keys(name: str) -> None:
    first, second = (all_delivered("calcom", BODIES[name]) for _ in range(2))

    assert [row.key_hash for row in first] == [row.key_hash for row in second]


@pytest.mark.parametrize("name", ["created_seat", "cancelled_seat"])
def test_one_seat_is_one_item_with_the_bytes_that_came(name: str) -> None:
    (row,) = all_delivered("calcom", body_of("calcom", name))
    event = event_of("calcom", body_of("calcom", name))

    assert (event["seat"], event["attendee"]) == (hashed(MAIL), hashed(MAIL))
    assert raw(row) == body_of("calcom", name)


@pytest.mark.parametrize(
    ("sample", "trigger", "previous"),
    [
        ("created", "created", None),
        ("cancelled_by_salon", "cancelled", None),
        ("rescheduled", "rescheduled", "qk7Yx2VnUeS4cD1mPzHr9a"),
    ],
)
def test_each_seat_of_a_body_is_an_item_of_its_own(sample: str, trigger: str, previous: str | None) -> None:
    told = said(seats(sample, ANA, "BEN@Client.example "), "trigger", "seat", "attendee", "previous_uid")

    assert told == [(trigger, hashed(who), hashed(who), previous) for who in (ANA, BEN)]


def test_each_seat_is_its_own_attendees_and_nobody_gets_anothers_phone() -> None:
    told = events(all_delivered("calcom", seats("created", ANA, BEN)))

    assert [event["contact"]["email_hash"] for event in told] == [hashed(ANA), hashed(BEN)]
    assert not any("phone_hash" in event["contact"] or "notes_sealed" in event for event in told)


def test_who_cancels_an_own_seat_is_the_client_of_that_seat_only() -> None:
    body = seats("cancelled_by_client", ANA, BEN, cancelledBy=BEN)

    assert said(body, "actor") == [("unknown",), ("client",)]


def test_a_bad_seat_does_not_hold_up_the_others() -> None:
    body = seats("created", ANA, BEN)
    body["payload"]["attendees"][0] = {"name": "Nobody"}

    bad, good = all_delivered("calcom", body)

    assert (bad.fate, bad.event_type, good.fate) == (Fate.QUARANTINED, "BOOKING_CREATED", Fate.PUBLISHED)
    assert bad.reason is not None and "whose seat it is" in bad.reason


def test_a_seat_under_an_address_that_calcom_made_up_is_a_seat() -> None:
    made_up = "4915112345678@sms.cal.com"
    (row,) = all_delivered("calcom", seats("created", made_up))

    assert events([row])[0]["seat"] == hashed(made_up)


def test_each_mark_of_a_body_is_an_item_that_leaves_the_seat_open() -> None:
    told = said(marks((ANA, True), (BEN, False)), "trigger", "attendee", "seat", "no_show", "start_at")

    assert told == [
        ("no_show_updated", hashed(who), None, absent, None) for who, absent in ((ANA, True), (BEN, False))
    ]


def test_marks_carry_no_contact() -> None:
    assert said(marks((ANA, True)), "contact") == [(None,)]


def test_a_meeting_speaks_of_who_was_entered_first_and_of_who_is_marked() -> None:
    body = meeting(attendee(CAI, id=3, noShow=True), attendee(BEN, id=2), attendee(ANA, id=1))
    told = said(body, "attendee", "no_show", "start_at", "rating", "seat")

    start = "2026-11-23T15:30:00Z"
    assert told == [(hashed(ANA), None, start, 5, None), (hashed(CAI), True, None, None, None)]


def test_the_first_of_a_meeting_is_the_client_whatever_order_the_attendees_come_in() -> None:
    for order in ((ANA, BEN), (BEN, ANA)):
        body = meeting(*(attendee(who, id={ANA: 1, BEN: 2}[who]) for who in order))
        assert said(body, "attendee") == [(hashed(ANA),)]


def test_a_meetings_start_marks_nobody_else() -> None:
    body = meeting(attendee(ANA, id=1), attendee(BEN, id=2, noShow=True), triggerEvent="MEETING_STARTED")

    assert said(body, "attendee") == [(hashed(ANA),)]


@pytest.mark.parametrize(("attendees", "slug"), [(1001, "class"), (900, "x" * 20_000)])
def test_attendees_without_end_are_refused_whole(attendees: int, slug: str) -> None:
    body = seats("created", *(f"{n}@e.example" for n in range(attendees)), type=slug)

    (row,) = all_delivered("calcom", body)

    assert (row.fate, row.reason) == (Fate.QUARANTINED, "more attendees than a booking has")
    assert len(raw(row)) < MOST_BYTES


def test_a_large_class_is_taken_apart() -> None:
    body = seats("created", *(f"{n}@e.example" for n in range(500)))
    rows = all_delivered("calcom", body)

    assert len({row.key_hash for row in rows}) == 500
    assert all(row.fate is Fate.PUBLISHED for row in rows)
    assert sum(len(raw(row)) for row in rows) < MOST_BYTES
