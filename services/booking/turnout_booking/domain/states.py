"""The states that other services are told: what an entity's own items say, joined with what other entities say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from turnout_booking.domain.fold import Folded
from turnout_common.events.booking import ChainState, ChainStatus, FactState
from turnout_common.events.values import Channel


@dataclass(frozen=True, slots=True)
class Joins:
    """What a chain's state takes from elsewhere: its intent, how often a human answered in it, and the client's chats."""

    intent_id: UUID | None
    replies: int = 0
    reachable: bool = False


def chain_state(booking_id: UUID, folded: Folded, joins: Joins) -> ChainState:
    return ChainState(
        booking_id=booking_id,
        status=folded.status,
        source=folded.source,
        uid=folded.uid,
        channel=Channel(folded.channel),
        client_id=folded.client_id,
        staff_id=folded.staff_id,
        service_id=folded.service_id,
        intent_id=joins.intent_id,
        created_at=folded.created_at,
        confirmed_at=folded.confirmed_at,
        start_at=folded.start_at,
        end_at=folded.end_at,
        cancelled_at=folded.cancelled_at,
        cancelled_by=folded.cancelled_by,
        cancel_reason=folded.cancel_reason,
        no_show=folded.no_show,
        completed_at=folded.completed_at,
        moves=folded.moves,
        overlaps=folded.overlaps,
        admin_actions=folded.admin_actions + joins.replies,
        admin_before_confirmation=folded.admin_before_confirmation or joins.replies > 0,
        gross_minor=folded.gross_minor,
        discount_minor=folded.discount_minor,
        refund_minor=folded.refund_minor,
        currency=folded.currency,
        other_currency_payments=folded.other_currency_payments,
        rating=folded.rating,
        reachable=joins.reachable,
        reminder_accepted_at=folded.reminder_accepted_at,
        reminder_outcome=folded.reminder_outcome,  # type: ignore[arg-type]
    )


def merged_state(last: ChainState, merged_into: UUID) -> ChainState:
    """The end of a chain whose items moved to another one."""
    return last.model_copy(update={"status": ChainStatus.MERGED, "merged_into": merged_into})


@dataclass(frozen=True, slots=True)
class Chat:
    """A client's chat, known since `first_seen_at`; `consents` are (at, opted_in) in order of time, of `all`."""

    first_seen_at: datetime
    consents: Sequence[tuple[datetime, bool]] = ()

    def may_be_used_at(self, at: datetime) -> bool:
        """Whether the client could be written to here just before `at`."""
        said = [opted_in for said_at, opted_in in self.consents if said_at < at]
        return self.first_seen_at < at and (said[-1] if said else True)


def reachable(chats: Sequence[Chat], start_at: datetime) -> bool:
    """Whether a client could be written to before an appointment. Later changes do not change what is past."""
    return any(chat.may_be_used_at(start_at) for chat in chats)


def fact_state(base: FactState, chain: ChainState | None) -> FactState:
    """A fact joined with the booking that it is about: of the booking's staff where it names nobody itself."""
    if chain is None:
        return base
    return base.model_copy(
        update={"booking_id": chain.booking_id, "staff_id": base.staff_id or chain.staff_id}
    )
