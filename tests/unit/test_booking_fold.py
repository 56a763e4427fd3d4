"""The fold of a chain is a function of the set of its items (design §2.3); no database, no clock."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_booking.domain.fold import Folded, FoldSettings, Step, fold, grow
from turnout_booking.domain.items import Item, ItemKind, OwnTrigger, item_from_json, item_to_json
from turnout_booking.domain.rules import RULES, markdown
from turnout_common.events import BookingTrigger, CancelReason, ChainStatus, FactType
from turnout_common.events.values import Actor
from turnout_common.ids import derived_id

SETTINGS = FoldSettings("EUR", {"host": "anna"}, {"type": "cut"})
DAY_ONE = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = DAY_ONE + 10 * DAY


def item(
    trigger: str, uid: str | None, at: datetime, start: datetime | None = None, key: int = 0, **more: object
) -> Item:
    """A statement of Cal.com, or a fact when its name has a dot; `key` sets copies apart."""
    kind = ItemKind.FACT if "." in trigger else ItemKind.SOURCE
    number = derived_id(trigger, str(uid), str(at), str(start), str(key), str(more))
    values = {"start_at": start, "end_at": start + HOUR if start is not None else None, **more}
    return Item(number, kind, trigger, at, "calcom", "calcom", uid, **values)  # type: ignore[arg-type]


def life() -> list[Item]:
    """CREATED O, RESCHEDULED N1←O, RESCHEDULED N2←N1, NO_SHOW N2, its undo, CANCELLED N2."""
    return [
        item("created", "O", DAY_ONE, START),
        item("rescheduled", "N1", DAY_ONE + DAY, START + DAY, previous_uid="O"),
        item("rescheduled", "N2", DAY_ONE + 2 * DAY, START + 2 * DAY, previous_uid="N1"),
        item("no_show_updated", "N2", DAY_ONE + 3 * DAY, no_show=True),
        item("no_show_updated", "N2", DAY_ONE + 4 * DAY, no_show=False),
        item("cancelled", "N2", DAY_ONE + 5 * DAY, START + 2 * DAY, actor="client"),
    ]


def copy_of(original: Item, later: timedelta = MINUTE) -> Item:
    """What a second subscriber sends: the same statement with another createdAt."""
    return replace(original, key=UUID(int=original.key.int ^ 1), at=original.at + later)


def folded(*items: Item) -> Folded:
    state = fold(items, SETTINGS)
    assert state is not None
    return state


def grown(batches: Iterable[Sequence[Item]]) -> list[Step]:
    """The steps of a chain whose items came in these batches."""
    known: list[Item] = []
    steps: list[Step] = []
    for batch in batches:
        steps += grow(known, batch, SETTINGS)
        known += batch
    return steps


def test_all_720_orders_of_a_life_end_in_one_state() -> None:
    states = {folded(*order) for order in itertools.permutations(life())}

    (state,) = states
    assert (state.status, state.uid, state.moves) == (ChainStatus.CANCELLED, "N2", 2)
    assert (state.start_at, state.created_at) == (START + 2 * DAY, DAY_ONE)
    assert (state.confirmed_at, state.cancelled_by) == (DAY_ONE, Actor.CLIENT)


def test_all_720_orders_of_arrival_one_by_one_end_in_one_state() -> None:
    ends = set()
    for order in itertools.permutations(life()):
        known: list[Item] = []
        for each in order:
            steps = grow(known, [each], SETTINGS)
            known.append(each)
        ends.add(steps[-1].folded)

    assert ends == {folded(*life())}


@pytest.mark.parametrize("missing", range(6))
def test_a_life_without_its_first_items_ends_in_one_state_in_every_order(missing: int) -> None:
    rest = life()[missing:]
    states = {fold(order, SETTINGS) for order in itertools.permutations(rest)}

    assert len(states) == 1
    founded = next(iter(states)) is not None
    assert founded == any(each.founds for each in rest)


@pytest.mark.parametrize("copied", range(6))
def test_a_second_subscribers_copy_changes_nothing(copied: int) -> None:
    items = life()
    with_copy = [*items, copy_of(items[copied])]

    assert {folded(*order) for order in random_orders(with_copy)} == {folded(*items)}


def random_orders(items: Sequence[Item], count: int = 60) -> Iterable[Sequence[Item]]:
    chance = random.Random(len(items))
    for _ in range(count):
        yield chance.sample(items, len(items))


TRIGGERS = sorted(str(trigger) for trigger in RULES)


@st.composite
def any_items(draw: st.DrawFn) -> list[Item]:
    """Any statements about a few uids, contradictions, circles and copies among them."""
    uids = st.sampled_from(["A", "B", "C", "D"])
    times = st.integers(0, 5).map(lambda n: DAY_ONE + n * HOUR)
    starts = st.integers(0, 3).map(lambda n: START + n * DAY)
    items = []
    for number in range(draw(st.integers(1, 9))):
        trigger = draw(st.sampled_from(TRIGGERS))
        is_source = trigger in set(BookingTrigger)
        kind = (
            ItemKind.SOURCE if is_source else ItemKind.FACT if trigger in set(FactType) else ItemKind.OUTCOME
        )
        start = draw(st.one_of(st.none(), starts))
        items.append(
            Item(
                key=UUID(int=number + 1), kind=kind, trigger=trigger, at=draw(times), source="calcom", channel="calcom",
                uid=draw(uids), previous_uid=draw(st.one_of(st.none(), uids)) if is_source else None,
                root_uid=draw(st.one_of(st.none(), uids)) if is_source else None,
                attendee=draw(st.sampled_from([None, "ana", "ben"])) if is_source else None,
                start_at=start, end_at=start + HOUR if start else None, no_show=draw(st.sampled_from([None, True, False])),
                status=draw(st.sampled_from([None, "confirmed", "cancelled", "completed", "no_show"])),
                gross_minor=draw(st.sampled_from([None, 0, 1000])), currency=draw(st.sampled_from([None, "EUR", "USD"])),
                client_id=draw(st.sampled_from([None, UUID(int=1), UUID(int=2)])),
                relinked_from=draw(st.sampled_from([None, UUID(int=1), UUID(int=2)])),
                rating=draw(st.sampled_from([None, 1, 5])), outcome=draw(st.sampled_from([None, "read"])),
            )
        )  # fmt: skip
    return items


@given(items=any_items(), seed=st.integers())
def test_any_set_folds_to_one_state_in_any_order(items: list[Item], seed: int) -> None:
    shuffled = random.Random(seed).sample(items, len(items))

    assert fold(shuffled, SETTINGS) == fold(items, SETTINGS)


@given(items=any_items(), seed=st.integers())
def test_a_chain_that_grows_in_any_batches_ends_as_the_whole_set_does(items: list[Item], seed: int) -> None:
    chance = random.Random(seed)
    shuffled = chance.sample(items, len(items))
    cuts = sorted(chance.choices(range(len(items) + 1), k=2))
    steps = grown([shuffled[: cuts[0]], shuffled[cuts[0] : cuts[1]], shuffled[cuts[1] :]])
    whole = fold(items, SETTINGS)

    assert (steps[-1].folded if steps else None) == whole


@given(items=any_items())
def test_an_item_survives_its_storage(items: list[Item]) -> None:
    assert [item_from_json(item_to_json(each)) for each in items] == items


def test_a_copy_that_says_nothing_of_the_time_hides_none_that_does() -> None:
    bare = item("cancelled", "O", DAY_ONE)
    full = item("cancelled", "O", DAY_ONE + HOUR, START)

    assert folded(bare, full) == folded(full)


def test_more_new_items_than_steps_still_end_as_the_whole_set() -> None:
    marks = [
        item("no_show_updated", "O", DAY_ONE + n * MINUTE, no_show=n % 2 == 0, key=n) for n in range(1, 200)
    ]
    items = [item("created", "O", DAY_ONE, START), *marks]
    steps = grow([], items, SETTINGS)

    assert len(steps) <= 32
    assert steps[-1].folded == folded(*items)


def test_marks_of_an_old_uid_are_void_once_a_later_one_exists() -> None:
    created = item("created", "O", DAY_ONE, START)
    marks = [
        item("no_show_updated", "O", START + DAY, no_show=True),
        item("meeting_ended", "O", START + HOUR, START, no_show=True, rating=1),
        item("cancelled", "O", START - HOUR, START),
    ]
    moved = item("rescheduled", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")

    assert folded(created, *marks).no_show
    assert folded(created, *marks, moved) == folded(created, moved)


def test_a_guests_marks_are_nothing_until_nothing_says_who_booked() -> None:
    booked = item("created", "O", DAY_ONE, START, attendee="ana")
    absent = item("no_show_updated", "O", DAY_ONE + DAY, no_show=True, attendee="ben")
    ended = item("meeting_ended", "O", START, START, no_show=True, attendee="ben")

    assert folded(booked, absent, ended) == folded(booked)
    assert folded(booked, replace(absent, attendee="ana")).status is ChainStatus.NO_SHOW
    assert folded(replace(booked, attendee=None), absent).status is ChainStatus.NO_SHOW
    assert folded(replace(ended, no_show=None), absent).status is ChainStatus.NO_SHOW


def test_a_request_of_which_one_hears_after_its_confirmation_takes_nothing_back() -> None:
    """A list of bookings says when one was made, not when it was confirmed."""
    confirmed = item("created", "O", DAY_ONE, START)
    request = item("requested", "O", DAY_ONE + MINUTE, START)

    assert folded(confirmed, request).status is ChainStatus.CONFIRMED


def test_a_booking_that_is_moved_under_its_uid_stands_where_it_was_moved_last() -> None:
    moves = [item("rescheduled", "O", DAY_ONE + n * DAY, START + n % 2 * DAY) for n in range(1, 5)]
    states = {
        folded(*order).start_at for order in random_orders([item("created", "O", DAY_ONE, START), *moves])
    }

    assert states == {START}
    assert folded(*moves[:3], copy_of(moves[2])).start_at == START + DAY


def test_a_late_link_makes_a_mark_count_again() -> None:
    """The uid that was marked turns out to be the later one."""
    created = item("created", "O", DAY_ONE, START)
    mark = item("no_show_updated", "N", START + DAY, no_show=True)
    moved = item("rescheduled", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")

    assert folded(created, moved, mark).status is ChainStatus.NO_SHOW


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("when", [-HOUR, 2 * HOUR, 9 * DAY])
def test_an_explicit_mark_stands_above_the_meetings_flags_whenever_it_came(
    marked: bool, when: timedelta
) -> None:
    created = item("created", "O", DAY_ONE, START)
    ended = item("meeting_ended", "O", START + HOUR, START, no_show=not marked or None)
    mark = item("no_show_updated", "O", START + when, no_show=marked)

    assert folded(created, ended, mark).no_show is marked


def test_the_end_of_a_meeting_completes_nothing() -> None:
    created = item("created", "O", DAY_ONE, START)
    ended = item("meeting_ended", "O", START + HOUR, START)
    done = item("service.completed", "O", START + 2 * HOUR)

    assert folded(created, ended).status is ChainStatus.CONFIRMED
    assert folded(created, ended, done).status is ChainStatus.COMPLETED


def test_a_later_no_show_takes_a_completion_back_and_a_completion_the_no_show() -> None:
    created = item("created", "O", DAY_ONE, START)
    done = item("service.completed", "O", START + 2 * HOUR)
    absent = item("no_show_updated", "O", START + 3 * HOUR, no_show=True)
    done_after_all = item("service.completed", "O", START + 4 * HOUR)

    assert folded(created, done, absent).status is ChainStatus.NO_SHOW
    assert folded(created, done, absent).completed_at is None
    assert folded(created, done, absent, done_after_all).status is ChainStatus.COMPLETED


def test_a_request_waits_for_the_salon_and_may_be_confirmed_or_rejected() -> None:
    requested = item("requested", "O", DAY_ONE, START)
    created = item("created", "O", DAY_ONE + HOUR, START)
    rejected = item("rejected", "O", DAY_ONE + HOUR, START)

    assert folded(requested).status is ChainStatus.PENDING
    assert folded(requested, created).confirmed_at == DAY_ONE + HOUR
    refused = folded(requested, rejected)
    assert (refused.status, refused.cancelled_by) == (ChainStatus.CANCELLED, Actor.SALON)
    assert (refused.cancel_reason, refused.confirmed_at) == (CancelReason.REJECTED, None)


def test_a_requested_move_makes_the_booking_wait_again_at_the_new_time() -> None:
    created = item("created", "O", DAY_ONE, START)
    asked = item("requested", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")
    agreed = item("created", "N", DAY_ONE + 2 * HOUR, START + DAY, previous_uid="O")

    waiting = folded(created, asked)
    assert (waiting.status, waiting.start_at, waiting.moves) == (ChainStatus.PENDING, START + DAY, 1)
    assert waiting.confirmed_at == DAY_ONE
    assert folded(created, asked, agreed).status is ChainStatus.CONFIRMED


def test_a_host_who_asks_for_another_time_loses_no_booking() -> None:
    created = item("created", "O", DAY_ONE, START)
    asked = item("reschedule_requested", "O", DAY_ONE + HOUR, START, actor="salon")
    moved = item("rescheduled", "N", DAY_ONE + DAY, START + DAY, previous_uid="O")

    assert folded(created, asked).cancel_reason is CancelReason.RESCHEDULE_REQUESTED
    assert folded(created, asked, moved).status is ChainStatus.CONFIRMED


def test_of_two_successors_the_later_one_stands_and_the_overlap_is_counted() -> None:
    created = item("created", "O", DAY_ONE, START)
    first = item("rescheduled", "N1", DAY_ONE + HOUR, START + DAY, previous_uid="O")
    after_first = item("rescheduled", "N2", DAY_ONE + 2 * HOUR, START + 2 * DAY, previous_uid="N1")
    second = item("rescheduled", "M1", DAY_ONE + 3 * HOUR, START + 3 * DAY, previous_uid="O")
    lost_cancel = item("cancelled", "N2", DAY_ONE + 4 * HOUR, START + 2 * DAY)

    for order in itertools.permutations([created, first, after_first, second, lost_cancel]):
        state = folded(*order)
        assert (state.uid, state.start_at, state.overlaps) == ("M1", START + 3 * DAY, 1)
        assert state.status is ChainStatus.CONFIRMED


def test_two_copies_of_one_move_are_no_overlap() -> None:
    created = item("created", "O", DAY_ONE, START)
    moved = item("rescheduled", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")

    assert folded(created, moved, copy_of(moved)).overlaps == 0


def test_links_that_run_in_a_circle_end() -> None:
    items = [
        item("rescheduled", "A", DAY_ONE, START, previous_uid="B"),
        item("rescheduled", "B", DAY_ONE + HOUR, START + DAY, previous_uid="C"),
        item("rescheduled", "C", DAY_ONE + 2 * HOUR, START + 2 * DAY, previous_uid="A"),
    ]

    (state,) = {folded(*order) for order in itertools.permutations(items)}
    assert state.uid == "B"  # opened before A, whose link was stated first: A, C, B


def test_money_is_added_in_the_tenants_currency_only() -> None:
    state = folded(
        item("created", "O", DAY_ONE, START),
        item("paid", "O", DAY_ONE, START, gross_minor=5000, currency="EUR"),
        item("payment.received", "O", DAY_ONE, gross_minor=2000, discount_minor=500, currency="EUR"),
        item("payment.received", "O", DAY_ONE, gross_minor=9000, currency="USD"),
        item("payment.refunded", "O", DAY_ONE, gross_minor=700, currency="EUR"),
    )

    assert (state.gross_minor, state.discount_minor, state.refund_minor) == (7000, 500, 700)
    assert (state.currency, state.other_currency_payments) == ("EUR", 1)


def test_a_payment_of_a_lost_uid_is_still_money() -> None:
    state = folded(
        item("created", "O", DAY_ONE, START),
        item("rescheduled", "N1", DAY_ONE + HOUR, START, previous_uid="O"),
        item("rescheduled", "M1", DAY_ONE + 2 * HOUR, START, previous_uid="O"),
        item("payment.received", "N1", DAY_ONE + HOUR, gross_minor=5000, currency="EUR"),
    )

    assert state.gross_minor == 5000


def test_a_chain_known_by_its_payment_only_counts_as_confirmed_and_one_known_by_its_cancellation_does_not() -> (
    None
):
    assert folded(item("paid", "O", DAY_ONE, START, gross_minor=1)).confirmed_at == DAY_ONE
    ended = folded(item("meeting_ended", "O", START + HOUR, START))
    assert (ended.created_at, ended.confirmed_at) == (START, START)
    assert folded(item("cancelled", "O", DAY_ONE, START)).confirmed_at is None


def test_a_payment_confirms_no_request() -> None:
    state = folded(
        item("requested", "O", DAY_ONE, START), item("paid", "O", DAY_ONE + HOUR, START, gross_minor=1)
    )

    assert state.status is ChainStatus.PENDING


def test_a_manual_move_stands_against_what_the_source_still_says() -> None:
    created = item("created", "O", DAY_ONE, START)
    moved = item("admin.manual_reschedule", "O", DAY_ONE + HOUR, START + DAY)
    ended = item("meeting_ended", "O", START + HOUR, START)

    state = folded(created, moved, ended)
    assert (state.start_at, state.moves, state.admin_actions) == (START + DAY, 1, 1)
    assert not state.admin_before_confirmation


def test_an_admins_act_counts_on_whichever_uid_it_names() -> None:
    created = item("created", "O", DAY_ONE, START)
    moved = item("rescheduled", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")
    cancelled = item("admin.manual_cancel", "O", DAY_ONE + 2 * HOUR)

    state = folded(created, moved, cancelled)
    assert (state.status, state.cancelled_by) == (ChainStatus.CANCELLED, Actor.SALON)


@pytest.mark.parametrize("status", ["confirmed", "cancelled", "completed", "no_show"])
def test_an_override_sets_any_status(status: str) -> None:
    created = item("created", "O", DAY_ONE, START)
    cancelled = item("cancelled", "O", DAY_ONE + HOUR, START)
    set_by_hand = item("admin.override_booking", "O", DAY_ONE + 2 * HOUR, status=status)

    assert folded(created, cancelled, set_by_hand).status == status


def test_only_the_reminder_for_the_start_that_stands_counts() -> None:
    def told(trigger: OwnTrigger, at: datetime, start: datetime, outcome: str | None = None) -> Item:
        return replace(item(str(trigger), None, at, start, outcome=outcome), kind=ItemKind.OUTCOME)

    created = item("created", "O", DAY_ONE, START)
    moved = item("rescheduled", "N", DAY_ONE + HOUR, START + DAY, previous_uid="O")
    before = told(OwnTrigger.REMINDER_ACCEPTED, START - DAY, START)
    after = told(OwnTrigger.REMINDER_ACCEPTED, START, START + DAY)
    read = told(OwnTrigger.REMINDER_ENDED, START + HOUR, START + DAY, "read")

    assert folded(created, before).reminder_outcome == "accepted"
    assert folded(created, before, moved).reminder_accepted_at is None
    state = folded(created, before, moved, after, read)
    assert (state.reminder_accepted_at, state.reminder_outcome) == (START, "read")


def test_staff_and_service_are_the_tenants_own_and_unmapped_is_nobody() -> None:
    state = folded(item("created", "O", DAY_ONE, START, staff_ref="host", service_ref="type"))
    strange = folded(item("created", "O", DAY_ONE, START, staff_ref="other", service_ref="other"))

    assert (state.staff_id, state.service_id) == ("anna", "cut")
    assert (strange.staff_id, strange.service_id) == (None, None)


def test_clients_who_turn_out_to_be_one_are_followed_to_the_end() -> None:
    one, two, three = (UUID(int=n) for n in (1, 2, 3))

    def is_now(before: UUID, after: UUID) -> Item:
        relink = item(str(OwnTrigger.CLIENT_RELINKED), None, DAY_ONE, relinked_from=before, client_id=after)
        return replace(relink, kind=ItemKind.RELINK)

    state = folded(item("created", "O", DAY_ONE, START, client_id=one), is_now(two, three), is_now(one, two))

    assert state.client_id == three


def test_the_rules_cover_every_trigger_and_their_table_is_fresh() -> None:
    covered = {str(trigger) for trigger in RULES}
    facts = {str(fact) for fact in FactType} - {"inventory.counted", "staff.shift_planned"}
    written = Path(__file__).parents[2].joinpath("docs/BOOKING_RULES.md").read_text(encoding="utf-8")
    printed = subprocess.run(
        [sys.executable, "-m", "turnout_booking.domain.rules"], capture_output=True, text=True, check=True
    ).stdout

    assert {str(trigger) for trigger in BookingTrigger} | facts | {str(own) for own in OwnTrigger} == covered
    assert written == markdown() == printed
