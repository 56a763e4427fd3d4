"""Cal.com: each trigger becomes what it means, and each trap of its payloads is stepped over (domain.md A1)."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from tests.webhook_fixtures import KEYS, NOON, body_of, delivered, event_of, names, opened, value_of
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.providers.provider import Fate

CALCOM = PROVIDERS["calcom"]
IGNORED = [
    "form_submitted",
    "instant_meeting",
    "out_of_office",
    "ping",
    "recording_ready",
    "trigger_of_the_future",
]
MAIL = "canary.quillfeather@client.example"
PHONE = "+493023125077"


def fields(name: str, *wanted: str) -> tuple[Any, ...]:
    event = event_of("calcom", body_of("calcom", name))
    return tuple(event.get(field) for field in wanted)


@pytest.mark.parametrize("name", names("calcom"))
def test_every_sample_is_published_or_ignored_for_a_reason(name: str) -> None:
    row = delivered("calcom", body_of("calcom", name))

    assert row.fate is (Fate.IGNORED if name in IGNORED else Fate.PUBLISHED)
    assert (row.reason is not None) == (name in IGNORED)


@pytest.mark.parametrize(
    ("name", "trigger", "occurred_at"),
    [
        ("created", "created", "2026-11-24T08:00:00Z"),
        ("requested", "requested", "2026-11-24T08:04:00Z"),
        ("requested_move", "requested", "2026-11-24T08:05:00Z"),
        ("rejected", "rejected", "2026-11-24T08:06:00Z"),
        ("rescheduled", "rescheduled", "2026-11-24T08:07:00Z"),
        ("cancelled_by_client", "cancelled", "2026-11-24T08:08:00Z"),
        ("cancelled_to_rebook", "reschedule_requested", "2026-11-24T08:10:00Z"),
        ("paid", "paid", "2026-11-24T08:11:00Z"),
        ("payment_initiated", "payment_initiated", "2026-11-24T08:12:00Z"),
        ("location_updated", "changed", "2026-11-24T08:13:00Z"),
        ("reassigned", "changed", "2026-11-24T08:14:00Z"),
        ("no_show_marked", "no_show_updated", "2026-11-24T08:15:00Z"),
        ("meeting_started", "meeting_started", "2026-11-23T15:30:00Z"),
        ("meeting_ended", "meeting_ended", "2026-11-23T16:00:00Z"),
    ],
)
def test_trigger_and_time_of_each(name: str, trigger: str, occurred_at: str) -> None:
    assert fields(name, "trigger", "occurred_at") == (trigger, occurred_at)


def test_created_carries_what_booking_needs() -> None:
    event = event_of("calcom", body_of("calcom", "created"))

    assert (event["source"], event["uid"]) == ("calcom", "qk7Yx2VnUeS4cD1mPzHr9a")
    assert (event["start_at"], event["end_at"]) == ("2026-12-03T09:15:00Z", "2026-12-03T10:45:00Z")
    assert (event["staff_ref"], event["service_ref"]) == ("4101", "77001")
    assert (event["price_minor"], event["currency"]) == (12900, "EUR")
    assert event["intent_id"] == "01a20fb4-355f-7484-a2b0-094a3157a610"
    assert "previous_uid" not in event


def test_contact_is_hashed_for_linking_and_sealed_for_writing() -> None:
    contact = event_of("calcom", body_of("calcom", "created"))["contact"]

    assert contact["phone_hash"] == KEYS.contact_hash("phone", PHONE)
    assert contact["email_hash"] == KEYS.contact_hash("email", MAIL)
    assert contact["locale"] == "de"
    person = json.loads(opened("contact", contact["sealed"]))
    assert person == {"name": "Zinaida Quillfeather", "email": MAIL, "phone": PHONE}


def test_notes_are_sealed() -> None:
    sealed = event_of("calcom", body_of("calcom", "created"))["notes_sealed"]

    assert opened("notes", sealed) == "Canary note: allergic to henna"


def test_first_attendee_is_the_client_and_guests_are_not() -> None:
    contact = event_of("calcom", body_of("calcom", "created_with_guests"))["contact"]

    assert contact["email_hash"] == KEYS.contact_hash("email", MAIL)


def test_address_that_calcom_made_up_for_a_phone_links_nobody() -> None:
    contact = event_of("calcom", body_of("calcom", "created_by_phone"))["contact"]

    assert "email_hash" not in contact
    assert contact["phone_hash"] == KEYS.contact_hash("phone", PHONE)


def test_missing_optional_fields_are_no_fault() -> None:
    event = event_of("calcom", body_of("calcom", "created_sparse"))

    assert event["service_ref"] == "haircut"
    assert event["staff_ref"] == KEYS.contact_hash("email", "mara.host@salon.example")
    assert "price_minor" not in event


def test_username_stands_for_staff_without_an_id() -> None:
    body = value_of("calcom", "created")
    body["payload"]["organizer"].pop("id")

    assert event_of("calcom", body)["staff_ref"] == "mara-host"


def test_reschedule_links_the_new_uid_to_the_old_one() -> None:
    assert fields("rescheduled", "uid", "previous_uid", "root_uid", "previous_start_at", "actor") == (
        "n3wUidAfterMove000000x",
        "qk7Yx2VnUeS4cD1mPzHr9a",
        "qk7Yx2VnUeS4cD1mPzHr9a",
        "2026-12-03T09:15:00Z",
        "client",
    )


def test_request_that_moves_a_booking_names_its_predecessor() -> None:
    assert fields("requested_move", "trigger", "previous_uid") == ("requested", "qk7Yx2VnUeS4cD1mPzHr9a")


def test_flat_event_links_by_from_reschedule() -> None:
    assert fields("meeting_ended", "uid", "previous_uid", "staff_ref", "service_ref", "paid", "rating") == (
        "fL4tMeeting0000000uid",
        "b3foreTheMeeting00uid",
        "4101",
        "77001",
        True,
        5,
    )


@pytest.mark.parametrize(
    ("name", "actor"),
    [
        ("cancelled_by_client", "client"),
        ("cancelled_by_salon", "salon"),
        ("cancelled_to_rebook", "salon"),
        ("rejected", "salon"),
        ("created", "unknown"),
    ],
)
def test_who_did_it(name: str, actor: str) -> None:
    assert fields(name, "actor") == (actor,)


@pytest.mark.parametrize(
    ("name", "no_show"),
    [
        ("no_show_marked", True),
        ("no_show_unmarked", False),
        ("meeting_ended_no_show", True),
        ("meeting_ended", None),
        ("meeting_started", None),
    ],
)
def test_no_show_is_a_mark_an_undo_or_no_statement(name: str, no_show: bool | None) -> None:
    assert fields(name, "no_show") == (no_show,)


def test_paid_trigger_means_paid() -> None:
    assert fields("paid", "paid") == (True,)


@pytest.mark.parametrize(
    ("field", "given", "published"),
    [
        ("price", None, None),
        ("price", 10.0, 10),
        ("price", 10.5, None),
        ("price", -1, None),
        ("price", True, None),
        ("price", 1e300, None),
        ("price", "12", None),
    ],
)
def test_price_that_is_no_whole_minor_amount_is_left_out(
    field: str, given: Any, published: int | None
) -> None:
    body = value_of("calcom", "created")
    body["payload"][field] = given

    assert event_of("calcom", body).get("price_minor") == published


@pytest.mark.parametrize("intent", ["nobody's", 7, None, "", {"id": 1}])
def test_intent_that_a_client_made_up_is_left_out(intent: Any) -> None:
    body = value_of("calcom", "created")
    body["payload"]["metadata"] = {"intent": intent}

    assert "intent_id" not in event_of("calcom", body)


@pytest.mark.parametrize("empty", [{}, [], None])
def test_fields_whose_emptiness_varies_in_type(empty: Any) -> None:
    body = value_of("calcom", "created")
    body["payload"] |= {
        "customInputs": empty,
        "responses": empty,
        "metadata": empty,
        "destinationCalendar": empty,
    }

    assert event_of("calcom", body)["uid"] == "qk7Yx2VnUeS4cD1mPzHr9a"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seatsPerTimeSlot": 4, "attendees": []}, "whose seat it is"),
        ({"seatsPerTimeSlot": 4, "attendees": [{"name": "Nobody"}]}, "whose seat it is"),
        ({"uid": ""}, "payload.uid is empty"),
        ({"uid": 7}, "payload.uid is not text"),
        ({"uid": "a\x00b"}, "payload.uid has characters that are not allowed there"),
        ({"startTime": "tomorrow"}, "payload.startTime is not a time"),
        ({"startTime": "2026-12-03T09:15:00"}, "payload.startTime is a time without a zone"),
        ({"startTime": 1795507200}, "payload.startTime is not a time"),
        ({"startTime": "0001-01-01T00:00:00+14:00"}, "payload.startTime is too small or too early"),
        ({"endTime": "9999-12-31T23:59:59-14:00"}, "payload.endTime is too large or too late"),
        ({"endTime": "2026-12-03T09:00:00Z"}, "ends before it starts"),
        ({"attendees": {}}, "payload.attendees is not a list"),
        ({"additionalNotes": "a\x00b"}, "payload.additionalNotes has characters"),
    ],
)
def test_what_is_read_is_read_strictly(change: dict[str, Any], reason: str) -> None:
    body = value_of("calcom", "created")
    body["payload"] |= change

    row = delivered("calcom", body)

    assert row.fate is Fate.QUARANTINED
    assert row.reason is not None and reason in row.reason
    assert (row.event_type, row.payload) == ("BOOKING_CREATED", None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", "no triggerEvent"),
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"triggerEvent":"BOOKING_CREATED"', "not JSON"),
        (
            b'{"triggerEvent":"BOOKING_CREATED","createdAt":"2026-11-24T08:00:00Z","payload":"\\ud800"}',
            "not JSON",
        ),
        (b"[" * 5000 + b"]" * 5000, ""),
        (b"[]", "is not an object"),
        (b"null", "is not an object"),
        (b'{"triggerEvent":"MEETING_ENDED"}', "MEETING_ENDED.uid is missing"),
        (b'{"name":"a template of the user"}', "custom payload template"),
        (
            b'{"triggerEvent":"BOOKING_CREATED","createdAt":"2026-11-24T08:00:00Z","payload":%s}'
            % (b"9" * 6000),
            "",
        ),
    ],
)
def test_what_is_no_envelope_is_quarantined_with_its_bytes(body: bytes, reason: str) -> None:
    row = delivered("calcom", body)

    assert row.fate is Fate.QUARANTINED
    assert row.reason is not None and reason in row.reason
    assert row.sealed is not None and KEYS.open("raw", row.sealed) == body


def test_form_of_a_custom_template_is_refused_in_words() -> None:
    headers = {b"content-type": b"application/x-www-form-urlencoded; charset=utf-8"}

    row = delivered("calcom", body_of("calcom", "created"), headers)

    assert row.fate is Fate.QUARANTINED
    assert row.reason is not None and "remove its custom payload template" in row.reason


def test_key_is_the_body() -> None:
    body = body_of("calcom", "created")

    assert delivered("calcom", body).key_hash == hashlib.sha256(body).digest()[:16]
    assert delivered("calcom", body).key_hash != delivered("calcom", body + b" ").key_hash


def test_time_more_than_an_hour_ahead_is_quarantined_and_the_past_is_free() -> None:
    body = value_of("calcom", "created")

    ahead = delivered("calcom", body | {"createdAt": "2026-11-24T13:00:01Z"})
    near = delivered("calcom", body | {"createdAt": "2026-11-24T12:59:59Z"})
    past = delivered("calcom", body | {"createdAt": "2019-01-01T00:00:00Z"})

    assert (ahead.fate, near.fate, past.fate) == (Fate.QUARANTINED, Fate.PUBLISHED, Fate.PUBLISHED)
    assert ahead.key_hash != hashlib.sha256(json.dumps(body).encode()).digest()[:16]


def signature(body: bytes, secret: str = "s3cr3t") -> bytes:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        (signature(b"body"), True),
        (signature(b"body").upper(), True),
        (signature(b"body", "old"), True),
        (signature(b"body", "other"), False),
        (signature(b"body") + b"0", False),
        (b"no-secret-provided", False),
        (b"", False),
        (b"\xff\xfe", False),
    ],
)
def test_signature_over_the_raw_bytes_with_either_secret_of_a_rotation(given: bytes, holds: bool) -> None:
    secrets = (*CALCOM.secret_bytes("s3cr3t"), *CALCOM.secret_bytes("old"))

    assert CALCOM.verify({b"x-cal-signature-256": given}, b"body", secrets, NOON) is holds


def test_without_a_secret_nothing_verifies() -> None:
    assert not CALCOM.verify({b"x-cal-signature-256": signature(b"body", "")}, b"body", (), NOON)
    assert not CALCOM.verify({}, b"body", CALCOM.secret_bytes("s3cr3t"), NOON)


def test_an_empty_secret_is_no_unsigned_mode() -> None:
    """Cal.com without a secret sends the literal, whatever its case, and whatever secret is set here."""
    for secret in ("", "no-secret-provided", "s3cr3t"):
        secrets = CALCOM.secret_bytes(secret)
        for literal in (b"no-secret-provided", b"NO-SECRET-PROVIDED", b""):
            assert not CALCOM.verify({b"x-cal-signature-256": literal}, b"body", secrets, NOON)


@pytest.mark.parametrize("name", ["created", "meeting_started", "meeting_ended", "ping"])
@pytest.mark.parametrize("version", [{}, {b"x-cal-webhook-version": b"2026-07-27"}])
def test_the_version_header_may_be_absent_or_new(name: str, version: dict[bytes, bytes]) -> None:
    """The cron that sends MEETING_* leaves it out."""
    headers = {b"content-type": b"application/json"} | version

    assert delivered("calcom", body_of("calcom", name), headers).fate is not Fate.QUARANTINED


def test_what_the_newer_version_adds_is_passed_over() -> None:
    body = value_of("calcom", "created")
    body["payload"] |= {"attendeeIcsContent": "BEGIN:VCALENDAR", "organizerIcsContent": None}

    assert delivered("calcom", body).fate is Fate.PUBLISHED


@pytest.mark.parametrize("destination", [None, [], {}, [{"id": 1}], {"id": 1}])
@pytest.mark.parametrize("inputs", [{}, [], [{"label": "x"}], None])
def test_calendars_and_inputs_come_in_every_type(destination: Any, inputs: Any) -> None:
    body = value_of("calcom", "created")
    body["payload"] |= {"customInputs": inputs, "destinationCalendar": destination}

    assert delivered("calcom", body).fate is Fate.PUBLISHED


def test_times_end_in_any_form_of_utc() -> None:
    body = value_of("calcom", "created")
    times = []
    for written in ("2026-12-03T09:15:00Z", "2026-12-03T09:15:00.000Z", "2026-12-03T09:15:00+00:00"):
        body["payload"]["startTime"] = written
        times.append(event_of("calcom", body)["start_at"])

    assert set(times) == {"2026-12-03T09:15:00Z"}


@pytest.mark.parametrize(
    "flat",
    [
        {"bookingId": 1, "uid": "x", "startTime": "2026-12-03T09:15:00Z", "attendees": []},
        {"triggerEvent": "BOOKING_CREATED", "uid": "x", "startTime": "2026-12-03T09:15:00Z"},
    ],
)
def test_flat_bodies_of_other_subscriptions_are_refused_with_a_reason(flat: dict[str, Any]) -> None:
    """Zapier's subscriptions send the booking without an envelope: it does not say what happened to it."""
    row = delivered("calcom", flat)

    assert row.fate is Fate.QUARANTINED
    assert row.reason


@pytest.mark.parametrize("trigger", ["MEETING_STARTED", "MEETING_ENDED"])
def test_a_meetings_time_is_the_appointments_and_not_that_of_its_booking(trigger: str) -> None:
    body = value_of("calcom", "meeting_ended") | {
        "triggerEvent": trigger,
        "createdAt": "2026-05-04T15:02:41Z",
    }
    expected = "2026-11-23T15:30:00Z" if trigger == "MEETING_STARTED" else "2026-11-23T16:00:00Z"

    assert event_of("calcom", body)["occurred_at"] == expected


def test_a_meeting_needs_no_creation_time() -> None:
    body = value_of("calcom", "meeting_ended")
    del body["createdAt"]

    assert delivered("calcom", body).fate is Fate.PUBLISHED


@pytest.mark.parametrize("where", ["eventTypeId", "userId", "organizer", "attendee"])
def test_id_that_is_longer_than_any_is_refused_in_words(where: str) -> None:
    """It was taken for a fault of this version."""
    body = value_of("calcom", "created")
    booking = body["payload"]
    place = {"organizer": booking["organizer"], "attendee": booking["attendees"][0]}.get(where, booking)
    place["id" if place is not booking else where] = 10**300

    row = delivered("calcom", body)

    assert (row.fate, row.event_type) == (Fate.QUARANTINED, "BOOKING_CREATED")
    assert (row.reason or "").endswith("is too large or too late")
