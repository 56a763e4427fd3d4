"""Errors as RFC 9457 problem JSON: what is wrong, where, and what to do about it. Echoes nothing that was sent."""

from __future__ import annotations

from typing import Any

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from turnout_common.postgres import is_transient

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="The parameter, as it is named in the request.")
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(description="A stable name of the kind of problem, for programs.")
    title: str = Field(description="What is wrong.")
    status: int
    detail: str = Field(description="What to do about it.")
    errors: list[Fault] = []


class ProblemError(Exception):
    """Ends a request with this problem."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        faults: list[Fault] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(title)
        self.problem = Problem(
            type=f"urn:turnout:problem:{kind}", title=title, status=status, detail=detail, errors=faults or []
        )
        self.headers = headers


class BadRequest(ProblemError):
    """A parameter cannot be used."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(
            400,
            "bad-request",
            f"{where} cannot be used",
            detail,
            faults=[Fault(where=where, detail=detail)],
        )


class Unauthorized(ProblemError):
    """No token, or none that is valid."""

    def __init__(self, detail: str, *, invalid: bool) -> None:
        challenge = 'Bearer realm="turnout"' + (', error="invalid_token"' if invalid else "")
        super().__init__(
            401, "unauthorized", "a valid token is needed", detail, headers={"WWW-Authenticate": challenge}
        )


class NotFound(ProblemError):
    """Not there, or not for this token: the answer is the same."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(404, "not-found", title, detail)


def add_problem_handlers(app: FastAPI) -> None:
    """Every error of `app` leaves it as problem JSON."""

    @app.exception_handler(ProblemError)
    async def known(_: Request, error: ProblemError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(_invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        title = {404: "there is no such path", 405: "the path does not take this method"}
        words = title.get(error.status_code, "the request cannot be answered")
        problem = ProblemError(error.status_code, "http", words, "GET /openapi.json lists what there is")
        problem.headers = dict(error.headers) if error.headers else None
        return _answer(problem)

    @app.exception_handler(asyncpg.PostgresError)
    @app.exception_handler(asyncpg.InterfaceError)
    @app.exception_handler(OSError)
    async def database(_: Request, error: Exception) -> JSONResponse:
        if not is_transient(error):
            raise error
        log.warning("the database does not answer", error=repr(error)[:300])
        words = ("the database does not answer", "try again in a few seconds")
        return _answer(ProblemError(503, "unavailable", *words, headers={"Retry-After": "2"}))

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        words = ("the server failed", "this is a fault of ours; the log of kpi-api says more")
        return _answer(ProblemError(500, "internal", *words))


def _answer(error: ProblemError) -> JSONResponse:
    return JSONResponse(
        error.problem.model_dump(exclude_defaults=True),
        status_code=error.problem.status,
        media_type=MEDIA_TYPE,
        headers=error.headers,
    )


def _invalid(errors: Any) -> ProblemError:
    faults = [
        # The place only to the depth of the parameter: below it stand values that the caller sent.
        Fault(where=str(error["loc"][1]) if len(error["loc"]) > 1 else "request", detail=_sentence(error))
        for error in errors
    ]
    names = ", ".join(fault.where for fault in faults)
    return ProblemError(
        400,
        "bad-request",
        "a parameter cannot be used",
        f"correct {names}; GET /openapi.json lists the parameters and their forms",
        faults=faults,
    )


def _sentence(error: Any) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "there is no such parameter"
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return f"must match {error['ctx']['pattern']}"
        case kind if kind.startswith("date_"):
            return "must be a date, as in 2026-11-24"
        case _:
            return str(error["msg"])
