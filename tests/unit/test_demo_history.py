"""The demo's history is the same whenever it is made, and its truth is what a person would count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from turnout_cli.demo_day import Count, DayPlan, Enquiry, Sale, Shift
from turnout_cli.demo_history import MESSAGE_WINDOW, History, history
from turnout_cli.demo_life import Life, Payment
from turnout_cli.demo_metrics import true_metrics
from turnout_cli.demo_salon import Salon, demo_salon
from turnout_cli.demo_truth import true_counts
from turnout_cli.webhooks import calcom, telegram

SALON = demo_salon("Europe/Berlin", "EUR")
NOW = datetime(2026, 11, 24, 18, 40, tzinfo=UTC)
TODAY = date(2026, 11, 24)


def bodies(story: History) -> list[tuple[str, str, bytes]]:
    return [(timed.webhook.channel, timed.webhook.webhook_id, timed.webhook.body) for timed in story.webhooks]


def test_the_same_seed_tells_the_same_story_byte_for_byte() -> None:
    assert bodies(history(SALON, date(2026, 10, 1), TODAY, NOW)) == bodies(
        history(SALON, date(2026, 10, 1), TODAY, NOW)
    )
    assert bodies(history(SALON, date(2026, 10, 1), TODAY, NOW, seed=2)) != bodies(
        history(SALON, date(2026, 10, 1), TODAY, NOW)
    )


def test_a_shorter_or_later_window_holds_the_same_days() -> None:
    long = set(bodies(history(SALON, date(2026, 9, 1), TODAY, NOW)))
    later = set(bodies(history(SALON, date(2026, 9, 1), TODAY + timedelta(days=1), NOW + timedelta(days=1))))

    assert set(bodies(history(SALON, date(2026, 11, 10), TODAY, NOW))) <= long
    gone = [body for body in long - later if body[0] != "telegram"]
    assert gone == []


def test_nothing_is_told_before_it_happened_and_no_message_outside_its_window() -> None:
    story = history(SALON, date(2026, 9, 1), TODAY, NOW)

    assert all(timed.at <= NOW for timed in story.webhooks)
    assert [timed.at for timed in story.webhooks] == sorted(timed.at for timed in story.webhooks)
    told = [timed for timed in story.webhooks if timed.webhook.channel == "telegram"]
    assert told
    assert min(timed.at for timed in told) >= NOW - MESSAGE_WINDOW


def test_every_life_runs_forwards_and_no_member_serves_two_at_once() -> None:
    story = history(SALON, date(2026, 6, 1), TODAY, NOW)
    lives = list(story.lives)

    for life in lives:
        decided = life.confirmed_at or life.rejected_at
        told = [at for at in (life.asked_at, decided, life.moved_at, life.cancelled_at) if at]
        assert told == sorted(told)
        assert told[-1] < life.stands.start
    busy = sorted((life.staff_id, life.stands.start, life.stands.end) for life in lives)
    # What was typed in five minutes late may reach into the next appointment.
    slack = timedelta(minutes=5)
    assert all(a[0] != b[0] or a[2] <= b[1] + slack for a, b in pairwise(busy))
    assert len({life.stands.uid for life in lives}) == len(lives)


def test_the_story_has_every_kind_of_life() -> None:
    lives = list(history(SALON, date(2026, 6, 1), TODAY, NOW).lives)

    kinds: tuple[Callable[[Life], object], ...] = (
        lambda life: life.rejected_at,
        lambda life: life.moved_to and life.cancelled_at,
        lambda life: life.cancelled_at and life.cancelled_by == "admin",
        lambda life: life.no_show,
        lambda life: life.undone_at,
        lambda life: life.ended_at,
        lambda life: life.payment and life.payment.refund,
        lambda life: life.rating == 1,
    )
    for has in kinds:
        assert any(has(life) for life in lives)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """November 2026, local time of Berlin."""
    return datetime(2026, 11, day, hour - 1, minute, tzinfo=UTC)


def life_of(uid: str, guest: int, start: datetime, asked: datetime, price: int = 4000) -> Life:
    kind = calcom.EventType(77001, "cut", "Haircut", 60, price)
    booking = calcom.Booking(uid, 1, start, SALON.members[0].host, kind, SALON.guests[guest], asked)
    return Life(booking, "anna", "cut", asked, confirmed_at=asked)


def story_of(salon: Salon, lives: list[Life], **parts: list[object]) -> History:
    empty: dict[str, list[object]] = {"shifts": [], "sales": [], "counts": [], "enquiries": []}
    plan = DayPlan(date(2026, 11, 20), lives, **(empty | parts))  # type: ignore[arg-type]
    return History(salon, date(2026, 11, 20), date(2026, 11, 20), NOW, [plan], [])


def test_the_truth_counts_as_a_person_would() -> None:
    visit = replace(
        life_of("visit", 1, at(20, 12), at(18, 12)),
        completed_at=at(20, 13, 5),
        payment=Payment(at(20, 13, 6), 4000, 400, at(21, 10), 600),
        rated_at=at(20, 20),
        rating=5,
    )
    early = life_of("early", 2, at(20, 10), at(20, 7))
    late_cancel = replace(life_of("late", 3, at(20, 15), at(15, 15)), cancelled_at=at(19, 16))
    absent = replace(life_of("absent", 4, at(20, 19), at(19, 19)), no_show_at=at(20, 20, 5))
    moved = life_of("moved", 1, at(19, 17), at(17, 17))
    moved = replace(
        moved, moved_to=replace(moved.booking, uid="moved2", start=at(20, 16, 10)), moved_at=at(18, 9)
    )
    refused = replace(
        life_of("refused", 5, at(20, 9), at(19, 9)), confirmed_at=None, rejected_at=at(19, 9, 30)
    )
    story = story_of(
        SALON,
        [visit, early, late_cancel, absent, moved, refused],
        shifts=[Shift("s", "anna", at(6, 12), at(20, 9), at(20, 17), 30)],
        sales=[Sale("g", at(20, 11), "wax", 2, 2500, "EUR", "anna")],
        counts=[Count("c", at(20, 18), "wax", 20, 17)],
        enquiries=[Enquiry(telegram.Chat(7, "Ida"), 1, at(20, 9), ("?", "!"), None)],
    )

    day = date(2026, 11, 20)
    counts = true_counts(story, day, day, NOW)

    chains = {
        "booked": 5,
        "due": 4,
        "visits": 3,
        "noShows": 1,
        "cancelled": 1,
        "lateCancelled": 1,
        "rescheduled": 1,
    }
    assert {name: counts[name] for name in chains} == chains
    assert (counts["offPeak"], counts["onGrid"]) == (2, 4)  # 10:00 and 19:00; 16:10 is off the grid
    assert (counts["visitsGross"], counts["visitsNet"], counts["visitsWithFeedback"]) == (4000, 3000, 1)
    assert (counts["clients"], counts["newClients"], counts["returningClients"]) == (2, 2, 1)
    assert counts["rebookedVisits"] == 1  # guest 1 came at noon and had the next one booked
    assert (counts["serviceMinutes"], counts["rosteredMinutes"]) == (180, 450)
    assert (counts["goodsNet"], counts["stockDeviation"], counts["stockExpected"]) == (2500, 3, 20)
    lead = sum(hours * 3600 for hours in (48, 3, 120, 24)) + (at(20, 16, 10) - at(17, 17)).total_seconds()
    assert counts["leadSeconds"] == lead
    intents = {"intents": 2, "closedIntents": 2, "confirmedIntents": 1}  # of that day: `early` and the chat
    assert {name: counts[name] for name in intents} == intents
    metrics = true_metrics(counts)
    assert (metrics["noShowRate"], metrics["avgTicket"], metrics["inventoryVariancePct"]) == (
        25.0,
        1000,
        15.0,
    )


def test_an_answer_as_of_an_earlier_time_counts_what_was_past_then() -> None:
    soon = life_of("soon", 1, at(24, 18), at(23, 18))
    day, story = date(2026, 11, 24), story_of(SALON, [soon])

    before = true_counts(story, day, day, at(24, 18))
    within = true_counts(story, day, day, at(24, 20, 59))
    after = true_counts(story, day, day, at(24, 21))

    assert [(c["booked"], c["due"], c["visits"]) for c in (before, within, after)] == [
        (1, 0, 0),
        (1, 1, 0),
        (1, 1, 1),
    ]


def test_metrics_without_a_denominator_are_null() -> None:
    counts = true_counts(story_of(SALON, []), date(2026, 11, 20), date(2026, 11, 20), NOW)

    metrics = true_metrics(counts)

    assert metrics["noShowRate"] is None
    assert metrics["revenueNet"] == 0


def test_of_two_visits_that_start_together_one_is_the_first_and_the_other_came_again() -> None:
    story = story_of(SALON, [life_of(uid, 1, at(20, 10), at(20, 7)) for uid in ("mine", "my friend's")])

    counts = true_counts(story, date(2026, 11, 20), date(2026, 11, 20), at(21, 10))

    clients = ("clients", "newClients", "returningClients", "retainedClients")
    assert [counts[name] for name in clients] == [1, 1, 1, 1]
