"""What `turnout prune` deletes and how long each table is kept: the one place that says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from turnout_common.topics import BOOKING_EVENTS, INBOUND, MESSAGE_EVENTS, OUTBOUND, load_topics

DAY = timedelta(days=1)
#: Beyond what a rule needs: for clocks that differ, and for segments that Kafka deletes late.
MARGIN = 2 * DAY
INBOX_DAYS = 400
OUTBOUND_DAYS = 30
DEAD_LETTER_DAYS = 90


@dataclass(frozen=True)
class Reader:
    """A service that notes in `applied` what it read, and who publishes what it reads."""

    schema: str
    topics: tuple[str, ...]
    publishers: tuple[str, str]

    def keeps(self, longest_raw_days: int) -> timedelta:
        """How long `applied` must remember: as long as a record can come again, from its topic, or from `inbox replay`,
        which publishes an item as long as its payload is kept, for the topic's time once more."""
        retention = {
            name: timedelta(milliseconds=int(spec.config["retention.ms"]))
            for name, spec in load_topics().items()
        }
        longest = [retention[topic] for topic in self.topics]
        if INBOUND in self.topics:
            longest.append(longest_raw_days * DAY + retention[INBOUND])
        return max(longest) + MARGIN


READERS = (
    Reader("booking", (INBOUND, MESSAGE_EVENTS), ("ingest", "sender")),
    Reader("sender", (INBOUND, OUTBOUND), ("ingest", "booking")),
    Reader("rollup", (BOOKING_EVENTS, MESSAGE_EVENTS), ("booking", "sender")),
)


@dataclass(frozen=True)
class Kept:
    """One rule in words, and what came of it."""

    table: str
    keeps: str
    rows: int = 0


def in_words(raw_days: Iterable[int], default_raw_days: int) -> dict[str, str]:
    """How long each table is kept, by its name."""
    days = sorted({default_raw_days, *raw_days})
    kept = f"{days[0]} days" if len(days) == 1 else f"{days[0]} to {days[-1]} days, by the tenant's raw_days"
    return (
        {
            "ingest.inbox_keys": "until the key's window has passed: telegram 7 days and 2 hours, the rest 14",
            "ingest.raw_items": f"{kept}; the item's payload goes with them",
            "ingest.inbox": f"{INBOX_DAYS} days (without payload after its bytes went)",
        }
        | {f"{reader.schema}.applied": f"{reader.keeps(days[-1]).days} days" for reader in READERS}
        | {"booking.outbound": f"{OUTBOUND_DAYS} days, once the recovery check has looked at it"}
        | {f"{reader.schema}.dead_letters": f"{DEAD_LETTER_DAYS} days after its replay" for reader in READERS}
    )
