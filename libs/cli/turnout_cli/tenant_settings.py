"""`turnout tenant settings`: what a tenant may choose, what it chose, and how it chooses."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import ValidationError

from turnout_cli.actor import who
from turnout_cli.connection import TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.output import Json, print_json, print_table, say
from turnout_cli.tenant_channels import IN_FORCE
from turnout_common import tenants
from turnout_common.tenants import TenantSettings

app = App(name="settings", help="Settings of a tenant: show, set.")

DEFAULTS: dict[str, Any] = TenantSettings().model_dump()
SCHEMAS: dict[str, dict[str, Any]] = TenantSettings.model_json_schema()["properties"]
MAPS = tuple(name for name, value in DEFAULTS.items() if isinstance(value, dict))
#: Columns of the tenant that are taken for settings.
NOT_SETTINGS = ("timezone", "currency", "locale")
_FIGURES = "within a minute the figures, of past days too, begin to be made anew by it"
_NAMES = f"{IN_FORCE} for what comes in; bookings that are there begin to take it on within a minute"
_QUIET = f"{IN_FORCE}; a reminder that is planned already keeps its time"
#: From when each counts.
COUNTS_FROM = {
    "notice_hours": _FIGURES,
    "off_peak_before": _FIGURES,
    "off_peak_after": _FIGURES,
    "grid_minutes": _FIGURES,
    "quiet_from": _QUIET,
    "quiet_until": _QUIET,
    "raw_days": "from the next `turnout prune` on",
    "staff_map": _NAMES,
    "service_map": _NAMES,
}
_LONGEST_SHOWN = 60


@app.command
def show(tenant_id: str, *, target: TargetOption = "embedded", as_json: Json = False) -> int:
    """Show each setting: its value, whether that is the default, what it means.

    Exit status 1 where what is stored cannot be read, so that not every service goes by it.
    """
    stored = run(_read(tenant_id, target))
    rows = [
        {
            "setting": name,
            "value": stored.get(name, default),
            "default": default,
            "is_default": stored.get(name, default) == default,
            "allowed": allowed(name),
            "meaning": SCHEMAS[name]["description"],
        }
        for name, default in DEFAULTS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        cells = ((r["setting"], shown(r["value"]), r["is_default"], r["meaning"]) for r in rows)
        print_table(("setting", "value", "default", "meaning"), cells)
    faults = _unreadable(stored)
    for fault in faults:
        say(f"✗ {fault}; until that is mended not every service goes by the settings of {tenant_id}")
    return 1 if faults else 0


async def _read(tenant_id: str, target: TargetOption) -> dict[str, Any]:
    async with resolve(target).platform() as connection:
        try:
            return await tenants.read_settings(connection, tenant_id)
        except tenants.UnknownTenant as error:
            raise CommandError(str(error)) from error


@app.command(name="set")
def set_settings(
    tenant_id: str,
    *assignments: Annotated[str, Parameter(name="NAME=VALUE", negative=())],
    target: TargetOption = "embedded",
) -> int:
    """Set settings, all of those given or none; the others stay.

    Parameters
    ----------
    assignments
        As in raw_days=60. Nothing after the = is the default again: raw_days=. One entry of a map: staff_map.REF=anna, and
        staff_map.REF= takes it out. A whole map is a JSON object.
    """
    if not assignments:
        raise CommandError(f"say what to set, as in raw_days=60; there are {', '.join(DEFAULTS)}")
    changed = run(_set(tenant_id, assignments, target))  # what was set before, and what is now
    for name in dict.fromkeys(text.partition("=")[0].partition(".")[0] for text in assignments):
        before, after = (each.get(name, DEFAULTS.get(name)) for each in changed)
        differences = list(_differences(name, before, after))
        for difference in differences:
            say(f"✓ {tenant_id}: {difference}")
        if differences:
            say(f"  {COUNTS_FROM.get(name, IN_FORCE)}")
        else:
            say(f"– {tenant_id}: {name} was so already")
    return 0


def _differences(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in (*before, *(key for key in after if key not in before)):
            if before.get(key) != after.get(key):
                yield f"{name}.{key} {before.get(key, '–')} → {after.get(key, '–')}"
    elif before != after:
        default = " (the default)" if after == DEFAULTS.get(name) else ""
        yield f"{name} {shown(before)} → {shown(after)}{default}"


async def _set(
    tenant_id: str, assignments: Sequence[str], target: TargetOption
) -> tuple[dict[str, Any], dict[str, Any]]:
    async with resolve(target).platform() as connection:
        try:
            stored = await tenants.read_settings(connection, tenant_id)
            wanted = parsed(assignments, stored)
            return await tenants.update_settings(
                connection, tenant_id, wanted.values, entries=wanted.entries, reset=wanted.reset, actor=who()
            )
        except ValidationError as error:
            raise CommandError("\n✗ ".join(_faults(error))) from error
        except (tenants.UnknownTenant, tenants.UnknownEntry) as error:
            raise CommandError(str(error)) from error


@dataclass(frozen=True)
class Wanted:
    """What the words of a command ask for; an entry of None is taken out of its map."""

    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, dict[str, str | None]] = field(default_factory=dict)
    reset: set[str] = field(default_factory=set)

    def names(self, name: str, key: str | None) -> bool:
        """Whether something was said of it already; of a map as a whole and of its entries at once cannot be."""
        if name in self.values or name in self.reset:
            return True
        return name in self.entries if key is None else key in self.entries.get(name, {})


def parsed(assignments: Sequence[str], stored: Collection[str] = ()) -> Wanted:
    """What is asked for. `stored` may be reset though nobody knows it: a newer build's. Raises CommandError."""
    wanted, faults = Wanted(), []
    for text in assignments:
        try:
            _add(wanted, text, stored)
        except CommandError as error:
            faults.append(str(error))
    if faults:
        raise CommandError("\n✗ ".join(faults))
    return wanted


def _add(wanted: Wanted, text: str, stored: Collection[str]) -> None:
    path, equals, value = text.partition("=")
    name, dot, entry = path.partition(".")
    key = entry if dot else None
    if not equals:
        raise CommandError(f"{text!r} gives no value: write it as in raw_days=60")
    if name not in DEFAULTS and (value or dot or name not in stored):
        raise CommandError(_unknown(name))
    if dot and name not in MAPS:
        raise CommandError(f"{name} has no entries: it {allowed(name)}")
    if wanted.names(name, key):
        raise CommandError(
            f"{path} is given twice" + (", or as a whole and by entry" if name in MAPS else "")
        )
    if key is not None:
        wanted.entries.setdefault(name, {})[key] = _entry(value)
    elif value:
        wanted.values[name] = _json_or_text(value)
    else:
        wanted.reset.add(name)


def _entry(text: str) -> str | None:
    """Ids are texts, also where they look like numbers; a text in quotes is what stands within them."""
    value = _json_or_text(text)
    return (value if isinstance(value, str) else text) if text else None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _unknown(name: str) -> str:
    if name in NOT_SETTINGS:
        return f"{name} is no setting: it is chosen by `tenant create`, and no command changes it"
    near = get_close_matches(name, DEFAULTS, 1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEFAULTS)}"
    return f"there is no setting {name!r}; {advice}"


def allowed(name: str) -> str:
    """What a setting may be, in words."""
    if name in MAPS:
        return f"must be a JSON object of texts of 1 to 255 characters, or one of them: {name}.REF=ID"
    return f"must be a whole number from {SCHEMAS[name]['minimum']} to {SCHEMAS[name]['maximum']}"


def _faults(error: ValidationError) -> list[str]:
    """One line for each setting that is wrong, with what is allowed."""
    lines: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0])
        known = (
            f"{name} {allowed(name)}, not {shown(fault['input'], _LONGEST_SHOWN)}"
            if name in DEFAULTS
            else _unknown(name)
        )
        lines.setdefault(name, known)
    return list(lines.values())


def _unreadable(stored: Mapping[str, Any]) -> list[str]:
    try:
        TenantSettings.model_validate_json(json.dumps(stored))
    except ValidationError as error:
        return _faults(error)
    return []


def shown(value: Any, longest: int | None = None) -> str:
    """A value as it would be given, cut where it is longer than `longest`."""
    text = "–" if value == {} else json.dumps(value, ensure_ascii=False)
    return text if longest is None or len(text) <= longest else f"{text[:longest]}…"
