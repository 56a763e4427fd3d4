"""What a webhook is answered with. Nothing that was sent is echoed, save the challenge of a handshake that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from turnout_ingest.acceptance import Row
from turnout_ingest.providers.provider import Answers, Fate

RETRY_AFTER = (b"retry-after", b"1")


@dataclass(frozen=True, slots=True)
class Answer:
    """`reason` is for the operator's metric, never for the sender."""

    status: int
    text: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    reason: str | None = None


class NotTaken(Exception):
    """The request ends here with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.reason)
        self.answer = answer


NO_SUCH_PATH = Answer(404)
UNKNOWN_HIDDEN = Answer(401, reason="unknown")
UNKNOWN = Answer(404, reason="unknown")
UNVERIFIED = Answer(401, reason="unverified")
NO_HANDSHAKE = Answer(403, reason="handshake")
ONLY_POST = Answer(405, headers=((b"allow", b"POST"),))
GET_AND_POST = Answer(405, headers=((b"allow", b"GET, POST"),))
TOO_SLOW = Answer(408, reason="too_slow")
TOO_LARGE = Answer(413, reason="too_large")
OVER_RATE = Answer(429, headers=(RETRY_AFTER,), reason="tenant_rate")
QUEUE_FULL = Answer(503, headers=(RETRY_AFTER,), reason="queue_full")
NOT_STORED = Answer(503, headers=(RETRY_AFTER,), reason="not_stored")


def refused_too_often(seconds: float) -> Answer:
    return Answer(429, headers=((b"retry-after", b"%d" % max(1, round(seconds))),), reason="refused_before")


def answer_to(answers: Answers, rows: Sequence[Row], fates: Sequence[Fate]) -> Answer:
    """A duplicate gets what the first got: its own fate decides, not that it came again."""
    if answers.conflict == 409 and Fate.CONFLICT in fates:
        return Answer(409, b"this webhook-id was received before with other content")
    if all(row.fate is Fate.QUARANTINED for row in rows) or all(f is Fate.QUARANTINED for f in fates):
        reason = (rows[0].reason or "the item could not be stored").encode()
        return Answer(answers.quarantined, reason if answers.quarantined >= 400 else answers.text)
    return Answer(answers.success, next((row.reply for row in rows if row.reply is not None), answers.text))
