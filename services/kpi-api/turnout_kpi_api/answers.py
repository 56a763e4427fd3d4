"""The shape of the answers, generated from the catalogue: Python gives numbers by name, JSON and OpenAPI give them a type."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from turnout_kpi_api.kpis import (
    CLOCK_WORDS,
    COUNTS,
    DERIVED_COUNTS,
    MATURITY_WORDS,
    METRICS,
    Clock,
    Figures,
    Maturity,
    Metric,
    Unit,
)
from turnout_kpi_api.period import Period, Window
from turnout_kpi_api.reads import Report


class Answer(BaseModel):
    """camelCase on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


def _metric_field(metric: Metric) -> tuple[Any, Any]:
    parts = metric.numerator if metric.denominator is None else f"{metric.numerator} / {metric.denominator}"
    words = f"{metric.description} ({metric.unit}: {parts}; null where nothing is divided)"
    whole = metric.unit in (Unit.COUNT, Unit.MINOR)
    return (int | None if whole else float | None, Field(description=words))


_METRIC_FIELDS: dict[str, Any] = {metric.name: _metric_field(metric) for metric in METRICS}
_COUNT_FIELDS: dict[str, Any] = {
    name: (int | None, Field(description=words))
    for name, words in [
        *((count.name, count.description) for count in COUNTS),
        *((name, words) for name, (_, _, words) in DERIVED_COUNTS.items()),
    ]
}
Metrics = create_model("Metrics", __config__=ConfigDict(frozen=True), **_METRIC_FIELDS)
Counts = create_model("Counts", __config__=ConfigDict(frozen=True), **_COUNT_FIELDS)


class WindowFigures(Answer):
    """The figures of one window."""

    period: Period
    first: date = Field(alias="from", description="The first local day.")
    last: date = Field(alias="to", description="The last local day; it counts too.")
    immature: list[str] = Field(description="Metrics that can still change by the rules.")
    not_yet: list[str] = Field(description="Metrics that are null because nothing feeds them yet.")
    metrics: Metrics
    counts: Counts


class Summary(WindowFigures):
    """The figures of a tenant, as of `asOf`: what came in until then is in them."""

    tenant_id: str
    tz: str = Field(description="The zone whose days these are.")
    currency: str = Field(description="Of all amounts, which are in its minor units.")
    as_of: datetime
    staff_id: str | None
    service_id: str | None
    channel: str | None
    previous: WindowFigures | None = Field(description="As many days right before, with compare=previous.")


class StaffFigures(Answer):
    """One line of the list; `staffId` is null for what is mapped to nobody."""

    staff_id: str | None
    immature: list[str]
    not_yet: list[str]
    metrics: Metrics
    counts: Counts


class StaffList(Answer):
    """Everybody with something in the window."""

    tenant_id: str
    period: Period
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    tz: str
    currency: str
    as_of: datetime
    staff: list[StaffFigures]


class Definition(Answer):
    """What a metric means."""

    name: str
    description: str
    unit: Unit
    numerator: str
    denominator: str | None
    clock: Clock
    clock_description: str
    maturity: Maturity
    maturity_description: str


class Definitions(Answer):
    """The catalogue."""

    metrics: list[Definition]
    counts: dict[str, str]


def summary(
    report: Report, tenant_id: str, staff_id: str | None, service_id: str | None, channel: str | None
) -> Summary:
    """The answer for one window, and the one before where it was asked for."""
    previous = None
    if report.previous is not None:
        window, figures = report.previous
        previous = WindowFigures(**_window(window), **_figures(figures[None], window, report.as_of))
    return Summary(
        tenant_id=tenant_id,
        tz=report.window.zone.key,
        currency=report.currency,
        as_of=report.as_of,
        staff_id=staff_id,
        service_id=service_id,
        channel=channel,
        previous=previous,
        **_window(report.window),
        **_figures(report.figures[None], report.window, report.as_of),
    )


def staff_list(report: Report, tenant_id: str) -> StaffList:
    """The answer for all members of staff, by name, the unmapped last."""
    named = sorted(report.figures.items(), key=lambda entry: (not entry[0], entry[0] or ""))
    return StaffList(
        tenant_id=tenant_id,
        tz=report.window.zone.key,
        currency=report.currency,
        as_of=report.as_of,
        period=report.window.period,
        first=report.window.first,
        last=report.window.last,
        staff=[
            StaffFigures(staff_id=staff_id or None, **_figures(figures, report.window, report.as_of))
            for staff_id, figures in named
        ],
    )


def definitions() -> Definitions:
    """The catalogue as it is served."""
    return Definitions(
        metrics=[
            Definition(
                name=metric.name,
                description=metric.description,
                unit=metric.unit,
                numerator=metric.numerator,
                denominator=metric.denominator,
                clock=metric.clock,
                clock_description=CLOCK_WORDS[metric.clock],
                maturity=metric.maturity,
                maturity_description=MATURITY_WORDS[metric.maturity],
            )
            for metric in METRICS
        ],
        counts={name: field[1].description for name, field in _COUNT_FIELDS.items()},
    )


def _window(window: Window) -> dict[str, Any]:
    return {"period": window.period, "first": window.first, "last": window.last}


def _figures(figures: Figures, window: Window, as_of: datetime) -> dict[str, Any]:
    return {
        "immature": figures.immature(window.end, as_of),
        "not_yet": figures.not_yet(),
        "metrics": figures.metrics(),
        "counts": figures.all_counts(),
    }
