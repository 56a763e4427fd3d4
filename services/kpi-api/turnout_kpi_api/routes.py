"""GET /kpi/*: reads the query, asks `reads`, gives the answer. Unknown parameters are refused, not ignored."""

from __future__ import annotations

import asyncio
import re
from datetime import date
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from turnout_common.events import Channel, Key, TenantId
from turnout_kpi_api import answers
from turnout_kpi_api.auth import Access, Scope
from turnout_kpi_api.period import MAX_DAYS, Period, PeriodError
from turnout_kpi_api.problems import BadRequest, Problem
from turnout_kpi_api.reads import Reads, Report
from turnout_kpi_api.reads import Request as Wanted

#: Longer than any query may run; the wait for a free connection is in it. Then 503.
WAIT_SECONDS = 35.0
_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _day(value: Any) -> date:
    try:
        if isinstance(value, str) and _ISO_DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("day", "must be a date, as in 2026-11-24")


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise PydanticCustomError(
            "zone", "must be a zone of the IANA database, as in Europe/Berlin"
        ) from None


Day: TypeAlias = Annotated[date, BeforeValidator(_day)]
Zone: TypeAlias = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$"), AfterValidator(_zone)]


class WindowQuery(BaseModel):
    """Which tenant, which days."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    tenant_id: TenantId | None = Field(None, description="Needed without a token and for an operator.")
    period: Literal["day", "week", "month"] | None = Field(
        None,
        description="The current day (default), ISO week or month; with `from` alone, the one that holds it.",
    )
    first: Day | None = Field(None, alias="from", description="First local day.")
    last: Day | None = Field(
        None, alias="to", description=f"Last local day, included; the window has at most {MAX_DAYS} days."
    )
    tz: Zone | None = Field(None, description="A zone other than the tenant's own, for the days' bounds.")
    service_id: Key | None = None
    channel: Channel | None = Field(None, description="The booking's for chains, the message's for messages.")

    def wanted(self, *, compare: bool = False, by_staff: bool = False) -> Wanted:
        return Wanted(
            period=Period(self.period) if self.period else None,
            first=self.first,
            last=self.last,
            zone=ZoneInfo(self.tz) if self.tz else None,
            service_id=self.service_id,
            channel=self.channel,
            compare=compare,
            by_staff=by_staff,
        )


class StaffQuery(WindowQuery):
    """As WindowQuery, and what to compare with."""

    compare: Literal["previous"] | None = Field(None, description="With the as many days right before.")


class SummaryQuery(StaffQuery):
    """As StaffQuery, and a filter by staff."""

    staff_id: Key | None = None


_BAD = {"model": Problem, "content": {"application/problem+json": {}}}
router = APIRouter(
    prefix="/kpi",
    tags=["kpi"],
    dependencies=[
        Depends(HTTPBearer(auto_error=False, description="Open without one for the demo tenant only."))
    ],
    responses={
        400: _BAD | {"description": "A parameter cannot be used."},
        401: _BAD | {"description": "A valid token is needed."},
        404: _BAD | {"description": "Not there, or not for this token."},
        503: _BAD | {"description": "The database does not answer; Retry-After says when to ask again."},
    },
)


@router.get("/summary", response_model=answers.Summary)
async def summary(request: Request, query: Annotated[SummaryQuery, Query()]) -> answers.Summary:
    """The figures of a tenant for a window, and of as many days before it."""
    scope = await _scope(request, query, query.staff_id)
    return await _summary(request, scope, query)


@router.get("/staff", response_model=answers.StaffList)
async def staff_list(request: Request, query: Annotated[WindowQuery, Query()]) -> answers.StaffList:
    """The figures of everybody who has any in the window."""
    scope = await _scope(request, query, None)
    report = await _report(request, scope, query.wanted(by_staff=True))
    return answers.staff_list(report, scope.tenant_id)


@router.get("/staff/{staffId:path}", response_model=answers.Summary)
async def staff(
    request: Request,
    staff_id: Annotated[Key, Path(alias="staffId")],
    query: Annotated[StaffQuery, Query()],
) -> answers.Summary:
    """The figures of one member of staff."""
    return await _summary(request, await _scope(request, query, staff_id), query)


@router.get(
    "/definitions", response_model=answers.Definitions, responses={400: {}, 401: {}, 404: {}, 503: {}}
)
async def definitions() -> answers.Definitions:
    """What each metric means: its two parts, its clock, its unit, when it is final. Needs no token."""
    return answers.definitions()


async def _scope(request: Request, query: WindowQuery, staff_id: str | None) -> Scope:
    access: Access = request.app.state.parts.access
    async with asyncio.timeout(WAIT_SECONDS):
        return await access.scope(request.headers.get("authorization"), query.tenant_id, staff_id)


async def _summary(request: Request, scope: Scope, query: StaffQuery) -> answers.Summary:
    wanted = query.wanted(compare=query.compare is not None)
    report = await _report(request, scope, wanted)
    return answers.summary(report, scope.tenant_id, scope.staff_id, wanted.service_id, wanted.channel)


async def _report(request: Request, scope: Scope, wanted: Wanted) -> Report:
    reads: Reads = request.app.state.parts.reads
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await reads.report(scope, wanted)
    except PeriodError as error:
        raise BadRequest(error.parameter, str(error)) from error
