"""The embedded Postgres keeps its data, is strict about who may come in, and recovers from a kill."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from turnout_cli.embedded.placement import server_account
from turnout_cli.embedded.postgres import EmbeddedPostgres
from turnout_cli.embedded.process import EmbeddedError, free_port, spawn


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """In a folder as people name them, under the plainest locale."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "Mon salon, été", free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_ALL", "C")
        await postgres.start()
        yield postgres
    await postgres.stop()
    postgres.destroy()


async def query(server: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_what_is_committed_outlives_stop_and_start(server: EmbeddedPostgres) -> None:
    await query(server, "CREATE TABLE kept AS SELECT 42 AS answer")

    await server.stop()
    await server.start()

    assert await query(server, "SELECT answer FROM kept") == 42
    assert not server.created


async def test_what_is_committed_outlives_a_killed_server(server: EmbeddedPostgres) -> None:
    await query(server, "CREATE TABLE survives AS SELECT 'yes' AS it")
    pid = server.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    await server.wait()
    await server.start()

    assert await query(server, "SELECT it FROM survives") == "yes"


async def test_a_pid_file_that_names_another_process_does_not_prevent_the_start(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await server.stop()
    # Of the server's own user: Postgres takes the pid of such a process for a server that runs.
    stranger = await spawn(["/bin/sleep", "60"], log=tmp_path / "log", account=server_account())
    (server.folder / "data/postmaster.pid").write_text(f"{stranger.pid}\n{server.folder / 'data'}\n")
    try:
        await server.start()

        assert await query(server, "SELECT 1") == 1
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_server_that_an_earlier_run_left_behind_is_replaced(server: EmbeddedPostgres) -> None:
    left_behind = server.pid
    successor = EmbeddedPostgres(server.folder, server.port)

    await successor.start()
    try:
        assert successor.pid not in (None, left_behind)
        assert await query(successor, "SELECT 1") == 1
    finally:
        await successor.stop()
    await server.start()


async def test_durability_is_on(server: EmbeddedPostgres) -> None:
    shown = [
        await query(server, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")
    ]

    assert shown == ["on", "on", "on"]


async def test_text_is_utf8_and_knows_cyrillic_letters(server: EmbeddedPostgres) -> None:
    assert await query(server, "SHOW server_encoding") == "UTF8"
    assert await query(server, "SELECT lower('ЗАПИСЬ Ё')") == "запись ё"


async def test_it_is_the_version_the_queries_need(server: EmbeddedPostgres) -> None:
    assert await query(server, "SELECT current_setting('server_version_num')::int >= 180000")
    assert await query(server, "SELECT uuid_extract_version(uuidv7())") == 7


async def test_a_wrong_password_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")


async def test_it_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    addresses = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }

    assert addresses == {"127.0.0.1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
async def test_root_never_runs_the_server(server: EmbeddedPostgres) -> None:
    assert 0 not in psutil.Process(server.pid).uids()


async def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        postgres = EmbeddedPostgres(tmp_path / "other", other.getsockname()[1])

        with pytest.raises(EmbeddedError, match="in use by another program"):
            await postgres.start()

    postgres.destroy()


async def test_a_failed_start_shows_the_servers_own_words(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "wrong", free_port(), settings={"shared_buffers": "1kB"})
    try:
        with pytest.raises(EmbeddedError, match="shared_buffers"):
            await postgres.start()
    finally:
        postgres.destroy()
