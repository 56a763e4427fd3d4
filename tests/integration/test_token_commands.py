"""`turnout tenant token` on a real database: a token is made, known by an id, and refused once it is revoked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.infrastructure import Database
from tests.integration.command_world import acts, with_connection
from turnout_cli import tenant, tenant_tokens
from turnout_cli.actor import who
from turnout_cli.errors import CommandError
from turnout_common.security import token_hash
from turnout_common.tenants import Principal, authenticate
from turnout_kpi_api.auth import CACHE_SECONDS

pytestmark = pytest.mark.usefixtures("command_environment")


def made(capsys: pytest.CaptureFixture[str], tenant_id: str | None, **options: Any) -> dict[str, Any]:
    capsys.readouterr()
    tenant_tokens.create(tenant_id, as_json=True, **options)
    return dict(json.loads(capsys.readouterr().out))


def listed(capsys: pytest.CaptureFixture[str], tenant_id: str | None = None) -> list[dict[str, Any]]:
    capsys.readouterr()
    tenant_tokens.list_tokens(tenant_id, as_json=True)
    return list(json.loads(capsys.readouterr().out))


def holder(database: Database, token: str) -> Principal | None:
    return with_connection(database.dsn("kpi"), lambda connection: authenticate(connection, token))


def test_a_token_is_printed_once_and_works(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_tokens.create(created, scope="staff", staff_id="anna")

    assert holder(database, capsys.readouterr().out.strip()) == Principal(created, "staff", "anna")


@pytest.mark.parametrize(
    ("tenant_id", "options"),
    [
        (None, {"scope": "owner"}),
        ("x", {"scope": "operator"}),
        ("x", {"scope": "staff"}),
        ("x", {"staff_id": "a"}),
        ("nobody", {}),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(tenant_id: str | None, options: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        tenant_tokens.create(tenant_id, **options)


def test_tokens_are_listed_by_an_id_and_neither_a_token_nor_its_hash_is_shown(
    created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = made(capsys, created, label="till")
    member = made(capsys, created, scope="staff", staff_id="anna")
    operator = made(capsys, None, scope="operator", label="us")

    mine, every = listed(capsys, created), listed(capsys)
    tenant_tokens.list_tokens(created)
    table = capsys.readouterr()

    assert [(r["token_id"], r["scope"], r["staff_id"], r["label"], r["revoked_at"]) for r in mine] == [
        (owner["token_id"], "owner", None, "till", None),
        (member["token_id"], "staff", "anna", "", None),
    ]
    assert all(row["created_at"] for row in mine)
    assert {owner["token_id"], operator["token_id"]} <= {row["token_id"] for row in every}
    assert "till" in table.out
    assert "2 tokens, 2 of them valid" in table.err
    for each in (owner, member, operator):
        shown = json.dumps([mine, every]) + table.out
        assert each["token"] not in shown
        assert token_hash(each["token"]).hex() not in shown
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        tenant_tokens.list_tokens("nobody")


def test_a_revoked_token_is_refused_and_another_one_goes_on(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, kept = made(capsys, created, label="lost phone"), made(capsys, created)
    assert holder(database, lost["token"]) == Principal(created, "owner", None)

    words = ["token", "revoke", str(lost["token_id"])]
    assert tenant.app(words, result_action="return_value") == 0

    err = capsys.readouterr().err
    assert f"token {lost['token_id']} (lost phone, owner of {created}) revoked" in err
    assert "refused within 30 seconds" in err
    assert holder(database, lost["token"]) is None
    assert holder(database, kept["token"]) == Principal(created, "owner", None)
    assert [row["revoked_at"] is not None for row in listed(capsys, created)] == [True, False]
    tenant_tokens.list_tokens(created)
    assert "2 tokens, 1 of them valid" in capsys.readouterr().err


def test_the_time_that_is_told_is_as_long_as_the_api_remembers_a_token() -> None:
    assert CACHE_SECONDS <= tenant_tokens.REFUSED_WITHIN_SECONDS


def test_a_token_that_is_unknown_or_revoked_already_is_told_and_keeps_its_time(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token_id = made(capsys, created)["token_id"]
    tenant_tokens.revoke(token_id)
    before, done = listed(capsys, created), acts(database, created)

    with pytest.raises(CommandError, match=f"token {token_id} was revoked already, at 20"):
        tenant_tokens.revoke(token_id)
    with pytest.raises(CommandError, match=r"no token 999999999; `tenant token list`"):
        tenant_tokens.revoke(999_999_999)

    assert listed(capsys, created) == before
    assert acts(database, created) == done


def test_making_and_revoking_stand_in_the_audit_log_by_the_id(
    database: Database, created: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = made(capsys, created, label="till")
    tenant_tokens.revoke(token["token_id"])

    sql = "SELECT actor, action, details FROM platform.audit_log WHERE tenant_id = $1 ORDER BY audit_id"
    rows = with_connection(database.admin_dsn, lambda connection: connection.fetch(sql, created))[-2:]

    assert [row["action"] for row in rows] == ["token.created", "token.revoked"]
    assert {row["actor"] for row in rows} == {who()}
    for row in rows:
        assert json.loads(row["details"]) == {
            "token_id": token["token_id"], "scope": "owner", "label": "till",
        }  # fmt: skip
