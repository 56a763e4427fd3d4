"""One appointment of the demo from the first click to the rating: what happened when, and the webhooks that told it.

A Life is the truth; `webhooks` says it in the providers' words, `until` cuts off what lies ahead. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from turnout_cli.webhooks import Webhook, calcom, facts

CancelledBy = Literal["client", "salon", "admin"]


@dataclass(frozen=True)
class Payment:
    """What was paid for a visit, and what was given back later; minor units."""

    at: datetime
    gross: int
    discount: int = 0
    refunded_at: datetime | None = None
    refund: int = 0


@dataclass(frozen=True)
class Life:
    """One appointment. `booking` is the first one at Cal.com, `moved_to` the one after the reschedule."""

    booking: calcom.Booking
    staff_id: str
    service_id: str
    asked_at: datetime
    confirmed_at: datetime | None = None
    rejected_at: datetime | None = None
    moved_to: calcom.Booking | None = None
    moved_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancelled_by: CancelledBy = "client"
    no_show_at: datetime | None = None
    undone_at: datetime | None = None
    ended_at: datetime | None = None
    completed_at: datetime | None = None
    payment: Payment | None = None
    rated_at: datetime | None = None
    rating: int = 0

    @property
    def stands(self) -> calcom.Booking:
        """The booking as it stands now."""
        return self.moved_to or self.booking

    @property
    def no_show(self) -> bool:
        return self.no_show_at is not None and self.undone_at is None

    def until(self, now: datetime) -> Life | None:
        """What has happened up to `now`; None when nothing has."""
        if self.asked_at > now:
            return None
        changes: dict[str, object] = {
            name: None
            for name in ("confirmed_at", "rejected_at", "cancelled_at", "no_show_at", "undone_at", "ended_at",
                         "completed_at", "rated_at", "moved_at")
            if (at := getattr(self, name)) is not None and at > now
        }  # fmt: skip
        if "moved_at" in changes:
            changes["moved_to"] = None
        if "rated_at" in changes:
            changes["rating"] = 0
        return replace(self, payment=_paid_until(self.payment, now), **changes)  # type: ignore[arg-type]

    def webhooks(self) -> Iterator[tuple[datetime, Webhook]]:
        """Everything that happened, each with its time."""
        yield from self._booked()
        yield from self._ended()
        yield from self._paid_and_rated()

    def _booked(self) -> Iterator[tuple[datetime, Webhook]]:
        first, stands = self.booking, self.stands
        if self.asked_at != self.confirmed_at:
            yield self.asked_at, calcom.requested(first, self.asked_at)
        if self.confirmed_at is not None:
            yield self.confirmed_at, calcom.created(first, self.confirmed_at)
        if self.rejected_at is not None:
            yield self.rejected_at, calcom.rejected(first, self.rejected_at)
        if self.moved_at is not None and self.moved_to is not None:
            yield self.moved_at, calcom.rescheduled(first, self.moved_to, self.moved_at)
        if self.cancelled_at is not None:
            yield self.cancelled_at, self._cancelled(stands, self.cancelled_at)

    def _cancelled(self, stands: calcom.Booking, at: datetime) -> Webhook:
        if self.cancelled_by == "admin":
            return facts.manual_cancel(f"cancel-{stands.uid}", at, stands.uid, self.staff_id)
        by = stands.host.email if self.cancelled_by == "salon" else stands.guest.email
        return calcom.cancelled(stands, at, by=by)

    def _ended(self) -> Iterator[tuple[datetime, Webhook]]:
        stands = self.stands
        if self.no_show_at is not None:
            yield self.no_show_at, calcom.no_show(stands, self.no_show_at)
        if self.undone_at is not None:
            yield self.undone_at, calcom.no_show(stands, self.undone_at, marked=False)
        if self.ended_at is not None:
            yield self.ended_at, calcom.meeting_ended(stands)
        if self.completed_at is not None:
            yield self.completed_at, facts.completed(f"done-{stands.uid}", self.completed_at, stands.uid)

    def _paid_and_rated(self) -> Iterator[tuple[datetime, Webhook]]:
        uid, paid = self.stands.uid, self.payment
        currency = self.stands.event_type.currency.upper()
        if paid is not None:
            yield paid.at, facts.paid(f"paid-{uid}", paid.at, uid, paid.gross, currency, paid.discount)
            if paid.refunded_at is not None:
                yield (
                    paid.refunded_at,
                    facts.refunded(f"refund-{uid}", paid.refunded_at, uid, paid.refund, currency),
                )
        if self.rated_at is not None:
            yield self.rated_at, facts.rated(f"rated-{uid}", self.rated_at, self.rating, uid)


def _paid_until(payment: Payment | None, now: datetime) -> Payment | None:
    if payment is None or payment.at > now:
        return None
    if payment.refunded_at is not None and payment.refunded_at > now:
        return replace(payment, refunded_at=None, refund=0)
    return payment
