"""`turnout reconcile max`: whether each bot is still subscribed, since MAX drops a webhook after 8 hours of failures.

In: the tenants' tokens, MAX's list of subscriptions. Out: a state for each tenant; with `--fix` the subscription again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import aiohttp
from cyclopts import Parameter

from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, print_table, say
from turnout_common.postgres import create_pool
from turnout_common.tenant_directory import TenantDirectory
from turnout_common.tenants import ChannelConfig, Tenant

API = "https://platform-api2.max.ru"
TIMEOUT = aiohttp.ClientTimeout(total=15)
#: What ingest reads (providers/max.py); an absent `bot_stopped` would hide every opt-out.
UPDATE_TYPES = (
    "message_created", "message_edited", "message_callback", "message_removed", "bot_started", "bot_stopped",
    "dialog_removed", "dialog_muted", "dialog_unmuted",
)  # fmt: skip
NEEDED = frozenset({"message_created", "message_callback", "bot_started", "bot_stopped", "dialog_removed"})

State = Literal["subscribed", "fixed", "missing", "elsewhere", "incomplete", "no_token", "unknown"]
GOOD: frozenset[State] = frozenset({"subscribed", "fixed"})


@dataclass(frozen=True)
class Checked:
    """A tenant's subscription; `detail` says what to do, where something is."""

    tenant_id: str
    state: State
    url: str | None = None
    detail: str = ""


def reconcile_max(
    *,
    tenant: str | None = None,
    url: str | None = None,
    fix: Annotated[bool, Parameter(negative=())] = False,
    api: Annotated[str, Parameter(env_var="TURNOUT_MAX_API_URL")] = API,
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Check that MAX still sends each bot's updates to us; exit status 1 when one bot's do not, or nobody knows.

    Parameters
    ----------
    tenant
        Only this tenant; otherwise every active one with a MAX channel.
    url
        Where updates are to go, as in https://hooks.example/webhooks/max/{tenant}; {tenant} stands for the tenant's id.
        Without it any URL that ends in /webhooks/max/TENANT is ours.
    fix
        Subscribe again where it is missing or the secret is being rotated, with the newest secret; needs --url.
    api
        MAX's API; another for the mock providers.
    """
    if fix and url is None:
        raise CommandError("--fix needs --url: where MAX is to send updates to")
    if url is not None and tenant is None and "{tenant}" not in url:
        raise CommandError(
            "--url must hold {tenant}, or name one tenant by --tenant: each has a path of its own"
        )
    found = run(_reconcile(resolve(target), tenant, url, fix, api.rstrip("/")))
    if as_json:
        print_json([asdict(checked) for checked in found])
    else:
        print_table(("tenant_id", "state", "url"), ((c.tenant_id, c.state, c.url) for c in found))
    bad = [checked for checked in found if checked.state not in GOOD]
    for checked in bad:
        say(f"✗ {checked.tenant_id}: {checked.detail}")
    say(f"{len(found) - len(bad)} of {len(found)} bots are subscribed")
    return 1 if bad else 0


async def _reconcile(
    target: Target, tenant_id: str | None, url: str | None, fix: bool, api: str
) -> list[Checked]:
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        return [
            await _check(session, api, tenant, url and url.replace("{tenant}", tenant.tenant_id), fix)
            for tenant in await _tenants(target, tenant_id)
        ]


async def _tenants(target: Target, tenant_id: str | None) -> list[Tenant]:
    """The active tenants with a MAX channel. Raises CommandError when the one that is asked for has none."""
    pool = await create_pool(target.platform_dsn, "turnout-cli", 1)
    try:
        directory = TenantDirectory(pool, target.master_key)
        await directory.reload()
    finally:
        await pool.close()
    speaking = [t for t in directory.all() if t.active and "max" in t.channels and t.channels["max"].enabled]
    if tenant_id is None:
        return sorted(speaking, key=lambda each: each.tenant_id)
    wanted = [tenant for tenant in speaking if tenant.tenant_id == tenant_id]
    if not wanted:
        raise CommandError(f"there is no active tenant {tenant_id!r} with a MAX channel")
    return wanted


async def _check(
    session: aiohttp.ClientSession, api: str, tenant: Tenant, url: str | None, fix: bool
) -> Checked:
    channel, name = tenant.channels["max"], tenant.tenant_id
    if channel.api_token is None:
        advice = f"no API token: ./turnout tenant channel set {name} max --api-token …"
        return Checked(name, "no_token", detail=advice)
    try:
        answer = await _call(session, "GET", api, channel.api_token)
        checked = _judged(name, _subscriptions(answer), url)
        # MAX shows no secret: while two are valid it may still send the one that is about to end.
        settled = checked.state in GOOD and len(channel.secrets) == 1
        if settled or not fix or url is None:
            return checked
        return await _subscribed(session, api, name, channel, url)
    except MaxRefused as refused:
        return Checked(name, "unknown", url, str(refused))


def _judged(tenant_id: str, subscriptions: list[dict[str, Any]], url: str | None) -> Checked:
    """What MAX's list says about one bot."""
    ours = [each for each in subscriptions if _is_ours(each["url"], tenant_id, url)]
    if not ours:
        others = [each["url"] for each in subscriptions]
        if others:
            return Checked(
                tenant_id, "elsewhere", others[0], "subscribed to another URL only; --fix adds ours"
            )
        return Checked(
            tenant_id, "missing", url, "not subscribed: MAX drops a bot after 8 h of failures; --fix"
        )
    types = ours[0].get("update_types")
    absent = sorted(NEEDED.difference(types)) if isinstance(types, list) and types else []
    if absent:
        return Checked(
            tenant_id, "incomplete", ours[0]["url"], f"not subscribed to {', '.join(absent)}; --fix"
        )
    return Checked(tenant_id, "subscribed", ours[0]["url"])


def _is_ours(subscribed: str, tenant_id: str, url: str | None) -> bool:
    if url is not None:
        return subscribed == url
    return subscribed.endswith((f"/webhooks/max/{tenant_id}", f"/webhooks/vkmax/{tenant_id}"))


async def _subscribed(
    session: aiohttp.ClientSession, api: str, tenant_id: str, channel: ChannelConfig, url: str
) -> Checked:
    """The subscription anew. Raises MaxRefused."""
    if not channel.secrets:
        advice = f"./turnout tenant channel set {tenant_id} max --secret …"
        raise MaxRefused(f"no secret, so that nothing would verify: {advice}")
    wanted = {"url": url, "update_types": UPDATE_TYPES, "secret": channel.secrets[0]}
    answer = await _call(session, "POST", api, channel.api_token or "", wanted)
    if answer.get("success") is not True:
        raise MaxRefused("MAX did not take the subscription")
    return Checked(tenant_id, "fixed", url)


class MaxRefused(Exception):
    """MAX did not answer as asked, or cannot be asked; the message says how, without the token or what it wrote."""


async def _call(
    session: aiohttp.ClientSession, method: str, api: str, token: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """MAX's answer. Redirects are not followed: they would carry the token on. Raises MaxRefused."""
    try:
        async with session.request(
            method, f"{api}/subscriptions", headers={"Authorization": token}, json=body, allow_redirects=False
        ) as answer:
            if answer.status == 401:
                raise MaxRefused("MAX does not know the API token (401): set the bot's present one")
            if answer.status != 200:
                raise MaxRefused(f"MAX answered {answer.status}; try again later")
            content = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise MaxRefused(
            f"MAX did not answer as it should ({type(error).__name__}); try again later"
        ) from error
    if not isinstance(content, dict):
        raise MaxRefused("MAX did not answer as it should; try again later")
    return content


def _subscriptions(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Raises MaxRefused where the list is missing: that is no proof that nothing is subscribed."""
    listed = answer.get("subscriptions")
    if not isinstance(listed, list):
        raise MaxRefused("MAX did not list the subscriptions; try again later")
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get("url"), str)]
