"""Intents are derived from what a client wrote and booked, in whatever order it came (design §4). Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_booking.domain.fold import FoldSettings, fold
from turnout_booking.domain.intents import ChainWish, ChatItem, KnownIntent, Wish, derive, intent_state
from turnout_booking.domain.items import Item, ItemKind
from turnout_common.events import IntentOutcome
from turnout_common.ids import derived_id

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = NINE + 5 * DAY


def message(at: datetime) -> ChatItem:
    return ChatItem(derived_id("message", str(at)), at, "telegram")


def reply(at: datetime) -> ChatItem:
    return ChatItem(derived_id("reply", str(at)), at, "events", reply=True)


def chain(
    uid: str,
    created: datetime,
    confirmed: datetime | None = None,
    rejected: datetime | None = None,
    pin: UUID | None = None,
) -> ChainWish:
    """A booking that was requested, and confirmed or rejected."""
    said = [("requested", created), ("created", confirmed), ("rejected", rejected)]
    items = [
        Item(derived_id(uid, trigger), ItemKind.SOURCE, trigger, at, "calcom", "calcom", uid,
             start_at=START, end_at=START + HOUR, intent_id=pin)
        for trigger, at in said if at is not None
    ]  # fmt: skip
    folded = fold(items, FoldSettings("EUR"))
    assert folded is not None
    return ChainWish(derived_id("chain", uid), folded)


def wishes_of(
    chat: Sequence[ChatItem], chains: Sequence[ChainWish] = (), known: Sequence[KnownIntent] = ()
) -> list[Wish]:
    numbers = count(1)
    return sorted(derive(chat, chains, known, lambda: UUID(int=next(numbers))), key=lambda w: w.opened_at)


def test_messages_within_a_day_are_one_wish_and_later_ones_another() -> None:
    wishes = wishes_of([message(NINE), message(NINE + 23 * HOUR), message(NINE + 24 * HOUR)])

    assert [wish.opened_at for wish in wishes] == [NINE, NINE + 24 * HOUR]


def test_a_booking_belongs_to_the_wish_that_is_open_when_it_is_made() -> None:
    (wish,) = wishes_of([message(NINE)], [chain("O", NINE + MINUTE, NINE + MINUTE)])
    state = intent_state(wish, UUID(int=7))

    assert (state.implicit, state.opened_at, state.closed_at) == (False, NINE, NINE + MINUTE)
    assert (state.outcome, state.booking_id) == (IntentOutcome.CONFIRMED, derived_id("chain", "O"))


def test_a_booking_without_a_chat_has_a_wish_of_its_own() -> None:
    (wish,) = wishes_of([], [chain("O", NINE, NINE + HOUR)])
    state = intent_state(wish, None)

    assert (state.implicit, state.opened_at, state.confirmed_at) == (True, NINE, NINE + HOUR)


def test_a_confirmation_ends_the_wish_so_that_the_next_message_opens_another() -> None:
    wishes = wishes_of([message(NINE), message(NINE + HOUR)], [chain("O", NINE + MINUTE, NINE + MINUTE)])

    assert [wish.chain is not None for wish in wishes] == [True, False]


@pytest.mark.parametrize("first", ["A", "B"])
def test_of_two_bookings_made_at_once_the_same_one_has_the_wish_whichever_came_first(first: str) -> None:
    made = [replace(chain(uid, NINE, NINE), booking_id=UUID(int=1 if uid == first else 2)) for uid in "AB"]
    spoken, _ = wishes_of([message(NINE - MINUTE)], made)

    assert spoken.chain is not None
    assert spoken.chain.folded.uid == "A"


def test_a_refusal_ends_the_wish() -> None:
    (wish,) = wishes_of([message(NINE)], [chain("O", NINE + MINUTE, rejected=NINE + HOUR)])
    state = intent_state(wish, None)

    assert (state.outcome, state.closed_at, state.confirmed_at) == (IntentOutcome.REFUSED, NINE + HOUR, None)


def test_of_two_bookings_in_one_wish_the_first_one_has_it() -> None:
    wishes = wishes_of([message(NINE)], [chain("B", NINE + 2 * MINUTE), chain("A", NINE + MINUTE)])

    assert [(w.opening_key is None, w.chain and w.chain.folded.uid) for w in wishes] == [
        (False, "A"),
        (True, "B"),
    ]


def test_answers_count_while_the_wish_is_open() -> None:
    chat = [message(NINE), reply(NINE + MINUTE), reply(NINE + 2 * HOUR), reply(NINE - MINUTE)]
    (wish,) = wishes_of(chat, [chain("O", NINE + HOUR, NINE + HOUR)])
    state = intent_state(wish, None)

    assert (state.admin_actions, state.admin_before_confirmation) == (1, True)


def test_a_booking_that_names_its_wish_has_it_whenever_it_is_made() -> None:
    intent_id = UUID(int=99)
    known = [KnownIntent(intent_id, message(NINE).key)]
    booked = chain("O", NINE + 30 * HOUR, NINE + 30 * HOUR, pin=intent_id)
    (wish,) = wishes_of([message(NINE)], [booked], known)

    assert (wish.intent_id, wish.chain) == (intent_id, booked)


def test_two_bookings_cannot_name_one_wish() -> None:
    intent_id = UUID(int=99)
    known = [KnownIntent(intent_id, message(NINE).key)]
    booked = [chain(uid, NINE + HOUR, pin=intent_id) for uid in ("A", "B")]
    wishes = wishes_of([message(NINE)], booked, known)

    assert sorted(w.opening_key is None for w in wishes) == [False, True]


def test_a_wish_that_is_not_known_here_is_not_taken_for_granted() -> None:
    (wish,) = wishes_of([], [chain("O", NINE, pin=UUID(int=99))])

    assert wish.intent_id == UUID(int=1)


def test_a_known_wish_keeps_its_id_when_an_earlier_message_turns_up() -> None:
    known = [KnownIntent(UUID(int=99), message(NINE).key)]
    (wish,) = wishes_of([message(NINE), message(NINE - HOUR)], (), known)

    assert (wish.intent_id, wish.opened_at) == (UUID(int=99), NINE - HOUR)


@given(
    minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=12),
    booked=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 300)), max_size=4, unique_by=lambda b: b[0]
    ),
    answered=st.lists(st.integers(0, 4000), max_size=4),
    seed=st.integers(),
)
def test_any_order_gives_the_same_wishes(
    minutes: list[int], booked: list[tuple[int, int]], answered: list[int], seed: int
) -> None:
    chat = [message(NINE + m * MINUTE) for m in minutes] + [reply(NINE + m * MINUTE) for m in answered]
    chains = [chain(f"uid{at}", NINE + at * MINUTE, NINE + (at + later) * MINUTE) for at, later in booked]
    chance = random.Random(seed)
    shuffled = wishes_of(chance.sample(chat, len(chat)), chance.sample(chains, len(chains)))
    wishes = wishes_of(chat, chains)

    def facts(found: list[Wish]) -> set[object]:
        return {
            (w.opened_at, w.opening_key, w.chain.folded.uid if w.chain else None, w.replies) for w in found
        }

    assert facts(shuffled) == facts(wishes)
    assert sorted(w.chain.folded.uid for w in wishes if w.chain) == sorted(c.folded.uid for c in chains)
    explicit = [w for w in wishes if w.opening_key is not None]
    assert all(earlier.ends_at <= later.opened_at for earlier, later in pairwise(explicit))
