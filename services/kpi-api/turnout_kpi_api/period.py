"""Windows of local days: day, ISO week, month, from/to, and the window before. Pure, safe on days with 23 or 25 hours.

In: what the caller asked for and now. Out: a `Window`, whose bounds are instants of the zone's own midnights.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

#: The longest window that one request may ask for.
MAX_DAYS = 400
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
#: Far enough from the ends of the calendar that no zone and no previous window runs over them.
_FIRST, _LAST = date(1970, 1, 1), date(9000, 1, 1)


class Period(StrEnum):
    """What a window is called; `custom` is any other run of days."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    CUSTOM = "custom"


class PeriodError(ValueError):
    """The window that was asked for does not exist; the text says why and what to send."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True)
class Window:
    """The local days `first` to `last`, both included, of `zone`."""

    period: Period
    first: date
    last: date
    zone: ZoneInfo

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def start(self) -> datetime:
        """The instant at which the window begins, in UTC."""
        return day_start(self.first, self.zone)

    @property
    def end(self) -> datetime:
        """The instant at which the window is over: the next local midnight after it, in UTC."""
        return day_start(self.last + _DAY, self.zone)

    def previous(self) -> Window:
        """As many days, right before this window."""
        length = timedelta(days=self.days)
        return Window(self.period, self.first - length, self.last - length, self.zone)


def resolve(
    period: Period | None, first: date | None, last: date | None, zone: ZoneInfo, now: datetime
) -> Window:
    """The window of a request.

    Neither date: the current `period`. `first` alone: the `period` that holds it. Both: exactly those days, both
    included. Raises PeriodError.
    """
    if first is None:
        if last is not None:
            raise PeriodError("from", "`to` is set without `from`; send both, or `from` alone")
        first = now.astimezone(zone).date()
    if not _FIRST <= first <= _LAST:
        raise PeriodError("from", f"`from` must lie between {_FIRST} and {_LAST}")
    if last is None:
        return _calendar_window(period or Period.DAY, first, zone)
    if not first <= last <= _LAST:
        raise PeriodError("to", f"`to` ({last}) must not lie before `from` ({first}), nor after {_LAST}")
    if (days := (last - first).days + 1) > MAX_DAYS:
        raise PeriodError("to", f"the window has {days} days; at most {MAX_DAYS} can be asked for at once")
    custom = Window(Period.CUSTOM, first, last, zone)
    named = _calendar_window(period, first, zone) if period else custom
    return named if (named.first, named.last) == (first, last) else custom


def _calendar_window(period: Period, holding: date, zone: ZoneInfo) -> Window:
    match period:
        case Period.WEEK:
            first = holding - timedelta(days=holding.weekday())
            return Window(period, first, first + timedelta(days=6), zone)
        case Period.MONTH:
            first = holding.replace(day=1)
            next_month = (first + timedelta(days=31)).replace(day=1)
            return Window(period, first, next_month - _DAY, zone)
        case Period.DAY:
            return Window(period, holding, holding, zone)
        case Period.CUSTOM:
            raise PeriodError("period", "a window of your own needs both `from` and `to`")


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's calendar shows `day` (or, where it skips that day, a later one), in UTC."""
    midnight = datetime.combine(day, time.min, zone).astimezone(UTC)
    if midnight.astimezone(zone).replace(tzinfo=None) == datetime.combine(day, time.min):
        return midnight
    # The clock jumps over this midnight: the day begins where it jumps, and that is found by halving.
    before, reached = midnight - _DAY, midnight
    while reached - before > _SECOND:
        middle = before + (reached - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).date() >= day:
            reached = middle
        else:
            before = middle
    return reached
