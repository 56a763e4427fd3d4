"""kpi-api over HTTP: who may see what, the shape of answers, errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.kpi_salon import HOME, NOW, Asked, Salon, expected_counts, random_salon
from tests.integration.kpi_server import Api, running
from turnout_common.tenants import create_api_token, create_tenant
from turnout_kpi_api.auth import CACHE_SECONDS
from turnout_kpi_api.kpis import METRICS

TODAY = NOW.astimezone(HOME).date()


@dataclass(frozen=True)
class World:
    """Two tenants with facts, the demo tenant, and a token of each kind."""

    mine: Salon
    other: Salon
    demo: str
    owner: str
    staff: str
    operator: str
    stranger: str


@pytest.fixture(scope="module")
async def world(database: Database) -> World:
    platform, admin = (
        await asyncpg.connect(database.dsn("platform")),
        await asyncpg.connect(database.admin_dsn),
    )
    try:
        mine, other = (random_salon("t" + os.urandom(6).hex(), seed, chains=120) for seed in (11, 12))
        for salon in (mine, other):
            await create_tenant(platform, MASTER_KEY, salon.tenant_id, HOME.key)
            await salon.store(admin)
        await create_tenant(platform, MASTER_KEY, "default", HOME.key, demo=True)
        return World(
            mine,
            other,
            "default",
            owner=await create_api_token(platform, mine.tenant_id, "owner"),
            staff=await create_api_token(platform, mine.tenant_id, "staff", staff_id="anna"),
            operator=await create_api_token(platform, None, "operator"),
            stranger=await create_api_token(platform, other.tenant_id, "owner"),
        )
    finally:
        await platform.close()
        await admin.close()


@pytest.fixture(scope="module")
async def api(database: Database, world: World) -> AsyncIterator[Api]:
    async with running(database.dsn("kpi"), demo_is_open=True) as running_api:
        yield running_api


@pytest.fixture(scope="module")
async def closed_api(database: Database, world: World) -> AsyncIterator[Api]:
    async with running(database.dsn("kpi"), demo_is_open=False) as running_api:
        yield running_api


WEEK = {"from": str(TODAY - timedelta(days=6)), "to": str(TODAY)}


def counted(salon: Salon, staff_id: str | None = None) -> dict[str, int]:
    return expected_counts(salon, Asked(TODAY - timedelta(days=6), TODAY, staff_id=staff_id))


async def test_the_summary_has_every_metric_and_both_its_parts(api: Api, world: World) -> None:
    status, body = await api.get(
        "/kpi/summary", world.owner, tenantId=world.mine.tenant_id, compare="previous", **WEEK
    )

    assert status == 200
    assert body["tenantId"] == world.mine.tenant_id
    assert (body["period"], body["from"], body["to"], body["tz"]) == (
        "custom",
        WEEK["from"],
        WEEK["to"],
        "Europe/Berlin",
    )
    assert (body["asOf"], body["currency"], body["staffId"]) == ("2026-11-24T13:07:30Z", "EUR", None)
    assert list(body["metrics"]) == [metric.name for metric in METRICS]
    counts = counted(world.mine)
    assert body["counts"] == counts
    assert body["metrics"]["noShowRate"] == pytest.approx(100 * counts["noShows"] / counts["due"], abs=0.051)
    assert body["immature"] == [metric.name for metric in METRICS]
    assert body["previous"]["to"] == str(TODAY - timedelta(days=7))
    assert set(body["previous"]) == {"period", "from", "to", "immature", "notYet", "metrics", "counts"}


async def test_the_period_is_today_unless_said_otherwise(api: Api, world: World) -> None:
    _, today = await api.get("/kpi/summary", world.owner)
    _, week = await api.get("/kpi/summary", world.owner, period="week")
    _, month = await api.get("/kpi/summary", world.owner, period="month", tz="Pacific/Kiritimati")

    assert [today[k] for k in ("period", "from", "to")] == ["day", "2026-11-24", "2026-11-24"]
    assert [week[k] for k in ("period", "from", "to")] == ["week", "2026-11-23", "2026-11-29"]
    assert [month[k] for k in ("period", "from", "to", "tz")] == [
        "month",
        "2026-11-01",
        "2026-11-30",
        "Pacific/Kiritimati",
    ]


async def test_one_member_of_staff_and_the_list_of_all(api: Api, world: World) -> None:
    _, anna = await api.get("/kpi/staff/anna", world.owner, **WEEK)
    _, filtered = await api.get("/kpi/summary", world.owner, staffId="anna", **WEEK)
    _, everybody = await api.get("/kpi/staff", world.owner, **WEEK)

    assert anna == filtered and anna["staffId"] == "anna"
    assert anna["counts"] == counted(world.mine, "anna")
    assert [entry["staffId"] for entry in everybody["staff"]] == ["anna", "boris", None]
    assert everybody["staff"][0]["counts"] == anna["counts"]


async def test_an_unknown_member_of_staff_has_nothing(api: Api, world: World) -> None:
    status, body = await api.get("/kpi/staff/no%2Fbody", world.owner)

    assert (status, body["staffId"]) == (200, "no/body")
    assert body["metrics"]["noShowRate"] is None and body["counts"]["booked"] == 0


# ---- who may see what ----


async def test_tenants_never_see_each_other(api: Api, world: World) -> None:
    for salon, token in ((world.mine, world.owner), (world.other, world.stranger)):
        _, body = await api.get("/kpi/summary", token, **WEEK)
        assert (body["tenantId"], body["counts"]) == (salon.tenant_id, counted(salon))


@pytest.mark.parametrize("path", ["/kpi/summary", "/kpi/staff", "/kpi/staff/anna"])
async def test_an_owner_learns_nothing_of_another_tenant(api: Api, world: World, path: str) -> None:
    there = await api.get(path, world.owner, tenantId=world.other.tenant_id)
    not_there = await api.get(path, world.owner, tenantId="nobody")

    assert there == not_there
    assert there[0] == 404


@pytest.mark.parametrize(
    "attempt",
    [
        "' OR true --",
        "t1', true); SELECT set_config('turnout.tenant_id', 'other",
        "%",
        "A",
        "a" * 64,
        "\x00",
    ],
)
async def test_a_parameter_cannot_reach_another_tenant(api: Api, world: World, attempt: str) -> None:
    assert (await api.get("/kpi/summary", world.operator, tenantId=attempt))[0] == 400
    for name in ("staffId", "serviceId"):
        status, body = await api.get("/kpi/summary", world.owner, **{name: attempt}, **WEEK)
        # The roster is not divided by service; whatever it is, it is this tenant's own.
        assert status == 400 or {n for n, v in body["counts"].items() if v} <= {"rosteredMinutes"}


async def test_row_level_security_holds_without_the_queries_help(database: Database, world: World) -> None:
    connection = await asyncpg.connect(database.dsn("kpi"))
    tables = [
        f"{kind}_{end}" for kind in ("chain", "intent", "message", "other") for end in ("facts", "days")
    ]
    try:
        for table in tables:
            assert await connection.fetchval(f"SELECT count(*) FROM rollup.{table}") == 0, "no tenant set"
            async with connection.transaction():
                await connection.execute(
                    "SELECT set_config('turnout.tenant_id', $1, true)", world.mine.tenant_id
                )
                seen = await connection.fetch(f"SELECT DISTINCT tenant_id FROM rollup.{table}")
                assert [row["tenant_id"] for row in seen] == [world.mine.tenant_id]
                await connection.execute("SELECT set_config('turnout.staff_id', 'anna', true)")
                seen = await connection.fetch(f"SELECT DISTINCT staff_id FROM rollup.{table}")
                assert [row["staff_id"] for row in seen] == ["anna"]
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DELETE FROM rollup.{table}")
    finally:
        await connection.close()


async def test_staff_see_their_own_figures_only(api: Api, world: World) -> None:
    status, own = await api.get("/kpi/summary", world.staff, **WEEK)
    _, listed = await api.get("/kpi/staff", world.staff, **WEEK)

    assert status == 200 and own["staffId"] == "anna"
    counts = counted(world.mine, "anna")
    clients = {"clients", "returningClients", "newClients", "retainedClients", "rebookedVisits"}
    assert own["counts"] == counts | dict.fromkeys(clients)
    assert "rebookingRate" in own["notYet"]
    assert [entry["staffId"] for entry in listed["staff"]] == ["anna"]
    assert (await api.get("/kpi/staff/anna", world.staff))[0] == 200
    assert (await api.get("/kpi/staff/boris", world.staff))[0] == 404
    assert (await api.get("/kpi/summary", world.staff, staffId="boris"))[0] == 404
    assert (await api.get("/kpi/summary", world.staff, tenantId=world.other.tenant_id))[0] == 404


async def test_an_operator_sees_the_tenant_that_it_names(api: Api, world: World) -> None:
    for salon in (world.mine, world.other):
        _, body = await api.get("/kpi/summary", world.operator, tenantId=salon.tenant_id, **WEEK)
        assert body["counts"] == counted(salon)
    assert (await api.get("/kpi/summary", world.operator, tenantId="nobody"))[0] == 404
    status, problem = await api.get("/kpi/summary", world.operator)
    assert (status, problem["errors"][0]["where"]) == (400, "tenantId")


async def test_without_a_token_only_the_demo_tenant_answers(api: Api, closed_api: Api, world: World) -> None:
    assert (await api.get("/kpi/summary", tenantId=world.demo))[0] == 200
    assert (await closed_api.get("/kpi/summary", tenantId=world.demo))[0] == 401
    real = await api.get("/kpi/summary", tenantId=world.mine.tenant_id)
    unknown = await api.get("/kpi/summary", tenantId="nobody")
    unnamed = await api.get("/kpi/summary")
    assert real == unknown == unnamed
    assert real[0] == 401


@pytest.mark.parametrize(
    "header", ["Bearer nonsense", "Bearer ", "Basic dXNlcjpwYXNz", "", "Bearer " + "a" * 600, "Bearer \xe9"]
)
async def test_a_bad_token_is_refused_with_a_challenge(api: Api, world: World, header: str) -> None:
    async with api.session.get(
        f"{api.url}/kpi/summary", params={"tenantId": world.demo}, headers={"Authorization": header}
    ) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="turnout", error="invalid_token"'
        assert answer.content_type == "application/problem+json"


async def test_a_revoked_token_is_refused_once_the_cache_forgets_it(
    api: Api, database: Database, world: World
) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    try:
        token = await create_api_token(platform, world.mine.tenant_id, "owner", label="to be revoked")
        assert (await api.get("/kpi/summary", token))[0] == 200
        await platform.execute(
            "UPDATE platform.api_tokens SET revoked_at = now() WHERE label = 'to be revoked'"
        )
    finally:
        await platform.close()

    assert CACHE_SECONDS <= 30
    api.elapsed += CACHE_SECONDS

    assert (await api.get("/kpi/summary", token))[0] == 401


# ---- errors, operations ----


@pytest.mark.parametrize(
    ("where", "parameters"),
    [
        ("period", {"period": "fortnight"}),
        ("from", {"from": "yesterday"}),
        ("from", {"from": "1700000000"}),
        ("from", {"from": "2026-02-30"}),
        ("from", {"from": ""}),
        ("from", {"to": "2026-11-24"}),
        ("to", {"from": "2026-11-24", "to": "2026-11-23"}),
        ("to", {"from": "2024-01-01", "to": "2026-11-23"}),
        ("from", {"from": "0001-01-01"}),
        ("to", {"from": "2026-01-01", "to": "9999-12-31"}),
        ("tz", {"tz": "Mars/Olympus"}),
        ("tz", {"tz": "../../etc/passwd"}),
        ("tz", {"tz": "Europe"}),
        ("tz", {"tz": "\x00"}),
        ("compare", {"compare": "next"}),
        ("channel", {"channel": "pigeon"}),
        ("staffId", {"staffId": ""}),
        ("staffId", {"staffId": "a\nb"}),
        ("serviceId", {"serviceId": "x" * 256}),
        ("stafId", {"stafId": "anna"}),
        ("tenantId", {"tenantId": "NOT AN ID"}),
    ],
    ids=str,
)
async def test_bad_input_is_a_problem_that_names_its_parameter(
    api: Api, world: World, where: str, parameters: dict[str, str]
) -> None:
    status, problem = await api.get("/kpi/summary", world.owner, **parameters)

    assert (status, problem["status"]) == (400, 400)
    assert problem["type"] == "urn:turnout:problem:bad-request"
    assert [fault["where"] for fault in problem["errors"]] == [where]
    assert problem["title"] and problem["detail"]


@pytest.mark.parametrize(
    "name", ["tenantId", "period", "from", "to", "tz", "compare", "channel", "staffId", "serviceId"]
)
async def test_a_value_that_was_refused_is_not_sent_back(api: Api, world: World, name: str) -> None:
    status, problem = await api.get("/kpi/summary", world.owner, **{name: "canary\x01"})

    assert status == 400
    assert "canary" not in str(problem)


async def test_an_unknown_path_is_a_problem_too(api: Api) -> None:
    status, problem = await api.get("/nothing")

    assert (status, problem["type"]) == (404, "urn:turnout:problem:http")


async def test_definitions_tell_what_each_metric_means(api: Api) -> None:
    status, body = await api.get("/kpi/definitions")

    assert status == 200
    assert [metric["name"] for metric in body["metrics"]] == [metric.name for metric in METRICS]
    assert body["metrics"][4]["numerator"] == "noShows" and body["counts"]["noShows"]


async def test_operations(api: Api, world: World) -> None:
    async with api.session.get(f"{api.url}/metrics") as answer:
        assert answer.status == 200
    assert await api.get("/health") == (200, {"status": "ok", "service": "kpi-api"})
    assert await api.get("/ready") == (200, {"ready": True, "faults": {}})
    assert (await api.get("/status"))[1]["freshness_seconds"] == 0
    assert "/kpi/summary" in (await api.get("/openapi.json"))[1]["paths"]
    assert (await api.get("/docs"))[0] == 404


async def test_answers_forbid_caching_and_scripts(api: Api, world: World) -> None:
    async with api.session.get(f"{api.url}/kpi/summary", params={"tenantId": world.demo}) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_a_database_that_is_gone_is_503_with_retry_after(world: World) -> None:
    async with running("postgresql://turnout_kpi:x@127.0.0.1:1/nothing", demo_is_open=True) as lonely:
        async with lonely.session.get(f"{lonely.url}/kpi/summary", params={"tenantId": world.demo}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            assert (await answer.json(content_type=None))["type"] == "urn:turnout:problem:unavailable"
        assert (await lonely.get("/ready"))[0] == 503
        assert (await lonely.get("/health"))[0] == 200


async def test_a_table_that_is_locked_ends_in_503_not_in_a_hang(
    api: Api, database: Database, world: World
) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        async with admin.transaction():
            await admin.execute("LOCK TABLE rollup.chain_facts IN ACCESS EXCLUSIVE MODE")
            status, problem = await api.get("/kpi/summary", world.owner)
    finally:
        await admin.close()

    assert (status, problem["type"]) == (503, "urn:turnout:problem:unavailable")
    assert (await api.get("/kpi/summary", world.owner))[0] == 200
