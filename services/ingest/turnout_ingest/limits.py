"""How much one tenant, and one stranger, may ask of a process. In: names and times. Out: go on, or how long to wait."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

#: A stranger fills no memory: of the keys that were refused only the latest are known.
MOST_KEYS = 10_000
WINDOW_SECONDS = 60.0
#: How long a key of a shared callback is trusted after it verified; see Refusals.trust.
TRUSTED_SECONDS = 3600.0

#: Who asks, the channel, and the tenant of the path. The address alone would not do: the webhooks of all salons of a
#: provider come from a few addresses, and one salon's wrong secret must not lock out the others. On a callback that
#: tenants share no tenant stands in the path: there trust keeps that promise.
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
        #: Key -> when it last verified, the longest ago first.
        self._trusted: OrderedDict[Key, float] = OrderedDict()

    def wait(self, key: Key, now: float) -> float:
        """Seconds that the key has to wait; 0 when it need not."""
        began, count = self.known.get(key, (now, 0))
        if count < self._most or self._trusts(key, now):
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
        return count + 1 == self._most and not self._trusts(key, now)

    def forgive(self, key: Key) -> None:
        """The key has shown that it can sign."""
        self.known.pop(key, None)

    def trust(self, key: Key, now: float) -> None:
        """Forgives the key of a callback that tenants share, and for an hour lets it not wait: it is a provider's, and
        what it is refused for one tenant must not keep back the others' deliveries.

        Who shares the provider's address, by a proxy that is not named, gains little: each good delivery forgave
        him too, so that the limit held him up only where none came for a while. Guesses of a secret stay slow, for they
        are counted on the tenant's own key as well (webhook.py), which is never trusted, and those of a verify token on
        a third. What he can have done more often is the reading and hashing of a body, each bounded (see
        shared_callback.py), which a sender of many addresses can have as often as he likes. Without trust he could do
        worse: keep everybody's deliveries away by 30 requests a minute."""
        if not self._most:
            return
        self.forgive(key)
        self._trusted[key] = now
        self._trusted.move_to_end(key)
        if len(self._trusted) > MOST_KEYS:
            self._trusted.popitem(last=False)

    def _trusts(self, key: Key, now: float) -> bool:
        at = self._trusted.get(key)
        return at is not None and 0.0 <= now - at < TRUSTED_SECONDS
