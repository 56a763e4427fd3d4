"""How much one tenant, and one stranger, may ask of a process. In: names and times. Out: go on, or how long to wait."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

#: A stranger fills no memory: of the keys that were refused only the latest are known.
MOST_KEYS = 10_000
WINDOW_SECONDS = 60.0

#: Who asks, the channel, and the tenant of the path. The address alone would not do: the webhooks of all salons of a
#: provider come from a few addresses, and one salon's wrong secret must not lock out the others.
Key = tuple[str, str, str]


@dataclass(slots=True)
class Bucket:
    """Requests of one tenant: `rate` a second, and `burst` at once after a rest."""

    rate: float
    burst: float
    tokens: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now: float) -> bool:
        """Whether one more may come at `now` (seconds); a clock that is set back gives nothing."""
        tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        self.tokens = tokens - 1.0 if tokens >= 1.0 else tokens
        return tokens >= 1.0


class Refusals:
    """Who was refused how often in the last window. After `most` refusals a key waits until its window has passed."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: Key -> when its window began, and the refusals since; the oldest first.
        self.known: OrderedDict[Key, tuple[float, int]] = OrderedDict()

    def wait(self, key: Key, now: float) -> float:
        """Seconds that the key has to wait; 0 when it need not."""
        began, count = self.known.get(key, (now, 0))
        if count < self._most:
            return 0.0
        left = began + WINDOW_SECONDS - now
        if not 0.0 < left <= WINDOW_SECONDS:
            self.known.pop(key, None)
            return 0.0
        return left

    def note(self, key: Key, now: float) -> bool:
        """Counts a refusal; True when it was the last that the key had."""
        if not self._most:
            return False
        began, count = self.known.get(key, (now, 0))
        if not 0.0 <= now - began < WINDOW_SECONDS:
            began, count = now, 0
        self.known[key] = (began, count + 1)
        self.known.move_to_end(key)
        if len(self.known) > MOST_KEYS:
            self.known.popitem(last=False)
        return count + 1 == self._most

    def forgive(self, key: Key) -> None:
        """The key has shown that it can sign."""
        self.known.pop(key, None)
