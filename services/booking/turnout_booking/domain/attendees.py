"""Which items of a chain are about its client: a guest's absence is no absence of who booked. Pure.

Who that is, is said by what says whether the booking has seats; a meeting, which does not, counts where nothing else is
known. So it does not matter what came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from turnout_booking.domain.items import Item


def of_the_client(items: Iterable[Item]) -> list[Item]:
    """The items that count: not those about other attendees, unless nobody says who booked."""
    told = list(items)
    if not any(item.leaves_seat_open for item in told):
        return told
    founders = [item for item in told if item.attendee is not None and item.founds]
    sure = {item.attendee for item in founders if not item.leaves_seat_open}
    clients = sure or {item.attendee for item in founders}
    if not clients:
        return told
    about = [item for item in told if not item.leaves_seat_open or item.attendee in clients]
    return [_without_client(item) for item in about] if sure else about


def _without_client(item: Item) -> Item:
    """A meeting's contact may be another one of the same person: whom the booking names stays its client."""
    return replace(item, client_id=None) if item.leaves_seat_open and item.client_id is not None else item


def has_no_sure_founder(items: Iterable[Item]) -> bool:
    """Whether a chain stands on meetings only, so that its booking may yet turn out to have seats."""
    return not any(item.founds and not item.leaves_seat_open for item in items)
