"""From what was measured to the figures that are printed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

#: What issue 4 asks for.
LEAST_RATIO, LONGEST_P99_MS = 4.0, 25.0
#: Growth of resident memory that counts as flat: what the allocator keeps differs by a few percent from time to time.
FLAT_SHARE = 0.05


@dataclass(frozen=True)
class Measured:
    """One window of one case. CPU in seconds by process; what a case does not have is None."""

    per_second: float
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    rows_per_commit: float | None = None
    wal_syncs: float | None = None
    wal_bytes: float | None = None
    unpublished: int | None = None
    other_cores: float = 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest, rounded to whole numbers."""
    return {"min": round(min(values)), "median": round(median(values)), "max": round(max(values))}


def ratio(ours: Sequence[Measured], other: Sequence[Measured]) -> float:
    """The median of the rounds' ratios: the two of a round ran one after the other, on the same mood of the machine."""
    return round(median(a.per_second / b.per_second for a, b in zip(ours, other, strict=True)), 2)


def cpu_table(rounds: Sequence[Measured]) -> dict[str, int]:
    """Microseconds of CPU per accepted webhook by process, medians over the rounds, and their sum."""
    names = rounds[0].cpu_us
    found = {name: round(median(measured.cpu_us[name] for measured in rounds)) for name in names}
    servers = sum(value for name, value in found.items() if name != "generator")
    return found | {"servers_together": servers}


def middle(rounds: Sequence[Measured], name: str) -> float | None:
    """The median of a value that only cases with storage have."""
    values = [getattr(measured, name) for measured in rounds]
    return round(median(values), 3) if all(value is not None for value in values) else None


def figures(rounds: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Throughput, CPU and storage by case."""
    stored = {
        name: {
            "rows_per_commit": middle(measured, "rows_per_commit"),
            "wal_syncs_per_webhook": middle(measured, "wal_syncs"),
            "wal_bytes_per_webhook": middle(measured, "wal_bytes"),
            "unpublished_at_end": middle(measured, "unpublished"),
        }
        for name, measured in rounds.items()
        if middle(measured, "rows_per_commit") is not None
    }
    return {
        "webhooks_per_second": {name: spread([m.per_second for m in rounds[name]]) for name in rounds},
        "cpu_us_per_webhook": {name: cpu_table(each) for name, each in rounds.items() if each[0].cpu_us},
        "storage": stored,
        "most_cores_of_other_processes": round(
            max(m.other_cores for each in rounds.values() for m in each), 1
        ),
    }


def is_flat(samples: Sequence[int]) -> bool:
    """Whether memory stands still: the last three samples against the second to fourth. The first is left out, since a
    process fills its caches and free lists once. Raises ValueError for fewer than seven."""
    if len(samples) < 7:
        raise ValueError("memory needs at least seven samples")
    return median(samples[-3:]) <= median(samples[1:4]) * (1 + FLAT_SHARE)
