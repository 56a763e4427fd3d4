"""What is generated from this service: docs/KPIS.md and contracts/openapi/kpi-api.json. `turnout contracts generate`
writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from turnout_common.topics import contracts_folder
from turnout_kpi_api.app import create_app
from turnout_kpi_api.kpis import CLOCK_WORDS, COUNTS, DERIVED_COUNTS, MATURITY_WORDS, METRICS, Metric

_INTRODUCTION = """\
# The KPIs

Generated from `services/kpi-api/turnout_kpi_api/kpis.py` by `turnout contracts generate`: do not edit.

Every KPI is a ratio of two sums, or a sum. Both parts of a ratio follow one clock and are added up over any window,
filter and grouping before they are divided; a mean of ratios is never taken. Where nothing is divided by, the value is
`null`, never 0. Rates are percent, rounded only in the HTTP answer. Amounts are in minor units of the tenant's one
currency; what was paid in another currency is counted and never added.

The unit of counting is the *chain*: one appointment through all its reschedules. Nothing ticks: what needs the past
(due, visits, utilisation, closed intents) is cut at the answer's `asOf` when it is asked for; all else is not cut, so a
booking made now for tomorrow shows now. Of two visits of a client that start together, one is the first and the other
came again.

`GET /kpi/summary` gives all of them for a window, `GET /kpi/staff/{staffId}` for one member of staff, `GET /kpi/staff`
for each, `GET /kpi/definitions` this page as JSON.
"""


def kpis_page() -> str:
    """docs/KPIS.md."""
    lines = [_INTRODUCTION, "## Clocks", ""]
    lines += [f"- **{clock}**: {words}." for clock, words in CLOCK_WORDS.items()]
    lines += ["", "## Metrics", "", *_table(_METRIC_HEADS, map(_metric_row, METRICS))]
    lines += ["", "## Until when a metric can change by the rules", ""]
    lines += [f"- **{rule}**: {words}." for rule, words in MATURITY_WORDS.items()]
    lines += [
        "",
        "An answer lists the metrics that still can in `immature`, and those that nothing feeds in `notYet`.",
    ]
    lines += ["", "## Counts", "", *_table(("count", "what it counts"), _count_rows())]
    return "\n".join(lines) + "\n"


_METRIC_HEADS = ("metric", "meaning", "numerator", "denominator", "clock", "unit", "final")


def _metric_row(metric: Metric) -> tuple[str, ...]:
    return (
        f"`{metric.name}`",
        metric.description,
        f"`{metric.numerator}`",
        f"`{metric.denominator}`" if metric.denominator else "–",
        metric.clock,
        metric.unit,
        metric.maturity,
    )


def _count_rows() -> Iterable[tuple[str, ...]]:
    yield from ((f"`{count.name}`", count.description) for count in COUNTS)
    yield from ((f"`{name}`", words) for name, (_, _, words) in DERIVED_COUNTS.items())


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows)]


def openapi_document() -> str:
    """contracts/openapi/kpi-api.json."""
    return json.dumps(create_app(None).openapi(), indent=2, ensure_ascii=False) + "\n"


def documents() -> dict[Path, str]:
    """Each generated file and what must stand in it."""
    contracts = contracts_folder()
    return {
        contracts / "openapi" / "kpi-api.json": openapi_document(),
        contracts.parent / "docs" / "KPIS.md": kpis_page(),
    }
