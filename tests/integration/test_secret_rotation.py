"""Promise: two secrets are valid during an overlap, then the old one dies; no secret is shown but a new one, once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from tests.integration.command_world import acts, stored, with_connection
from turnout_cli import tenant, tenant_channels
from turnout_cli.errors import CommandError
from turnout_common.channel_secrets import new_secret
from turnout_common.tenants import rotate_secret

pytestmark = pytest.mark.usefixtures("command_environment")


def secrets_of(database: Database, name: str, channel: str) -> tuple[str, ...]:
    return stored(database, name).channels[channel].secrets


@pytest.mark.parametrize("channel", ["calcom", "telegram", "max", "events"])
def test_a_rotation_makes_a_secret_prints_it_once_and_keeps_the_old_one_for_the_overlap(
    database: Database, name: str, channel: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = new_secret(channel)
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, channel, secret=old)
    capsys.readouterr()

    assert tenant_channels.rotate_secret(name, channel) == 0

    out, err = capsys.readouterr()
    made = out.strip()
    assert secrets_of(database, name, channel) == (made, old)
    assert made not in err and old not in out + err
    assert "dies by itself" in err
    assert acts(database, name)[-1] == "secret.rotated"


def test_a_given_secret_is_not_printed_and_a_third_ends_the_first_at_once(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "whatsapp", secret="first")
    tenant_channels.rotate_secret(name, "whatsapp", secret="second", overlap="7d")
    capsys.readouterr()

    tenant_channels.rotate_secret(name, "whatsapp", secret="third", overlap="30m")

    out, err = capsys.readouterr()
    assert (out, secrets_of(database, name, "whatsapp")) == ("", ("third", "second"))
    assert "two at most" in err
    assert "third" not in err


def test_a_leaked_secret_ends_at_once(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="leaked")

    tenant_channels.rotate_secret(name, "calcom", secret="new", overlap="0")

    assert secrets_of(database, name, "calcom") == ("new",)
    assert "refused from now on" in capsys.readouterr().err


def test_secrets_beyond_the_largest_number_begin_anew(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")
    with_connection(
        database.admin_dsn,
        lambda c: c.execute(
            "UPDATE platform.channel_secrets SET secret_no = 32000 WHERE tenant_id = $1", name
        ),
    )

    for secret in ("second", "third"):
        tenant_channels.rotate_secret(name, "calcom", secret=secret)

    assert secrets_of(database, name, "calcom") == ("third", "second")


def test_a_rotation_that_makes_no_sense_is_refused(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")

    for channel, options, words in (
        ("calcom", {"secret": "first"}, "in use"),
        ("calcom", {"overlap": "soon"}, "length of time"),
        ("calcom", {"overlap": "91d"}, "too long"),
        ("vk", {}, "gives the secret itself"),
        ("max", {}, "no channel max"),
    ):
        with pytest.raises(CommandError, match=words):
            tenant_channels.rotate_secret(name, channel, **options)  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="no tenant"):
        tenant_channels.rotate_secret("nobody", "calcom")
    assert secrets_of(database, name, "calcom") == ("first",)


def test_two_rotations_at_once_leave_two_secrets(database: Database, name: str) -> None:
    tenant.create(name, timezone="Europe/Berlin")
    tenant_channels.set_channel(name, "calcom", secret="first")

    async def both() -> None:
        connections = [await asyncpg.connect(database.dsn("platform")) for _ in range(4)]
        await asyncio.gather(
            *(
                rotate_secret(c, MASTER_KEY, name, "calcom", f"new-{number}", timedelta(hours=1))
                for number, c in enumerate(connections)
            )
        )
        for connection in connections:
            await connection.close()

    asyncio.run(both())
    found = secrets_of(database, name, "calcom")
    assert len(found) == 2
    assert {secret[:4] for secret in found} == {"new-"}
