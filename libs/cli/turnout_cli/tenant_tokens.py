"""`turnout tenant token`: makes API tokens, lists and revokes them. A token is named by its id, which opens nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import asyncpg
from cyclopts import App, Parameter
from cyclopts.validators import Number

from turnout_cli.actor import who
from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, print_table, say
from turnout_cli.tenant_channels import SQL
from turnout_common import tenants
from turnout_common.security import token_hash

app = App(name="token", help="API tokens: create, list, revoke.")

Scope = Literal["owner", "staff", "operator"]
#: As long as kpi-api remembers a token that it knew; a test compares.
REFUSED_WITHIN_SECONDS = 30
MOST_ID = 2**63 - 1
_HEADINGS = (
    "token_id", "tenant_id", "scope", "staff_id", "label", "created_at", "last_used_at", "revoked_at",
)  # fmt: skip


@app.command
def create(
    tenant_id: Annotated[str | None, Parameter(help="The tenant; none for an operator.")] = None,
    *,
    scope: Scope = "owner",
    staff_id: str | None = None,
    label: str = "",
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Make an API token and print it, this once: only its hash is stored.

    Parameters
    ----------
    scope
        `owner` sees one tenant, `staff` the figures of --staff-id in it, `operator` all tenants.
    staff_id
        Whose figures a `staff` token shows.
    label
        What you will know it by.
    """
    if (scope == "operator") != (tenant_id is None):
        raise CommandError("an operator's token has no tenant; any other needs one")
    if (scope == "staff") != (staff_id is not None):
        raise CommandError("--staff-id goes with --scope staff")
    token, token_id = run(_create(tenant_id, scope, staff_id, label, target))
    if as_json:
        print_json(
            {
                "token_id": token_id,
                "token": token,
                "tenant_id": tenant_id,
                "scope": scope,
                "staff_id": staff_id,
            }
        )
    else:
        print(token)
    say(f"✓ token {token_id} made; it is not shown again")
    return 0


async def _create(
    tenant_id: str | None, scope: Scope, staff_id: str | None, label: str, target: TargetOption
) -> tuple[str, int]:
    async with resolve(target).platform() as connection:
        try:
            token = await tenants.create_api_token(
                connection, tenant_id, scope, staff_id=staff_id, label=label, actor=who()
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise CommandError(f"there is no tenant {tenant_id!r}") from error
        return token, await connection.fetchval(SQL["token_id"], token_hash(token))


@app.command(name="list")
def list_tokens(
    tenant_id: Annotated[str | None, Parameter(help="Only this tenant's; all without it.")] = None,
    *,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """List tokens, the revoked ones too: whose, for what, since when; never the token itself or its hash."""
    rows = run(_list(tenant_id, target))
    if as_json:
        print_json(rows)
        return 0
    print_table(_HEADINGS, ([row[name] for name in _HEADINGS] for row in rows))
    valid = sum(row["revoked_at"] is None for row in rows)
    say(f"{len(rows)} tokens, {valid} of them valid")
    return 0


async def _list(tenant_id: str | None, target: TargetOption) -> list[dict[str, Any]]:
    async with resolve(target).platform() as connection:
        try:
            return await tenants.list_api_tokens(connection, tenant_id)
        except tenants.UnknownTenant as error:
            raise CommandError(str(error)) from error


@app.command
def revoke(
    token_id: Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_ID))],
    *,
    target: TargetOption = "embedded",
) -> int:
    """Refuse a token for good; another one is made by `create`.

    Parameters
    ----------
    token_id
        The id that `tenant token list` shows.
    """
    whose = run(_revoke(token_id, target))
    named = f"{whose['label']}, " if whose["label"] else ""
    of = f"{whose['staff_id']} at {whose['tenant_id']}" if whose["staff_id"] else whose["tenant_id"]
    holder = f"{named}{whose['scope']}" + (f" of {of}" if of else "")
    say(f"✓ token {token_id} ({holder}) revoked; refused within {REFUSED_WITHIN_SECONDS} seconds")
    return 0


async def _revoke(token_id: int, target: TargetOption) -> dict[str, Any]:
    async with resolve(target).platform() as connection:
        try:
            return await tenants.revoke_api_token(connection, token_id, actor=who())
        except tenants.UnknownToken as error:
            raise CommandError(f"{error}; `tenant token list` shows which there are") from error
