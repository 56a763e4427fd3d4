"""`turnout reconcile max` against the mock of MAX's API: what it finds, what it mends, and its exit status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.sender_world import MockProviders, mock_providers
from turnout_cli.errors import CommandError
from turnout_cli.reconcile_max import UPDATE_TYPES, reconcile_max
from turnout_common.tenants import create_tenant, rotate_secret, set_channel, set_tenant_status

SECRET = "secret-of-the-channel"
HOOK = "https://hooks.example/webhooks/max/{tenant}"
pytestmark = pytest.mark.usefixtures("command_environment", "mock")


@pytest.fixture
async def mock() -> AsyncIterator[MockProviders]:
    async with mock_providers() as started:
        yield started


async def bot(
    database: Database, name: str, *, token: str | None = "", secret: str | None = SECRET
) -> str | None:
    """A tenant with a MAX channel; its token."""
    given = f"token-of-{name}" if token == "" else token
    connection = await asyncpg.connect(database.dsn("platform"))
    try:
        await create_tenant(connection, MASTER_KEY, name, "Europe/Moscow")
        await set_channel(connection, MASTER_KEY, name, "max", secret=secret, api_token=given)
    finally:
        await connection.close()
    return given


async def subscribe(mock: MockProviders, token: str | None, url: str, **more: Any) -> None:
    headers = {"Authorization": token or ""}
    async with mock.session.post(f"{mock.url}/subscriptions", json={"url": url} | more, headers=headers) as answer:  # fmt: skip
        assert (answer.status, await answer.json()) == (200, {"success": True})


async def subscriptions(mock: MockProviders, token: str | None) -> list[dict[str, Any]]:
    async with mock.session.get(f"{mock.url}/subscriptions", headers={"Authorization": token or ""}) as answer:  # fmt: skip
        found: list[dict[str, Any]] = (await answer.json())["subscriptions"]
        return found


async def posts(mock: MockProviders, token: str | None) -> int:
    """How often the bot was subscribed."""
    async with mock.session.get(f"{mock.url}/_admin/max/calls", params={"token": token or ""}) as answer:
        return [call["method"] for call in (await answer.json())["calls"]].count("POST /subscriptions")


async def run(mock: MockProviders, name: str | None, **options: Any) -> int:
    """The exit status; the command has an event loop of its own."""
    return await asyncio.to_thread(reconcile_max, tenant=name, api=mock.url, **options)


async def test_subscribed_bot_is_well(
    database: Database, mock: MockProviders, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = await bot(database, name)
    await subscribe(mock, token, HOOK.format(tenant=name), update_types=list(UPDATE_TYPES))

    assert await run(mock, name, url=HOOK, as_json=True) == 0
    assert await run(mock, name) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.partition("]")[0] + "]") == [
        {"tenant_id": name, "state": "subscribed", "url": HOOK.format(tenant=name), "detail": ""}
    ]
    assert "✗" not in told.err


@pytest.mark.parametrize(
    ("subscribed", "types", "state"),
    [
        (None, None, "missing"),
        ("https://old.example/hook", None, "elsewhere"),
        ("https://hooks.example/webhooks/max/another", None, "elsewhere"),
        (HOOK, ["message_created"], "incomplete"),
    ],
)
async def test_bot_whose_updates_do_not_arrive_fails_in_one_line_until_it_is_fixed(
    database: Database,
    mock: MockProviders,
    name: str,
    capsys: pytest.CaptureFixture[str],
    subscribed: str | None,
    types: list[str] | None,
    state: str,
) -> None:
    token = await bot(database, name)
    if subscribed:
        await subscribe(mock, token, subscribed.replace("{tenant}", name), update_types=types)

    assert await run(mock, name, url=HOOK, as_json=True) == 1
    told = capsys.readouterr()
    assert [each["state"] for each in json.loads(told.out)] == [state]
    assert len([line for line in told.err.splitlines() if line.startswith(f"✗ {name}: ")]) == 1

    assert await run(mock, name, url=HOOK, fix=True, as_json=True) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["fixed"]
    ours = [s for s in await subscriptions(mock, token) if s["url"] == HOOK.format(tenant=name)]
    assert [each["update_types"] for each in ours] == [list(UPDATE_TYPES)]
    assert await run(mock, name, url=HOOK) == 0


async def test_fix_leaves_a_good_subscription_and_other_urls_alone(
    database: Database, mock: MockProviders, name: str
) -> None:
    token = await bot(database, name)
    await subscribe(mock, token, "https://old.example/hook")
    await subscribe(mock, token, HOOK.format(tenant=name))
    before = await subscriptions(mock, token)

    assert await run(mock, name, url=HOOK, fix=True) == 0
    assert await subscriptions(mock, token) == before


async def test_old_name_counts_as_ours_when_no_url_is_given(
    database: Database, mock: MockProviders, name: str
) -> None:
    token = await bot(database, name)
    await subscribe(mock, token, f"https://hooks.example/webhooks/vkmax/{name}")

    assert await run(mock, name) == 0
    assert await run(mock, name, url=HOOK) == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"kind": "revoked"}, "does not know the API token"),
        ({"kind": "fail", "status": 503}, "answered 503"),
        ({"kind": "throttle"}, "answered 429"),
        ({"kind": "cut"}, "did not answer as it should"),
    ],
)
async def test_max_that_does_not_answer_is_no_proof_of_anything_and_fails(
    database: Database,
    mock: MockProviders,
    name: str,
    capsys: pytest.CaptureFixture[str],
    behaviour: dict[str, Any],
    words: str,
) -> None:
    token = await bot(database, name)
    body = {"token": token, "behaviours": [behaviour]}
    async with mock.session.put(f"{mock.url}/_admin/max/behaviours", json=body) as answer:
        assert answer.status == 200

    assert await run(mock, name, url=HOOK, fix=True, as_json=True) == 1
    told = capsys.readouterr()
    assert [each["state"] for each in json.loads(told.out)] == ["unknown"]
    assert words in told.err
    assert (token or "") not in told.out + told.err


async def test_bot_without_a_token_is_told_how_to_get_one(
    database: Database, mock: MockProviders, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await bot(database, name, token=None)

    assert await run(mock, name, as_json=True) == 1
    told = capsys.readouterr()
    assert [each["state"] for each in json.loads(told.out)] == ["no_token"]
    assert f"./turnout tenant channel set {name} max --api-token" in told.err


async def test_bot_without_a_secret_is_not_subscribed(
    database: Database, mock: MockProviders, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = await bot(database, name, secret=None)

    assert await run(mock, name, url=HOOK, fix=True) == 1
    assert f"./turnout tenant channel set {name} max --secret" in capsys.readouterr().err
    assert await subscriptions(mock, token) == []


async def test_rotated_secret_is_passed_on_to_max(
    database: Database, mock: MockProviders, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = await bot(database, name)
    await subscribe(mock, token, HOOK.format(tenant=name))
    connection = await asyncpg.connect(database.dsn("platform"))
    await rotate_secret(
        connection, MASTER_KEY, name, "max", secret="the-next-secret", overlap=timedelta(hours=1)
    )
    await connection.close()

    assert await run(mock, name, url=HOOK) == 0
    assert await posts(mock, token) == 1
    assert await run(mock, name, url=HOOK, fix=True) == 0
    assert await posts(mock, token) == 2
    told = capsys.readouterr()
    assert "the-next-secret" not in told.out + told.err


async def test_suspended_tenants_are_left_out_and_all_others_checked(
    database: Database, mock: MockProviders, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, suspended = (f"{name}-{n}" for n in (1, 2, 3))
    for each in (first, second, suspended):
        await bot(database, each)
    connection = await asyncpg.connect(database.dsn("platform"))
    await set_tenant_status(connection, suspended, "suspended")
    await connection.close()

    assert await run(mock, None, url=HOOK, as_json=True) == 1
    found = {each["tenant_id"]: each["state"] for each in json.loads(capsys.readouterr().out)}
    assert (found[first], found[second]) == ("missing", "missing")
    assert suspended not in found


async def test_what_cannot_be_meant_is_refused(mock: MockProviders, name: str) -> None:
    with pytest.raises(CommandError, match="needs --url"):
        await run(mock, name, fix=True)
    with pytest.raises(CommandError, match="must hold"):
        await run(mock, None, url="https://hooks.example/webhooks/max/one")
    with pytest.raises(CommandError, match="no active tenant"):
        await run(mock, name)


async def test_mock_wants_the_token_in_its_header_and_forgets_on_delete(mock: MockProviders) -> None:
    await subscribe(mock, "a-well-formed-token", "https://a.example/hook")
    headers = {"Authorization": "a-well-formed-token"}

    async with mock.session.get(f"{mock.url}/subscriptions?access_token=a-well-formed-token") as answer:
        assert answer.status == 401
    async with mock.session.post(f"{mock.url}/subscriptions", json={"url": "x"}, headers=headers) as answer:
        assert answer.status == 400
    async with mock.session.delete(
        f"{mock.url}/subscriptions", params={"url": "https://a.example/hook"}, headers=headers
    ) as answer:
        assert await answer.json() == {"success": True}
    assert await subscriptions(mock, "a-well-formed-token") == []
