"""What one day of the demo salon brought, and the webhooks that told it. Pure values; demo_planning makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Protocol

from turnout_cli.demo_life import Life
from turnout_cli.webhooks import Webhook, facts, telegram

TimedWebhook = tuple[datetime, Webhook]


class Told(Protocol):
    """Something that happened, as its webhooks tell it."""

    def webhooks(self) -> Iterator[TimedWebhook]: ...


@dataclass(frozen=True)
class Shift:
    """Rostered time of one member of staff."""

    shift_id: str
    staff_id: str
    planned_at: datetime
    start: datetime
    end: datetime
    break_minutes: int

    def webhooks(self) -> Iterator[TimedWebhook]:
        yield (
            self.planned_at,
            facts.shift_planned(
                self.shift_id, self.planned_at, self.staff_id, self.start, self.end, self.break_minutes
            ),
        )


@dataclass(frozen=True)
class Sale:
    """Goods sold over the counter, outside a visit; `gross` in minor units for all of them."""

    sale_id: str
    at: datetime
    article: str
    quantity: int
    gross: int
    currency: str
    staff_id: str

    def webhooks(self) -> Iterator[TimedWebhook]:
        yield (
            self.at,
            facts.sold(
                self.sale_id, self.at, self.article, self.quantity, self.gross, self.currency, self.staff_id
            ),
        )


@dataclass(frozen=True)
class Count:
    """Stock that was counted."""

    count_id: str
    at: datetime
    article: str
    expected: int
    counted: int

    def webhooks(self) -> Iterator[TimedWebhook]:
        yield self.at, facts.counted(self.count_id, self.at, self.article, self.expected, self.counted)


@dataclass(frozen=True)
class Enquiry:
    """A Telegram chat of one or two messages that ends without a booking."""

    chat: telegram.Chat
    update_id: int
    asked_at: datetime
    words: tuple[str, str]
    more_at: datetime | None

    def webhooks(self) -> Iterator[TimedWebhook]:
        first, second = self.words
        yield self.asked_at, telegram.text(self.update_id, self.chat, 11, self.asked_at, first)
        if self.more_at is not None:
            yield self.more_at, telegram.text(self.update_id + 1, self.chat, 13, self.more_at, second)


@dataclass(frozen=True)
class DayPlan:
    """Everything that the day brought: its appointments by their day, the rest by when it happened."""

    day: date
    lives: Sequence[Life]
    shifts: Sequence[Shift]
    sales: Sequence[Sale]
    counts: Sequence[Count]
    enquiries: Sequence[Enquiry]

    def until(self, now: datetime, messages_from: datetime) -> DayPlan:
        """What has happened up to `now`; no message from before `messages_from`."""
        asked = [each for each in self.enquiries if messages_from <= each.asked_at <= now]
        return DayPlan(
            self.day,
            [cut for life in self.lives if (cut := life.until(now)) is not None],
            [shift for shift in self.shifts if shift.planned_at <= now],
            [sale for sale in self.sales if sale.at <= now],
            [count for count in self.counts if count.at <= now],
            [replace(each, more_at=None) if each.more_at and each.more_at > now else each for each in asked],
        )

    def webhooks(self) -> Iterator[TimedWebhook]:
        parts: tuple[Sequence[Told], ...] = (
            self.lives,
            self.shifts,
            self.sales,
            self.counts,
            self.enquiries,
        )
        for part in parts:
            for each in part:
                yield from each.webhooks()
