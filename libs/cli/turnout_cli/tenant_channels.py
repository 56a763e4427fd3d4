"""`turnout tenant channel` and `turnout tenant rotate-secret`: what ingest and sender know of a tenant's providers."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from getpass import getpass
from typing import Annotated, Literal

import asyncpg
from cyclopts import App, Parameter

from turnout_cli.actor import who
from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, cell_text, print_json, say
from turnout_common import tenants
from turnout_common.channel_secrets import NAME_THEIR_ACCOUNT, BadChannelValue, new_secret
from turnout_common.postgres import load_queries

app = App(name="channel", help="Channels of a tenant.")

ChannelName = Literal["calcom", "telegram", "whatsapp", "instagram", "vk", "max", "events"]
#: A value that begins with a hyphen is a value: providers allow it.
Private = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
SQL = load_queries("turnout_cli", "tenant.sql")
IN_FORCE = "in force within a second"
LONGEST_OVERLAP = timedelta(days=90)
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command(name="set")
def set_channel(
    tenant_id: str,
    channel: ChannelName,
    *,
    secret: Private = None,
    api_token: Private = None,
    routing_id: str | None = None,
    handshake: Private = None,
    target: TargetOption = "embedded",
) -> int:
    """Enable a channel; what is given replaces what was stored, the rest stays.

    Parameters
    ----------
    secret
        What the provider signs or authenticates with, kept exactly as given, or - for a line of stdin, since others on the
        machine see a command's words; `events` wants whsec_… (base64). It replaces the present one at once; `tenant
        rotate-secret` lets both be valid for a while.
    api_token
        What messages to clients are sent with, or - for the next line of stdin.
    routing_id
        The provider's id of this account: whatsapp phone_number_id, instagram entry.id, vk group_id; telegram, max: bot id.
    handshake
        What proves us when the callback is set up: Meta's verify token, VK's confirmation code; or - as above.
    """
    secret, api_token, handshake = (private_line(value) for value in (secret, api_token, handshake))
    had, lacks = run(_set_channel(tenant_id, channel, secret, api_token, routing_id, handshake, target))
    say(f"✓ channel {channel} of {tenant_id} set; {IN_FORCE}")
    if had and secret is not None:
        say(
            "– its earlier secret is refused from now on; `tenant rotate-secret` would let both be valid for a while"
        )
    for what in lacks:
        say(f"– {what}")
    return 0


async def _set_channel(
    tenant_id: str,
    channel: ChannelName,
    secret: str | None,
    api_token: str | None,
    routing_id: str | None,
    handshake: str | None,
    target: TargetOption,
) -> tuple[bool, list[str]]:
    """Whether it had a secret before, and what it lacks now, in words."""
    place = resolve(target)
    if "" in (secret, api_token, routing_id, handshake):
        raise CommandError("an empty value cannot be set: it would let anyone in")
    async with place.platform() as connection:
        had = bool(await connection.fetchval(SQL["has_secret"], tenant_id, channel))
        try:
            await tenants.set_channel(
                connection,
                place.master_key,
                tenant_id,
                channel,
                secret=secret,
                api_token=api_token,
                routing_id=routing_id,
                handshake=handshake,
                actor=who(),
            )
        except (tenants.UnknownTenant, BadChannelValue) as error:
            raise CommandError(str(error)) from error
        except asyncpg.UniqueViolationError as error:
            raise CommandError(f"routing id {routing_id!r} of {channel} belongs to another tenant") from error
        lacks = []
        if not await connection.fetchval(SQL["has_secret"], tenant_id, channel):
            lacks.append(
                "it has no secret yet: all its webhooks are answered 401 until one is set by --secret"
            )
        if channel in NAME_THEIR_ACCOUNT and not await connection.fetchval(
            SQL["has_routing_id"], tenant_id, channel
        ):
            lacks.append(
                f"it has no routing id: {channel} names the account in each item, and with STRICT_TENANT_CONFIG on none "
                "of them is taken in until it is set by --routing-id"
            )
        return had, lacks


@app.command
def disable(tenant_id: str, channel: ChannelName, *, target: TargetOption = "embedded") -> int:
    """Answer the channel's webhooks 401 until it is enabled; its secrets stay stored."""
    run(_enable(tenant_id, channel, False, target))
    say(f"✓ channel {channel} of {tenant_id} disabled; {IN_FORCE}")
    return 0


@app.command
def enable(tenant_id: str, channel: ChannelName, *, target: TargetOption = "embedded") -> int:
    """Take the channel's webhooks in again, with the secrets that it had."""
    run(_enable(tenant_id, channel, True, target))
    say(f"✓ channel {channel} of {tenant_id} enabled; {IN_FORCE}")
    return 0


async def _enable(tenant_id: str, channel: ChannelName, enabled: bool, target: TargetOption) -> None:
    async with resolve(target).platform() as connection:
        try:
            await tenants.set_channel_enabled(connection, tenant_id, channel, enabled, actor=who())
        except tenants.UnknownChannel as error:
            raise CommandError(str(error)) from error


def rotate_secret(
    tenant_id: str,
    channel: ChannelName,
    *,
    secret: Private = None,
    overlap: str = "24h",
    target: TargetOption = "embedded",
    as_json: Json = False,
) -> int:
    """Give a channel a new secret, valid at once, and let the present one die after an overlap.

    Parameters
    ----------
    secret
        The new secret, or - for a line of stdin. Without it one is made in the provider's form and printed, this once;
        whatsapp, instagram and vk make their own, so that there it must be given.
    overlap
        How long the present secret stays valid, as in 24h, 30m or 7d; 0 for one that leaked.
    """
    lasts = duration(overlap)
    try:
        chosen = private_line(secret) or new_secret(channel)
    except BadChannelValue as error:
        raise CommandError(str(error)) from error
    rotation = run(_rotate(tenant_id, channel, chosen, lasts, target))
    made = chosen if secret is None else None
    if as_json:
        print_json({"secret": made, "old_until": rotation.old_until, "ended": rotation.ended})
    elif made is not None:
        print(made)
    say(f"✓ {channel} of {tenant_id} has a new secret; {IN_FORCE}")
    _say_what_ends(rotation.old_until, rotation.ended)
    if made is not None:
        say("  give it to the provider now: it is not shown again")
    return 0


def _say_what_ends(old_until: datetime | None, ended: int) -> None:
    if old_until is not None:
        say(f"  the one before it is valid until {cell_text(old_until)}, then it dies by itself")
        if ended:
            say("– an older one was still valid and is not any more: two at most are")
    elif ended:
        say("– the one before it is refused from now on")


async def _rotate(
    tenant_id: str, channel: ChannelName, secret: str, overlap: timedelta, target: TargetOption
) -> tenants.Rotation:
    place = resolve(target)
    async with place.platform() as connection:
        try:
            return await tenants.rotate_secret(
                connection, place.master_key, tenant_id, channel, secret, overlap, actor=who()
            )
        except tenants.UnknownChannel as error:
            raise CommandError(f"{error}; `tenant channel set` makes it") from error
        except (tenants.UnknownTenant, BadChannelValue) as error:
            raise CommandError(str(error)) from error


def private_line(value: str | None) -> str | None:
    """`value`, or where it is - a line of stdin that no list of processes shows, without its end. Raises CommandError."""
    if value != "-":
        return value
    line = (getpass("value: ") if sys.stdin.isatty() else sys.stdin.readline()).rstrip("\r\n")
    if not line:
        raise CommandError("stdin gave no value for -")
    return line


def duration(text: str) -> timedelta:
    """A length of time as in 24h, 30m, 7d or 0. Raises CommandError."""
    match = _DURATION.fullmatch(text)
    if match is None and text != "0":
        raise CommandError(f"{text!r} is no length of time: write it as in 24h, 30m, 7d or 0")
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if length > LONGEST_OVERLAP:
        raise CommandError(f"{text} is too long an overlap: {LONGEST_OVERLAP.days} days at most")
    return length
