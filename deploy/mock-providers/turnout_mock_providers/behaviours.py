"""How a provider misbehaves, told by the admin API, a list for each token: the first that is not used up applies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Kind(StrEnum):
    SLOW = "slow"  #: does it at once, answers after `seconds`
    FAIL = "fail"  #: answers `status`, has done nothing
    THROTTLE = "throttle"  #: answers 429 with `retry_after`
    LOSE_ANSWER = "lose_answer"  #: does it, then cuts the connection
    CUT = "cut"  #: cuts the connection and has done nothing
    BLOCKED = "blocked"  #: the client blocked the bot
    NO_CHAT = "no_chat"  #: there is no such chat
    REVOKED = "revoked"  #: the token is not valid any more


class Behaviour(BaseModel):
    """`times` = how many requests it spoils, None = all from now on; `chat_id` = only those to this chat."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    times: Annotated[int, Field(ge=1)] | None = None
    chat_id: str | None = None
    seconds: Annotated[float, Field(ge=0, le=120)] = 1.0
    status: Annotated[int, Field(ge=500, le=599)] = 500
    retry_after: Annotated[int, Field(ge=0, le=3600)] = 1


class Behaviours:
    def __init__(self) -> None:
        self._of: dict[tuple[str, str], list[Behaviour]] = {}

    def set(self, provider: str, token: str, behaviours: list[Behaviour]) -> None:
        """Replaces what was set for the token; an empty list makes it well again."""
        self._of[provider, token] = [behaviour.model_copy() for behaviour in behaviours]

    def next(self, provider: str, token: str, chat_id: str) -> Behaviour | None:
        """What happens to this request, used up by one; None = it is answered well."""
        waiting = self._of.get((provider, token), [])
        for behaviour in waiting:
            if behaviour.chat_id not in (None, chat_id):
                continue
            if behaviour.times is not None:
                behaviour.times -= 1
                if not behaviour.times:
                    waiting.remove(behaviour)
            return behaviour
        return None
