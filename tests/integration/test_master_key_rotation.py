"""Promise: a rotation of the master key leaves everything readable at each of its moments, however it is broken off."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import add_channels, created, ingest
from tests.integration.probe import until
from turnout_cli import master_key_commands
from turnout_cli.connection import Target
from turnout_cli.errors import CommandError
from turnout_cli.master_key_store import EnvFile, KeyFile
from turnout_common.master_key_rotation import begin_rotation, data_key_states, wrap_again
from turnout_common.postgres import create_pool
from turnout_common.security import MasterKeys, SecretError, master_key_text, new_master_key
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import create_tenant, set_channel, tenant_keys

OLD = MasterKeys((MASTER_KEY,))


@pytest.fixture
async def platform(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn("platform"))
    yield connection
    await connection.close()


@pytest.fixture
async def key_file(
    database: Database,
    platform: asyncpg.Connection,
    tenant_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[KeyFile]:
    """The key of the module's database in a file that the commands and the services use; put back at the end."""
    store = KeyFile(tmp_path / "master.key")
    store.write(OLD)
    monkeypatch.setenv("TURNOUT_HOME", str(tmp_path))
    monkeypatch.setenv("TURNOUT_PLATFORM_DSN", database.dsn("platform"))
    monkeypatch.setenv("TURNOUT_MASTER_KEY_FILE", str(store.path))
    yield store
    await wrap_again(platform, MasterKeys((MASTER_KEY, *store.read().keys)))


async def rotate(**options: Any) -> int:
    return await asyncio.to_thread(master_key_commands.rotate, **options)


async def opened_by(platform: asyncpg.Connection, keys: MasterKeys) -> set[int | None]:
    return {state.opened_by for state in await data_key_states(platform, keys)}


async def test_rotation_leaves_the_new_key_alone_in_a_private_file(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str
) -> None:
    sealed = (await tenant_keys(platform, MASTER_KEY, tenant_id)).seal("x", b"plain")

    assert await rotate() == 0

    keys = key_file.read()
    (aside,) = key_file.path.parent.glob("master.key.old-*")
    assert len(keys.keys) == 1 and keys != OLD
    assert (await tenant_keys(platform, keys, tenant_id)).open("x", sealed) == b"plain"
    assert await opened_by(platform, keys) == {0}
    assert KeyFile(aside).read() == OLD
    assert {path.stat().st_mode & 0o777 for path in (key_file.path, aside)} == {0o600}
    assert (
        await platform.fetchval("SELECT count(*) FROM platform.audit_log WHERE action = 'master_key.rotated'")
        > 0
    )
    with pytest.raises(SecretError, match="TURNOUT_MASTER_KEY"):
        await tenant_keys(platform, OLD, tenant_id)


@pytest.mark.parametrize(
    "step", ["the data keys are wrapped", "the old key is taken out", "the old key is put aside"]
)
async def test_broken_off_before_any_step_everything_opens_and_the_next_run_ends_it(
    key_file: KeyFile,
    platform: asyncpg.Connection,
    tenant_id: str,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    write = KeyFile.write

    def write_two(store: KeyFile, keys: MasterKeys) -> None:
        if len(keys.keys) == 1:
            raise Crash
        write(store, keys)

    with monkeypatch.context() as broken:
        match step:
            case "the data keys are wrapped":
                broken.setattr(master_key_commands, "wrap_again", crash)
            case "the old key is taken out":
                broken.setattr(KeyFile, "write", write_two)
            case _:
                broken.setattr(KeyFile, "keep", crash)
        with pytest.raises(Crash):
            await rotate()
    left = key_file.read()

    assert len(left.keys) == 2 and left.keys[1] == MASTER_KEY
    assert await opened_by(platform, left) == ({1} if step == "the data keys are wrapped" else {0})
    await create_tenant(platform, left, f"{tenant_id}-between", "UTC")
    assert await rotate() == 0
    assert key_file.read() == MasterKeys(left.keys[:1])
    assert await opened_by(platform, key_file.read()) == {0}


async def test_second_operator_is_refused_before_the_store_is_read(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection
) -> None:
    """Two new keys in one store: the one that wraps could be the one that was written over, and nothing would open."""
    other = await asyncpg.connect(database.dsn("platform"))
    assert await begin_rotation(other)

    with pytest.raises(CommandError, match="another rotation"):
        await rotate()
    assert key_file.read() == OLD
    await other.close()

    assert await rotate() == 0


async def test_file_stays_readable_to_who_could_read_it(key_file: KeyFile) -> None:
    key_file.path.chmod(0o640)

    await rotate()

    (aside,) = key_file.path.parent.glob("master.key.old-*")
    assert key_file.path.stat().st_mode & 0o777 == 0o640
    assert aside.stat().st_mode & 0o777 == 0o600


async def test_tenant_made_again_under_a_key_that_the_service_has_not_is_not_served_with_its_old_data_key(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    """What was sealed under the old one could never be opened."""
    again = f"{tenant_id}-again"
    await create_tenant(platform, MASTER_KEY, again, "UTC")
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY, read_again=lambda: OLD)
    await directory.reload()
    await rotate()
    await platform.execute("DELETE FROM platform.data_keys WHERE tenant_id = $1", again)
    await platform.execute("DELETE FROM platform.tenants WHERE tenant_id = $1", again)
    await create_tenant(platform, key_file.read(), again, "UTC")
    await directory.reload()
    await pool.close()

    found, other = directory.get(again), directory.get(tenant_id)
    assert found is not None and found.keys is None
    assert other is not None and other.keys is not None


async def test_transaction_that_fails_wraps_nothing(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise asyncpg.PostgresError("the audit log is full")

    with monkeypatch.context() as broken:
        broken.setattr("turnout_common.master_key_rotation.audit_act", refuse)
        with pytest.raises(CommandError, match="audit log"):
            await rotate()

    assert await opened_by(platform, key_file.read()) == {1}


async def test_webhooks_flow_through_a_rotation_and_new_secrets_open_after_it(
    key_file: KeyFile,
    database: Database,
    infrastructure: Infrastructure,
    platform: asyncpg.Connection,
    topic_prefix: str,
    tenant_id: str,
) -> None:
    """Twice, so that the service meets a key that it has never had; its timer is of no help."""
    await add_channels(database, tenant_id)
    answered: list[int] = []
    rotated = asyncio.Event()
    async with ingest(
        database, infrastructure, topic_prefix, relay=False, follow=True, tenant_reload_seconds=3600.0,
        master_key=None, master_key_file=key_file.path,
    ) as service:  # fmt: skip

        async def flow() -> None:
            while not rotated.is_set():
                answered.append((await service.post(tenant_id, created(f"rot-{uuid4()}"))).status)

        flowing = asyncio.create_task(flow())
        for number in range(2):
            assert await rotate() == 0
            fresh = f"{tenant_id}-{number}"
            await create_tenant(platform, key_file.read(), fresh, "UTC")
            await set_channel(platform, key_file.read(), fresh, "calcom", secret="ingest-test-calcom")

            async def taken_in(name: str = fresh) -> bool:
                return (await service.post(name, created(f"rot-{uuid4()}"))).status == 202

            await until(taken_in, "the service to read the new key", 5)
        rotated.set()
        await flowing

    assert len(answered) > 4
    assert set(answered) == {202}


async def test_service_that_does_not_get_the_new_key_goes_on_with_what_it_has_open(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    await set_channel(platform, MASTER_KEY, tenant_id, "calcom", secret="one")
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY, read_again=lambda: OLD)
    await directory.reload()
    before = directory.get(tenant_id)
    await rotate()
    await set_channel(platform, key_file.read(), tenant_id, "calcom", secret="two")
    await directory.reload()
    after, fresh = directory.get(tenant_id), TenantDirectory(pool, MASTER_KEY)
    with pytest.raises(SecretError, match="TURNOUT_MASTER_KEY"):
        await fresh.reload()
    await pool.close()

    assert before is not None and after is not None
    assert (after.keys, after.channels["calcom"].secrets) == (before.keys, ("two",))


async def test_tenant_made_after_a_rotation_opens_at_its_first_reading(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    """By the key that the service reads anew at that moment: nothing is told a second time."""
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, MASTER_KEY, read_again=key_file.read)
    await directory.reload()
    await rotate()
    await create_tenant(platform, key_file.read(), f"{tenant_id}-after", "UTC")

    async with pool.acquire() as connection:
        await directory.read(connection, [f"{tenant_id}-after"])
    await pool.close()

    found = directory.get(f"{tenant_id}-after")
    assert found is not None and found.keys is not None


async def test_tenant_is_made_under_the_key_in_force_and_never_under_a_retired_one(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str
) -> None:
    await rotate()
    now = key_file.read()
    with pytest.raises(SecretError, match="was it rotated since"):
        await create_tenant(platform, OLD, f"{tenant_id}-late", "UTC")
    await create_tenant(platform, MasterKeys((new_master_key(), now.newest)), f"{tenant_id}-early", "UTC")

    assert (
        await platform.fetchval(
            "SELECT count(*) FROM platform.tenants WHERE tenant_id = $1", f"{tenant_id}-late"
        )
        == 0
    )
    assert await opened_by(platform, now) == {0}


async def test_tenant_made_while_the_keys_are_wrapped_waits_and_is_made_under_the_new_one(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    new = MasterKeys((new_master_key(), MASTER_KEY))
    key_file.write(new)
    other = await asyncpg.connect(database.dsn("platform"))
    async with platform.transaction():
        await wrap_again(platform, new)
        making = asyncio.create_task(create_tenant(other, new, f"{tenant_id}-meanwhile", "UTC"))
        waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())"
        watcher = await asyncpg.connect(database.admin_dsn)

        async def waits() -> bool:
            return bool(await watcher.fetchval(waiting))

        await until(waits, "the tenant to wait for the rotation")
        await watcher.close()
    await making
    await other.close()

    assert await opened_by(platform, MasterKeys(new.keys[:1])) == {0}


async def test_rotation_waits_for_a_tenant_that_is_being_made_and_wraps_its_key_too(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    async def waits() -> bool:
        return bool(
            await platform.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'turnout-cli' AND wait_event_type = 'Lock'"
            )
        )

    maker = await asyncpg.connect(database.dsn("platform"))
    async with maker.transaction():
        await create_tenant(maker, MASTER_KEY, f"{tenant_id}-first", "UTC")
        rotating = asyncio.create_task(rotate())
        await until(waits, "the rotation waits", 4)
    assert await rotating == 0
    await maker.close()

    assert await opened_by(platform, key_file.read()) == {0}


async def test_wrong_key_is_refused_before_anything_is_written(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str
) -> None:
    wrong = MasterKeys((new_master_key(),))
    key_file.write(wrong)

    with pytest.raises(CommandError, match="nothing was changed"):
        await rotate()

    assert key_file.read() == wrong
    assert await opened_by(platform, OLD) == {0}
    key_file.write(OLD)


async def test_wrong_key_is_refused_where_there_is_no_tenant_left_to_tell_by(
    key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> list[object]:
        return []

    key_file.write(MasterKeys((new_master_key(),)))
    monkeypatch.setattr(master_key_commands, "data_key_states", none)

    with pytest.raises(CommandError, match="nothing was changed"):
        await rotate()
    key_file.write(OLD)


async def test_store_that_another_wrote_over_stops_the_rotation_before_a_key_is_wrapped(
    key_file: KeyFile, platform: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MasterKeys((new_master_key(), MASTER_KEY))

    def write_over(path: Path, text: str, **_: object) -> None:
        path.write_text(master_key_text(other, "\n"))

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("turnout_cli.master_key_store.write_private", write_over)
        with pytest.raises(CommandError, match="changed by another"):
            await rotate()

    assert await opened_by(platform, OLD) == {0}
    assert key_file.read() == other


async def test_given_key_is_refused_while_a_rotation_to_another_is_unfinished(
    key_file: KeyFile, platform: asyncpg.Connection, tmp_path: Path
) -> None:
    begun = MasterKeys((new_master_key(), MASTER_KEY))
    key_file.write(begun)
    given = KeyFile(tmp_path / "given.key")
    given.write(MasterKeys((new_master_key(),)))

    with pytest.raises(CommandError, match="unfinished"):
        await rotate(new_key_file=given.path)

    assert key_file.read() == begun
    assert await opened_by(platform, OLD) == {0}


async def test_broken_data_key_stops_the_rotation_unless_it_is_left(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole: bytes = await platform.fetchval(
        "SELECT wrapped FROM platform.data_keys WHERE tenant_id = $1", tenant_id
    )
    set_wrapped = "UPDATE platform.data_keys SET wrapped = $2 WHERE tenant_id = $1"
    await create_tenant(platform, MASTER_KEY, f"{tenant_id}-whole", "UTC")
    await platform.execute(set_wrapped, tenant_id, b"x" * 60)

    with pytest.raises(CommandError, match=f"{tenant_id}.*nothing was changed.*--leave-broken"):
        await rotate()
    assert key_file.read() == OLD
    assert await asyncio.to_thread(master_key_commands.check, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["not_opened"] == [tenant_id]
    assert await rotate(leave_broken=True) == 0
    await platform.execute(set_wrapped, tenant_id, whole)


async def test_key_in_the_environment_is_rotated_step_by_step(
    key_file: KeyFile,
    platform: asyncpg.Connection,
    tenant_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("TURNOUT_MASTER_KEY_FILE")
    monkeypatch.setenv("TURNOUT_MASTER_KEY", master_key_text(OLD))
    with pytest.raises(CommandError, match="--from-env"):
        await rotate()
    await rotate(from_env=True)
    both = capsys.readouterr().out.strip()
    assert both.endswith("," + master_key_text(OLD))
    assert await opened_by(platform, OLD) == {0}

    monkeypatch.setenv("TURNOUT_MASTER_KEY", both)
    await rotate(from_env=True)

    new = capsys.readouterr().out.strip()
    assert new == both.partition(",")[0]
    key_file.write(MasterKeys((base64.b64decode(new),)))
    assert await opened_by(platform, key_file.read()) == {0}


async def test_key_of_compose_is_rotated_in_two_runs(
    key_file: KeyFile,
    platform: asyncpg.Connection,
    database: Database,
    tenant_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = EnvFile(tmp_path / ".env")
    env.path.write_text(f"# mine\nTURNOUT_MASTER_KEY={master_key_text(OLD)}\nOTHER=1\n")
    monkeypatch.delenv("TURNOUT_MASTER_KEY_FILE")
    values = {
        "platform_dsn": database.dsn("platform"),
        "master_key_text": "x",
        "master_key_in_env_file": "yes",
    }
    monkeypatch.setattr(master_key_commands, "resolve", lambda _: Target("compose", values))
    monkeypatch.setattr("turnout_cli.connection.project_root", lambda: tmp_path)

    await rotate(target="compose")
    assert "docker compose up --detach" in capsys.readouterr().err
    both = env.read()
    assert both.keys[1:] == OLD.keys
    assert await opened_by(platform, OLD) == {0}
    await rotate(target="compose")

    assert env.read() == MasterKeys(both.keys[:1])
    assert env.path.read_text().startswith("# mine\nOTHER=1\n")
    key_file.write(env.read())
    assert await opened_by(platform, env.read()) == {0}


async def test_given_key_is_taken_and_a_guessable_one_is_not(
    key_file: KeyFile, platform: asyncpg.Connection, tenant_id: str, tmp_path: Path
) -> None:
    given = KeyFile(tmp_path / "given.key")
    given.write(MasterKeys((bytes(range(1, 33)),)))
    with pytest.raises(CommandError, match="guessed"):
        await rotate(new_key_file=given.path)
    given.write(MasterKeys((new_master_key(),)))

    await rotate(new_key_file=given.path)

    assert key_file.read() == given.read()
    assert await opened_by(platform, given.read()) == {0}


async def test_rotation_leaves_tenants_in_memory_the_same_objects(
    key_file: KeyFile, database: Database, platform: asyncpg.Connection, tenant_id: str
) -> None:
    """What is made ready per tenant, as the routes of ingest are, is not made ready again."""
    await set_channel(platform, MASTER_KEY, tenant_id, "calcom", secret="one")
    pool = await create_pool(database.dsn("ingest"), "test")
    directory = TenantDirectory(pool, OLD, read_again=key_file.read)
    await directory.reload()
    before = directory.get(tenant_id)
    await rotate()
    await directory.reload()
    await pool.close()

    assert before is not None
    assert directory.get(tenant_id) is before
