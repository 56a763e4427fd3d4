"""Schema platform: who may read what, tokens, tenants in memory; and every shared query prepares."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import ROLE_PASSWORD, ROLES, Database, Infrastructure, new_database
from tests.integration.probe import add_probe_schema
from turnout_cli.migrate import migrate
from turnout_common import consumer, recovery, relay, tenants
from turnout_common.postgres import create_pool
from turnout_common.security import SecretError
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import (
    TenantSettings,
    authenticate,
    create_api_token,
    create_tenant,
    set_channel,
    set_tenant_status,
    tenant_keys,
)

#: What each role may SELECT in schema platform; nothing else is granted to anybody.
READABLE = {
    "ingest": {"tenants", "data_keys", "channels", "channel_secrets"},
    "booking": {"tenants"},
    "sender": {"tenants", "data_keys", "channels"},
    "rollup": {"tenants"},
    "kpi": {"tenants"},
    "platform": {
        "tenants",
        "data_keys",
        "channels",
        "channel_secrets",
        "api_tokens",
        "audit_log",
        "master_key",
    },
    "maintenance": {"tenants", "data_keys", "channels"},
}


@pytest.mark.parametrize("role", ROLES)
async def test_role_reads_only_its_own_part_of_the_platform(database: Database, role: str) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    rows = await connection.fetch(
        "SELECT relname, has_any_column_privilege('turnout_' || $1, oid, 'SELECT') AS may FROM pg_class "
        "WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND relname <> 'schema_migrations'",
        role,
    )
    await connection.close()

    assert {row["relname"] for row in rows if row["may"]} == READABLE[role]


PLAIN_COLUMNS = {"tenant_id", "channel", "enabled", "routing_id"}
CHANNEL_COLUMNS = {
    "ingest": PLAIN_COLUMNS | {"sealed_handshake"},
    "sender": PLAIN_COLUMNS | {"sealed_api_token"},
    "platform": PLAIN_COLUMNS | {"sealed_handshake", "sealed_api_token", "updated_at"},
    "maintenance": PLAIN_COLUMNS | {"sealed_handshake"},
}


@pytest.mark.parametrize("role", ROLES)
async def test_only_the_sender_and_the_platform_read_a_channels_api_token(
    database: Database, role: str
) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'platform.channels'::regclass AND attnum > 0 "
        "AND NOT attisdropped AND has_column_privilege('turnout_' || $1, attrelid, attnum, 'SELECT')",
        role,
    )
    await connection.close()

    assert {row["attname"] for row in rows} == CHANNEL_COLUMNS.get(role, set())


@pytest.mark.parametrize("role", ROLES)
async def test_role_writes_nothing_of_the_platform_unless_it_is_the_platforms_own(
    database: Database, role: str
) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    rows = await connection.fetch(
        "SELECT relname, p AS privilege FROM pg_class, unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p "
        "WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') "
        "AND relname <> 'schema_migrations' AND (has_table_privilege('turnout_' || $1, oid, p) "
        "OR p IN ('INSERT', 'UPDATE') AND has_any_column_privilege('turnout_' || $1, oid, p))",
        role,
    )
    await connection.close()

    writes = {"INSERT", "UPDATE", "DELETE"}
    allowed = {table: {"INSERT"} if table == "audit_log" else writes for table in READABLE["platform"]}
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["relname"], set()).add(row["privilege"])
    assert found == (allowed if role == "platform" else {})


async def test_every_table_has_forced_row_level_security_and_an_owner_that_is_no_superuser(
    database: Database,
) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    rows = await connection.fetch(
        """SELECT c.oid::regclass::text AS name, c.relforcerowsecurity AS forced, r.rolsuper AS superuser
        FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations'
          AND n.nspname IN ('platform', 'ingest', 'booking', 'sender', 'rollup')"""
    )
    await connection.close()

    assert len(rows) > 5
    assert [row["name"] for row in rows if not row["forced"] or row["superuser"]] == []


async def test_service_roles_have_timeouts_and_maintenance_has_none(database: Database) -> None:
    wanted = {
        "lock_timeout": "5s",
        "transaction_timeout": "30s",
        "idle_in_transaction_session_timeout": "10s",
    }
    for role in ROLES:
        connection = await asyncpg.connect(database.dsn(role))
        found = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in wanted}
        await connection.close()

        assert found == (dict.fromkeys(wanted, "0") if role == "maintenance" else wanted), role


async def test_commits_wait_for_the_disk(database: Database, infrastructure: Infrastructure) -> None:
    connection = await asyncpg.connect(database.dsn("ingest"))
    settings = [
        await connection.fetchval("SELECT current_setting($1)", s) for s in ("fsync", "synchronous_commit")
    ]
    await connection.close()

    assert settings == ["on", "on"], infrastructure.backend


async def test_migration_run_twice_at_once_applies_each_version_once(infrastructure: Infrastructure) -> None:
    async with new_database(infrastructure.postgres) as created:
        again = await migrate(created.admin_dsn, {"turnout_ingest": ROLE_PASSWORD})

    assert again == []


#: What the directory of each role opens of a channel: secrets, API token, handshake. None: it has no channels.
OPENED = {
    "ingest": (("s3cret",), None, "verify-me"),
    "booking": None,
    "sender": ((), "token", None),
    "rollup": None,
    "platform": (("s3cret",), "token", "verify-me"),
    "maintenance": ((), None, "verify-me"),
}


@pytest.mark.parametrize("role", OPENED)
async def test_directory_of_each_role_loads_and_opens_what_the_role_may_have(
    database: Database, tenant_id: str, role: str
) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    await set_channel(
        platform, MASTER_KEY, tenant_id, "whatsapp", secret="s3cret", api_token="token", handshake="verify-me"
    )
    await platform.close()
    pool = await create_pool(database.dsn(role), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await pool.close()

    tenant = directory.get(tenant_id)
    assert tenant is not None and (tenant.keys is not None) is ("data_keys" in READABLE[role])
    found = tenant.channels.get("whatsapp")
    assert (found and (found.secrets, found.api_token, found.handshake)) == OPENED[role]


async def test_secret_of_a_rotation_is_valid_until_it_expires(database: Database, tenant_id: str) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    await set_channel(platform, MASTER_KEY, tenant_id, "calcom", secret="new")
    keys = await tenant_keys(platform, MASTER_KEY, tenant_id)
    for number, age in ((2, "1 hour"), (3, "-1 hour")):
        await platform.execute(
            "INSERT INTO platform.channel_secrets (tenant_id, channel, secret_no, sealed_secret, expires_at) "
            "VALUES ($1, 'calcom', $2, $3, now() + $4::text::interval)",
            tenant_id, number, keys.seal("channel_secret", age.encode()), age,
        )  # fmt: skip
    await platform.close()
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await pool.close()

    tenant = directory.get(tenant_id)
    assert tenant is not None
    assert tenant.channels["calcom"].secrets == ("new", "1 hour")


async def test_wrong_master_key_is_told_and_the_last_configuration_stays(
    database: Database, tenant_id: str
) -> None:
    pool = await create_pool(database.dsn("ingest"), "test")
    wrong = TenantDirectory(pool, b"\x01" * 32)

    with pytest.raises(SecretError, match="TURNOUT_MASTER_KEY"):
        await wrong.reload()
    await pool.close()


async def test_one_tenants_broken_key_costs_the_others_nothing(database: Database, tenant_id: str) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "INSERT INTO platform.tenants (tenant_id, timezone) VALUES ('broken', 'UTC') ON CONFLICT DO NOTHING"
    )
    await admin.execute("INSERT INTO platform.data_keys VALUES ('broken', 1, $1)", b"x" * 60)
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await pool.close()
    await admin.execute("DELETE FROM platform.data_keys WHERE tenant_id = 'broken'")
    await admin.close()

    good, broken = directory.get(tenant_id), directory.get("broken")
    assert good is not None and good.sealing_keys().open("x", good.sealing_keys().seal("x", b"y")) == b"y"
    assert broken is not None and broken.keys is None


@pytest.mark.parametrize(
    ("role", "damage"),
    [
        ("ingest", "UPDATE platform.channel_secrets SET sealed_secret = '\\x00' WHERE tenant_id = $1"),
        ("sender", "UPDATE platform.channels SET sealed_api_token = '\\x00' WHERE tenant_id = $1"),
        (
            "ingest",
            """UPDATE platform.tenants SET settings = '{"notice_hours": "soon"}' WHERE tenant_id = $1""",
        ),
    ],
    ids=["secret", "api token", "setting"],
)
async def test_one_tenants_damaged_row_costs_the_others_nothing(
    database: Database, tenant_id: str, role: str, damage: str
) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    other = f"{tenant_id}-other"
    await create_tenant(platform, MASTER_KEY, other, "UTC")
    for name in (tenant_id, other):
        await set_channel(platform, MASTER_KEY, name, "calcom", secret="s3cret", api_token="token")
    await platform.execute(damage, tenant_id)
    pool = await create_pool(database.dsn(role), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    damaged, whole = directory.get(tenant_id), directory.get(other)
    await platform.execute("DELETE FROM platform.channel_secrets WHERE tenant_id = $1", tenant_id)
    await platform.execute("DELETE FROM platform.channels WHERE tenant_id = $1", tenant_id)
    await platform.execute("UPDATE platform.tenants SET settings = '{}' WHERE tenant_id = $1", tenant_id)
    await platform.close()
    await pool.close()

    assert whole is not None
    found = whole.channels["calcom"]
    assert (found.secrets, found.api_token) == (((), "token") if role == "sender" else (("s3cret",), None))
    assert damaged is not None
    assert ("calcom" in damaged.channels) is ("settings" in damage)
    assert damaged.settings == TenantSettings()


async def test_setting_of_a_newer_version_is_passed_over(database: Database, tenant_id: str) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    await platform.execute(
        """UPDATE platform.tenants SET settings = '{"notice_hours": 5, "from_the_future": 1}' WHERE tenant_id = $1""",
        tenant_id,
    )
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await platform.execute("UPDATE platform.tenants SET settings = '{}' WHERE tenant_id = $1", tenant_id)
    await platform.close()
    await pool.close()

    tenant = directory.get(tenant_id)
    assert tenant is not None
    assert tenant.settings.notice_hours == 5


async def test_suspended_tenant_is_not_active(database: Database, tenant_id: str) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    await set_tenant_status(platform, tenant_id, "suspended")
    await platform.close()
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY)
    await directory.reload()
    await pool.close()

    tenant = directory.get(tenant_id)
    assert tenant is not None
    assert not tenant.active


async def test_token_leads_to_its_tenant_and_a_guess_leads_nowhere(
    database: Database, tenant_id: str
) -> None:
    platform = await asyncpg.connect(database.dsn("platform"))
    token = await create_api_token(platform, tenant_id, "staff", staff_id="anna")
    await platform.close()
    kpi = await asyncpg.connect(database.dsn("kpi"))
    principal, nobody = await authenticate(kpi, token), await authenticate(kpi, token + "x")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await kpi.fetch("SELECT * FROM platform.api_tokens")
    await kpi.close()

    assert principal is not None
    assert (principal.tenant_id, principal.scope, principal.staff_id) == (tenant_id, "staff", "anna")
    assert nobody is None


async def test_kpi_role_sees_only_the_tenant_of_its_transaction(database: Database, tenant_id: str) -> None:
    kpi = await asyncpg.connect(database.dsn("kpi"))
    before = await kpi.fetchval("SELECT count(*) FROM platform.tenants")
    async with kpi.transaction():
        await kpi.execute("SELECT set_config('turnout.tenant_id', $1, true)", tenant_id)
        inside = [row["tenant_id"] for row in await kpi.fetch("SELECT tenant_id FROM platform.tenants")]
    after = await kpi.fetchval("SELECT count(*) FROM platform.tenants")
    await kpi.close()

    assert (before, inside, after) == (0, [tenant_id], 0)


async def test_every_shared_query_prepares(database: Database) -> None:
    await add_probe_schema(database)
    connection = await asyncpg.connect(database.admin_dsn)
    queries = {
        f"{module.__name__}.{name}": text.replace("{schema}", "probe").replace("{reader}", "probe")
        for module in (consumer, recovery, relay, tenants)
        for name, text in module.SQL.items()
    }
    for name, text in queries.items():
        try:
            await connection.prepare(text)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{name}: {error}")
    await connection.close()

    assert len(queries) > 20
