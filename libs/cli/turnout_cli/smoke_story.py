"""What smoke tells the system, and what the system must then say: two bookings of yesterday, a chat, one of tomorrow.

Pure: the run's id and the time are passed in. Every number that is expected follows from the times in this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from turnout_cli.webhooks import Webhook, calcom, facts, instagram, max, telegram, vk, whatsapp

LOCAL_HOUR = 13
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STAFF, SERVICE = "anna", "cut"
PHONE = "+493023125777"
HOST = calcom.Host(4101, "Anna Weiss", "anna")
EVENT_TYPE = calcom.EventType(77001, "cut", "Haircut", 60, 5000)
STAFF_MAP, SERVICE_MAP = {"4101": STAFF}, {"77001": SERVICE}
CANCELLED_TYPES = {"booking.created", "booking.confirmed", "booking.rescheduled", "booking.cancelled"}
VISIT_TYPES = {
    *("booking.created", "booking.confirmed", "booking.no_show", "booking.no_show_reverted"),
    *("booking.completed", "payment.received", "feedback.received"),
}
UPCOMING_TYPES = {"booking.created", "booking.confirmed"}


def midday_zone(now: datetime) -> str:
    """A zone in which it is about one in the afternoon: no midnight comes near, and no quiet hours hold a message back."""
    ahead = LOCAL_HOUR - now.astimezone(UTC).hour
    return "Etc/GMT" if ahead == 0 else f"Etc/GMT{-ahead:+d}"  # POSIX turns the sign round


@dataclass(frozen=True)
class Story:
    """The webhooks of one run, and the days that they are about."""

    run: str
    now: datetime
    timezone: str
    moved: calcom.Booking
    first: calcom.Booking
    visit: calcom.Booking
    upcoming: calcom.Booking
    asking: telegram.Chat
    sharing: telegram.Chat

    @property
    def today(self) -> date:
        return self.now.astimezone(ZoneInfo(self.timezone)).date()

    @property
    def yesterday(self) -> date:
        return self.today - DAY

    @property
    def booked_on(self) -> date:
        """The day on which yesterday's bookings were made."""
        return self.yesterday - 2 * DAY

    @property
    def upcoming_day(self) -> date:
        return self.today + 2 * DAY

    def at(self, day: date, hour: int, minute: int = 0) -> datetime:
        return datetime.combine(day, time(hour, minute), ZoneInfo(self.timezone)).astimezone(UTC)

    def hello(self) -> Webhook:
        """What Cal.com's test button sends: known, and not needed."""
        return calcom.ping(self.now)

    def cancelled_life(self) -> list[Webhook]:
        """Created, moved, and five hours before its start cancelled."""
        return [
            calcom.created(self.first, self.first.booked_at),
            calcom.rescheduled(self.first, self.moved, self.at(self.yesterday - DAY, 10)),
            calcom.cancelled(self.moved, self.at(self.yesterday, 9)),
        ]

    def visit_life(self) -> list[Webhook]:
        """Created, marked as no-show, the mark taken back, completed, paid and rated."""
        uid, day = self.visit.uid, self.yesterday
        return [
            calcom.created(self.visit, self.visit.booked_at),
            calcom.no_show(self.visit, self.at(day, 13, 10)),
            calcom.no_show(self.visit, self.at(day, 13, 40), marked=False),
            facts.completed(f"{self.run}-done", self.at(day, 13, 45), uid, STAFF),
            facts.paid(f"{self.run}-paid", self.at(day, 13, 50), uid, 5000, "EUR", 500),
            facts.rated(f"{self.run}-rated", self.at(day, 16), 5, uid),
        ]

    def other_facts(self) -> list[Webhook]:
        """A shift, stock that was counted, goods that were sold."""
        day, before = self.yesterday, self.at(self.yesterday - 7 * DAY, 12)
        start, end = self.at(day, 9), self.at(day, 17)
        return [
            facts.shift_planned(f"{self.run}-shift", before, STAFF, start, end, 30),
            facts.counted(f"{self.run}-count", self.at(day, 17, 30), "wax-75ml", 10, 9),
            facts.sold(f"{self.run}-sale", self.at(day, 15), "wax-75ml", 2, 1900, "EUR", STAFF),
        ]

    def past(self) -> list[Webhook]:
        return [*self.cancelled_life(), *self.visit_life(), *self.other_facts()]

    def question(self) -> Webhook:
        return telegram.text(self._update_id(1), self.asking, 21, self.now, "Do you have time on Friday?")

    def messengers(self) -> list[Webhook]:
        """The same question by a client of each other messenger."""
        words, number, at = "Do you have time on Friday?", self._number, self.now
        salon = whatsapp.Number(self.routing_ids["whatsapp"], "493023125000")
        client = whatsapp.Client("493023125778", "Olga")
        return [
            whatsapp.text(salon, client, f"wamid.{self.run}", at, words),
            instagram.text(self.routing_ids["instagram"], f"7{number:011d}", f"mid.{self.run}", at, words),
            vk.text(f"{self.run}-1", self._vk_chat, 31, at, words),
            max.text(max.Chat(6_000_000_000 + number, "Rita"), 41, at, words),
        ]

    def vk_confirmation(self) -> Webhook:
        return vk.confirmation(self._vk_chat)

    @property
    def routing_ids(self) -> dict[str, str]:
        """The salon's accounts, of this run alone: an account belongs to one tenant."""
        number = self._number
        return {"whatsapp": f"1{number:014d}", "instagram": f"17{number:015d}", "vk": str(number + 1)}

    @property
    def _vk_chat(self) -> vk.Chat:
        return vk.Chat(700_000_001, int(self.routing_ids["vk"]))

    def shared_phone(self) -> Webhook:
        return telegram.contact_shared(self._update_id(2), self.sharing, 22, self.now, PHONE)

    def upcoming_booking(self, at: datetime) -> Webhook:
        """Made now, by the client who shared their phone: what we tell them goes to that chat."""
        return calcom.created(replace(self.upcoming, booked_at=at), at)

    def malformed(self) -> Webhook:
        return Webhook("calcom", f'{{"triggerEvent":"BOOKING_CREATED","run":"{self.run}",'.encode())

    def _update_id(self, number: int) -> int:
        return self._number * 10 + number

    @property
    def _number(self) -> int:
        return int(self.run.rsplit("-", 1)[-1], 16)

    @property
    def chats(self) -> int:
        """Clients who wrote by a messenger."""
        return len(self.messengers()) + 2

    def fates(self) -> dict[str, int]:
        """Past webhooks and the questions came twice; two more were new; one was malformed, two only ask for an answer."""
        past, messengers = len(self.past()), len(self.messengers())
        return {
            "published": past + 3 + messengers,
            "duplicate": past + 1 + messengers,
            "quarantined": 1,
            "ignored": 2,
        }

    def chains(self) -> dict[str, set[str]]:
        """Event types by the uid that stands now."""
        return {
            self.moved.uid: CANCELLED_TYPES,
            self.visit.uid: VISIT_TYPES,
            self.upcoming.uid: UPCOMING_TYPES,
        }


def new_story(run: str, now: datetime) -> Story:
    """`run` ends in `-` and hex digits."""
    now = now.replace(microsecond=0)
    zone = midday_zone(now)
    booking = calcom.Booking(f"{run}-first", 501, now, HOST, EVENT_TYPE, _guest(run, 1), now)
    story = Story(
        run, now, zone, booking, booking, booking, booking,
        telegram.Chat(_chat_id(run, 1), "Ida", "en"), telegram.Chat(_chat_id(run, 2), "Mila", "en"),
    )  # fmt: skip
    made = story.at(story.booked_on, 10)
    first = replace(booking, start=story.at(story.yesterday, 10), booked_at=made)
    moved = replace(
        first, uid=f"{run}-moved", booking_id=502, start=story.at(story.yesterday, 14), sequence=1
    )
    visit_made = story.at(story.booked_on, 12)
    visit = calcom.Booking(
        f"{run}-visit", 503, story.at(story.yesterday, 12), HOST, EVENT_TYPE, _guest(run, 2), visit_made
    )
    upcoming = calcom.Booking(
        f"{run}-upcoming", 504, story.at(story.upcoming_day, 12), HOST, EVENT_TYPE, _guest(run, 3, PHONE), now
    )
    return replace(story, first=first, moved=moved, visit=visit, upcoming=upcoming)


def _guest(run: str, number: int, phone: str | None = None) -> calcom.Guest:
    return calcom.Guest(f"Guest {number}", f"guest{number}.{run}@guest.example", phone, "en")


def _chat_id(run: str, number: int) -> int:
    return 8_000_000_000 + int(run.rsplit("-", 1)[-1], 16) * 10 + number


@dataclass(frozen=True)
class Expected:
    """What `GET /kpi/...` must answer for some days; names not listed are not looked at."""

    name: str
    first: date
    last: date
    metrics: Mapping[str, float | int | None]
    counts: Mapping[str, int]
    staff_id: str | None = None

    @property
    def figures(self) -> dict[str, float | int | None]:
        return {**self.metrics, **self.counts}


def expected_kpis(story: Story) -> Sequence[Expected]:
    yesterday, today, made, ahead = story.yesterday, story.today, story.booked_on, story.upcoming_day
    appointments = {
        "noShowRate": 0.0,
        "cancellationRate": 50.0,
        "lateCancellationRate": 50.0,
        "rescheduleRate": 50.0,
        "completionRate": 100.0,
        "offPeakShare": 0.0,
        "gridAlignmentRate": 100.0,
        "leadTimeHours": 50.0,  # 52 h from Monday 10:00 to Wednesday 14:00, and 48 h
        "avgTicket": 4500,
        "revenueGross": 5000,
        "revenueNet": 4500,
        "feedbackCoverage": 100.0,
        "utilizationRate": 13.3,  # one hour of 7.5
    }
    events = {"feedbackAvg": 5.0, "inventoryVariancePct": 10.0, "goodsRevenueNet": 1900}
    booked = {
        "booked": 2,
        "cancelled": 1,
        "lateCancelled": 1,
        "rescheduled": 1,
        "due": 1,
        "visits": 1,
        "noShows": 0,
    }
    return (
        Expected("yesterday", yesterday, yesterday, appointments | events | {"newClients": 1}, booked),
        Expected("yesterday, Anna's own", yesterday, yesterday, appointments, booked, staff_id=STAFF),
        Expected(
            "the day they were booked", made, made,
            {"bookingSuccessRate": 100.0, "bookingAutomationRate": 100.0, "adminInterventionRate": 0.0,
             "meanTimeToResolveIntentSec": 0.0, "cancellationRate": None},
            {"intents": 2, "closedIntents": 2, "confirmedIntents": 2, "booked": 0},
        ),
        Expected(
            "today", today, today,
            {"bookingSuccessRate": 100.0, "messageFailureRate": 0.0, "deadLetterRate": 0.0},
            {"intents": story.chats, "openIntents": story.chats - 1, "confirmedIntents": 1,
             "messagesAttempted": 1, "messagesAccepted": 1},
        ),
        Expected("the day after tomorrow", ahead, ahead, {"noShowRate": None}, {"booked": 1, "due": 0, "visits": 0}),
    )  # fmt: skip
