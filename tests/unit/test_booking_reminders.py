"""What clients are told, and when: the promises of design §4 on messages. Pure; the clock is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_booking.domain.reminders import (
    Change,
    Planned,
    PlannerSettings,
    Withdrawn,
    plan,
    reminder_time,
    slots_after,
)
from turnout_common.events import ChainState, ChainStatus, Channel, MessageTemplate
from turnout_common.ids import derived_id

BERLIN = ZoneInfo("Europe/Berlin")
SETTINGS = PlannerSettings(BERLIN, 22, 9)
NOW = datetime(2026, 3, 9, 9, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = NOW + 3 * DAY
BOOKING, CLIENT = UUID(int=11), UUID(int=22)
REMINDER, CONFIRMATION = MessageTemplate.REMINDER_24H, MessageTemplate.CONFIRMATION


def booked(start: datetime = START, **changes: object) -> ChainState:
    """A booking that was confirmed a minute ago, of a client who can be written to."""
    state = ChainState(
        booking_id=BOOKING, status=ChainStatus.CONFIRMED, source="calcom", uid="O", channel=Channel.CALCOM,
        client_id=CLIENT, created_at=NOW - MINUTE, confirmed_at=NOW - MINUTE, start_at=start, end_at=start + HOUR,
        reachable=True,
    )  # fmt: skip
    return state.model_copy(update=changes)


def decide(
    before: ChainState | None,
    after: ChainState,
    slots: Mapping[str, str] | None = None,
    caused_at: datetime | None = NOW - MINUTE,
    now: datetime = NOW,
) -> dict[MessageTemplate, Planned | Withdrawn]:
    decisions = plan(Change("salon", before, after, caused_at), slots or {}, SETTINGS, now)
    return {decision.template: decision for decision in decisions}


def slots_of(state: ChainState) -> dict[str, str]:
    """What the sender holds after this booking was made."""
    return slots_after({}, plan(Change("salon", None, state, NOW - MINUTE), {}, SETTINGS, NOW))


def test_a_new_booking_is_confirmed_at_once_and_reminded_of_a_day_ahead() -> None:
    decided = decide(None, booked())
    confirmation, reminder = decided[CONFIRMATION], decided[REMINDER]

    assert isinstance(confirmation, Planned) and isinstance(reminder, Planned)
    assert confirmation.not_before == NOW
    assert timedelta(0) <= reminder.not_before - (START - DAY) < 15 * MINUTE
    assert reminder.slot_key == f"salon:{BOOKING}:reminder_24h"
    assert reminder.sent_key == f"{reminder.slot_key}:{int(START.timestamp())}"


def test_imports_and_backlogs_text_nobody() -> None:
    old = booked(confirmed_at=NOW - HOUR)

    assert decide(None, old, caused_at=NOW - HOUR) == {}
    assert set(decide(None, booked(confirmed_at=NOW - HOUR + MINUTE), caused_at=NOW - HOUR + MINUTE)) == {
        CONFIRMATION,
        REMINDER,
    }


def test_nothing_is_planned_in_the_past_or_for_what_is_past() -> None:
    assert set(decide(None, booked(NOW + DAY))) == {CONFIRMATION}
    assert decide(None, booked(NOW - HOUR)) == {}


@pytest.mark.parametrize(
    "changes", [{"reachable": False}, {"client_id": None}, {"status": ChainStatus.PENDING}]
)
def test_who_cannot_be_told_or_has_nothing_to_be_told_is_not(changes: dict[str, object]) -> None:
    assert decide(None, booked().model_copy(update=changes)) == {}


def test_a_client_who_can_be_written_to_later_is_reminded_then() -> None:
    before = booked(confirmed_at=NOW - DAY, reachable=False)
    after = booked(confirmed_at=NOW - DAY)

    assert set(decide(before, after)) == {REMINDER}


def test_a_move_replaces_the_reminder_and_takes_an_unsent_confirmation_back() -> None:
    before, after = booked(), booked(START + DAY)
    decided = decide(before, after, slots_of(before))
    reminder = decided[REMINDER]

    assert isinstance(reminder, Planned) and reminder.start_at == START + DAY
    assert isinstance(decided[CONFIRMATION], Withdrawn)


def test_a_move_of_long_ago_still_takes_the_old_reminder_back() -> None:
    before, after = booked(), booked(START + DAY)
    decided = decide(before, after, slots_of(before), caused_at=NOW - 2 * HOUR)

    assert all(isinstance(decision, Withdrawn) for decision in decided.values())
    assert set(decided) == {CONFIRMATION, REMINDER}


@pytest.mark.parametrize(
    "status", [ChainStatus.CANCELLED, ChainStatus.NO_SHOW, ChainStatus.MERGED, ChainStatus.PENDING]
)
def test_what_stands_no_more_is_withdrawn(status: ChainStatus) -> None:
    before = booked()
    decided = decide(before, booked(status=status), slots_of(before), caused_at=None)

    assert set(decided) == {CONFIRMATION, REMINDER}
    assert all(isinstance(decision, Withdrawn) for decision in decided.values())


def test_who_opts_out_is_not_reminded() -> None:
    before = booked()

    assert isinstance(decide(before, booked(reachable=False), slots_of(before))[REMINDER], Withdrawn)


def test_a_change_that_moves_nothing_says_nothing_again() -> None:
    before = booked()

    assert decide(before, booked(gross_minor=500), slots_of(before)) == {}


def test_what_is_over_is_not_withdrawn() -> None:
    before = booked()

    assert decide(before, booked(gross_minor=500), slots_of(before), now=START + MINUTE) == {}


def test_a_client_who_turns_out_to_be_another_is_told_in_place_of_the_former() -> None:
    before, other = booked(), UUID(int=33)
    decided = decide(before, booked(client_id=other), slots_of(before), caused_at=None)
    reminder = decided[REMINDER]

    assert isinstance(reminder, Planned) and reminder.client_id == other


def test_a_booking_that_stands_again_is_reminded_of_again() -> None:
    before = booked()
    cancelled = booked(status=ChainStatus.CANCELLED)
    slots = slots_after(slots_of(before), list(decide(before, cancelled, slots_of(before)).values()))

    assert slots == {}
    assert set(decide(cancelled, before, slots)) == {REMINDER}


@given(
    start=st.integers(0, 365 * 24 * 60).map(lambda minutes: NOW + minutes * MINUTE),
    quiet=st.tuples(st.integers(0, 24), st.integers(0, 24)),
    zone=st.sampled_from(
        ["Europe/Berlin", "Pacific/Kiritimati", "Pacific/Niue", "Australia/Lord_Howe", "America/New_York"]
    ),
    number=st.integers(0, 2**64),
)
def test_no_reminder_is_released_in_quiet_hours(
    start: datetime, quiet: tuple[int, int], zone: str, number: int
) -> None:
    settings = replace(SETTINGS, zone=ZoneInfo(zone), quiet_from=quiet[0], quiet_until=quiet[1])
    at = reminder_time(start, derived_id(str(number)), settings)
    hour = at.astimezone(settings.zone).hour
    begin, end = quiet[0] % 24, quiet[1] % 24
    is_quiet = begin <= hour < end if begin < end else (hour >= begin or hour < end) if begin > end else False

    assert not is_quiet
    assert at >= start - DAY


def test_releases_are_spread_and_always_the_same_for_one_booking() -> None:
    times = [reminder_time(START, derived_id(str(n)), SETTINGS) for n in range(500)]

    assert min(times) >= START - DAY and max(times) < START - DAY + 15 * MINUTE
    assert len(set(times)) > 250
    assert reminder_time(START, BOOKING, SETTINGS) == reminder_time(START, BOOKING, SETTINGS)


def test_a_reminder_in_the_night_comes_when_the_quiet_hours_end() -> None:
    early = datetime(2026, 3, 12, 8, tzinfo=BERLIN).astimezone(UTC)
    late = datetime(2026, 3, 12, 23, tzinfo=BERLIN).astimezone(UTC)

    assert reminder_time(early, BOOKING, SETTINGS).astimezone(BERLIN).replace(minute=0, second=0) == datetime(
        2026, 3, 11, 9, tzinfo=BERLIN
    )
    assert reminder_time(late, BOOKING, SETTINGS).astimezone(BERLIN).replace(minute=0, second=0) == datetime(
        2026, 3, 12, 9, tzinfo=BERLIN
    )
