"""What every channel offers: `send`, and an `Answer` that says what certainly happened to the message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from turnout_common.events import Channel
from turnout_sender.channels.http import Http


class Verdict(StrEnum):
    """What a request came to. Only ACCEPTED and LOST can mean that the client has the message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  #: for good: blocked, no such chat
    THROTTLED = "throttled"  #: too fast: the whole bot pauses
    TOKEN_REFUSED = "token_refused"  #: the tenant's token is wrong: nothing of this tenant can go out
    FAILED = "failed"  #: certainly not sent, worth another try
    LOST = "lost"  #: sent or not, nobody can tell
    FAULT = "fault"  #: the request itself was wrong: ours to mend


@dataclass(frozen=True)
class Answer:
    """`reason` is a machine word of ours, never the provider's text, which may hold what the client wrote."""

    verdict: Verdict
    reason: str | None = None
    http_status: int | None = None
    provider_message_id: str | None = None
    retry_after: float | None = None


class Adapter(Protocol):
    """One channel. `per_second` is what one bot may send in a second."""

    channel: Channel
    base_url: str
    per_second: int

    async def send(self, http: Http, token: str, address: str, text: str) -> Answer:
        """One request, no retry. Raises http.NotSent or http.AnswerLost when no answer came."""
        ...
