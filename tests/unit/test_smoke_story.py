"""The day that smoke plays: in any hour of the real day its zone is at midday, and its numbers are what a person counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from turnout_cli.smoke_checks import SmokeFailed, difference, until
from turnout_cli.smoke_story import expected_kpis, midday_zone, new_story

NOW = datetime(2026, 11, 24, 22, 40, 11, 5, tzinfo=UTC)


@pytest.mark.parametrize("hour", range(24))
def test_it_is_always_early_afternoon(hour: int) -> None:
    now = NOW.replace(hour=hour)

    assert now.astimezone(ZoneInfo(midday_zone(now))).hour == 13


def test_all_of_the_past_is_past_and_the_upcoming_is_more_than_a_day_ahead() -> None:
    story = new_story("smoke-0a1b2c3d", NOW)

    assert story.visit.end < NOW - timedelta(hours=2)
    assert story.upcoming.start > NOW + timedelta(hours=25)
    assert story.at(story.yesterday, 9) - story.moved.start == -timedelta(hours=5)
    lead = (story.moved.start - story.first.booked_at, story.visit.start - story.visit.booked_at)
    assert sum(lead, timedelta()) / 2 == timedelta(hours=50)


def test_two_runs_share_no_id() -> None:
    one, two = new_story("smoke-0a1b2c3d", NOW), new_story("smoke-0a1b2c3e", NOW)

    ids = [
        {(webhook.webhook_id, webhook.body) for webhook in [*story.past(), story.question()]}
        for story in (one, two)
    ]
    assert not ids[0] & ids[1]
    assert len({story.sharing.chat_id for story in (one, two)}) == 2


def test_a_copy_is_byte_for_byte_the_same() -> None:
    story = new_story("smoke-0a1b2c3d", NOW)

    assert story.past() == story.past()
    assert len({(w.channel, w.webhook_id, w.body) for w in story.past()}) == len(story.past())


def test_every_expected_day_is_another_window() -> None:
    windows = [(each.first, each.last, each.staff_id) for each in expected_kpis(new_story("smoke-1", NOW))]

    assert len(set(windows)) == len(windows) == 5


async def test_a_condition_that_does_not_come_tells_what_was_expected_and_came() -> None:
    async def read() -> dict[str, int]:
        return {"a": 1, "b": 2}

    with pytest.raises(SmokeFailed, match=r"fates: b: expected 3, came 2.*Look at: the log"):
        await until(read, {"a": 1, "b": 3}, "fates", "the log", 0.0)


@pytest.mark.parametrize(
    ("expected", "came", "words"),
    [
        ({"a": {"x", "y"}}, {"a": {"x"}}, "a: expected x, y, came x"),
        ({"a": 1}, {}, "a: expected 1, came nothing"),
        ({}, {"a": 1}, "a: expected nothing, came 1"),
        (2, 0, "expected 2, came 0"),
    ],
)
def test_a_difference_is_told_in_words(expected: object, came: object, words: str) -> None:
    assert difference(expected, came) == words
