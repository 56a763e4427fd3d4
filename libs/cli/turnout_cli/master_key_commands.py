"""`turnout master-key`: which key wraps what, and a rotation without a moment in which a webhook is refused.

The order of a rotation makes each of its states one in which everything opens, and from which running it again goes on:
1. the store holds the new key and the old one; 2. every data key is wrapped under the new one, in one transaction, and
new tenants from then on; 3. the store holds the new key only. A service that meets a data key that it cannot open reads
the store again; one that has it open already needs no key at all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import asyncpg
from cyclopts import App

from turnout_cli.actor import who
from turnout_cli.connection import Target, TargetOption, resolve, run
from turnout_cli.errors import CommandError
from turnout_cli.master_key_store import EnvFile, KeyFile
from turnout_cli.output import Json, print_json, say
from turnout_common.clock import SystemClock
from turnout_common.master_key_rotation import (
    DataKeyState,
    begin_rotation,
    data_key_states,
    is_present,
    wrap_again,
)
from turnout_common.security import (
    MasterKeys,
    SecretError,
    is_guessable,
    master_key_text,
    new_master_key,
)

app = App(name="master-key", help="The master key: check what it opens, rotate it.")
Store = KeyFile | EnvFile
_SHOWN = 10


@app.command
def check(*, target: TargetOption = "embedded", as_json: Json = False) -> int:
    """Does every tenant's data key open, and by which master key?"""
    keys, states = run(_states(resolve(target)))
    broken = sorted({state.tenant_id for state in states if state.opened_by is None})
    counted = Counter(state.opened_by for state in states)
    older = sum(count for number, count in counted.items() if number)
    if as_json:
        print_json(
            {"data_keys": len(states), "by_newest": counted[0], "by_older": older, "not_opened": broken}
        )
    say(f"{'✗' if broken else '✓'} {counted[0]} of {len(states)} data keys open with the newest master key")
    if older or len(keys.keys) > 1:
        say(
            f"– {older} open with an older one: a rotation is unfinished; `turnout master-key rotate` goes on with it"
        )
    if broken:
        shown = ", ".join(broken[:_SHOWN]) + (" …" if len(broken) > _SHOWN else "")
        say(f"✗ opened by none of {len(keys.keys)} master keys: {shown}")
    return 1 if broken else 0


async def _states(place: Target) -> tuple[MasterKeys, list[DataKeyState]]:
    keys = place.master_key
    async with place.platform() as connection:
        return keys, await data_key_states(connection, keys)


@app.command
def rotate(
    *,
    new_key_file: Path | None = None,
    from_env: bool = False,
    leave_broken: bool = False,
    target: TargetOption = "embedded",
) -> int:
    """Put a new master key in place of the present one, or go on with a rotation that was broken off.

    With the key in a file (embedded, TURNOUT_MASTER_KEY_FILE) services go on without a restart; other machines with a
    copy of the file need its new text. Compose takes two runs with `docker compose up --detach` between them. For a key
    in the environment or in a read-only file, `--from-env` says what to set, step by step.

    Parameters
    ----------
    new_key_file
        File with the new key, 32 bytes in base64; without it one is made.
    from_env
        Change no file: print the value to set. Run it again when all services have both keys, and it wraps anew.
    leave_broken
        Go on although some tenant's data key opens with no key that there is.
    """
    place = resolve(target)
    new = _new_key(new_key_file)
    store = None if from_env else _store(place)
    run(_rotate(place, store, new, new_key_file is not None, leave_broken))
    return 0


def _new_key(file: Path | None) -> bytes:
    if file is None:
        return new_master_key()
    found = KeyFile(file).read()
    if len(found.keys) != 1 or is_guessable(found.newest):
        raise CommandError(
            f"{file} must hold one key, and none that can be guessed: `openssl rand -base64 32`"
        )
    return found.newest


def _store(place: Target) -> Store:
    store = place.master_key_store
    if store is None:
        raise CommandError(
            "the master key stands in the environment (TURNOUT_MASTER_KEY), which no command can change: "
            "run `turnout master-key rotate --from-env` and follow its steps"
        )
    return store


async def _rotate(place: Target, store: Store | None, new: bytes, given: bool, leave_broken: bool) -> None:
    async with place.platform() as connection:
        if not await begin_rotation(connection):
            raise CommandError(
                "another rotation of the master key is at work: run this again when it has ended"
            )
        keys = store.read() if store else place.master_key
        if len(keys.keys) == 1:
            await _require_all_open(connection, keys, leave_broken)
            both = MasterKeys((new, *keys.keys))
            if not _begin(store, both):
                return
            keys = both
        elif given and keys.newest != new:
            raise CommandError("a rotation is unfinished: run this without --new-key-file to end it first")
        else:
            say("– a rotation was begun before: going on with it")
        try:
            moved = await wrap_again(connection, keys, leave_broken=leave_broken, actor=who())
        except SecretError as error:
            raise CommandError(f"{error}; --leave-broken goes on without it") from error
        say(f"✓ {moved} data keys wrapped under the new master key, and new tenants from now on")
        _end(store, keys)


async def _require_all_open(connection: asyncpg.Connection, keys: MasterKeys, leave_broken: bool) -> None:
    """Before anything is changed: a rotation from the wrong key would put a useless one in its place."""
    states = await data_key_states(connection, keys)
    broken = [state.tenant_id for state in states if state.opened_by is None]
    if await is_present(connection, keys.newest) is False or (broken and len(broken) == len(states)):
        raise CommandError(
            "the master key given is not the one that the tenants' keys are wrapped with; nothing was changed"
        )
    if broken and not leave_broken:
        raise CommandError(
            f"{len(broken)} data keys do not open, the first of tenant {broken[0]!r}; nothing was changed; "
            "`turnout master-key check` lists them, --leave-broken goes on without them"
        )


def _begin(store: Store | None, both: MasterKeys) -> bool:
    """Step 1; whether step 2 may follow at once."""
    if store is None:
        print(master_key_text(both))
        say("1. set TURNOUT_MASTER_KEY to the value above, the new key and the old one, wherever it is set")
        say(
            "2. restart ingest and sender, one after the other; with the old key alone they would not start later"
        )
        say("3. run `turnout master-key rotate --from-env` again, with the same value in its environment")
        say("– nothing is changed yet")
        return False
    store.write(both)
    say(f"✓ {store.path} holds the new key and the old one")
    if not store.services_read_again:
        say("  next: `docker compose up --detach`, so that the services hold both, then run this again")
    return store.services_read_again


def _end(store: Store | None, keys: MasterKeys) -> None:
    """Step 3."""
    newest = MasterKeys(keys.keys[:1])
    if store is None:
        print(master_key_text(newest))
        say(
            "4. set TURNOUT_MASTER_KEY to the value above, the new key alone; services take it at their next restart"
        )
        say("– keep the old key as long as backups made until now, and delete it then")
        return
    aside = store.keep(MasterKeys(keys.keys[1:]), SystemClock().now())
    store.write(newest)
    say(f"✓ {store.path} holds the new key only: keep a copy of it apart from the database's backups")
    say(
        f"– {aside} holds the old one, which backups made until now need: delete it when they are gone, or if it leaked"
    )
    if not store.services_read_again:
        say("  next: `docker compose up --detach`, so that the services let go of the old one")
