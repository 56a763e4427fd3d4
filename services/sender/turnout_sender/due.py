"""Reading what is due: the messages with their slot and booking, and where their clients can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from turnout_common.postgres import Connection, load_queries
from turnout_sender.decisions import Contact, Due, Head
from turnout_sender.limits import HORIZON_SECONDS

SQL = load_queries("turnout_sender")
#: How many rows the query `due` gives at most.
BATCH_ROWS = 200


async def read_due(connection: Connection, now: datetime, busy: Sequence[str]) -> list[Due]:
    """Locks and gives due messages, the oldest first; `busy` tenants' and blocked bots' are left out."""
    horizon = timedelta(seconds=HORIZON_SECONDS)
    return [_due_of(row) for row in await connection.fetch(SQL["due"], now, list(busy), horizon)]


async def read_contacts(
    connection: Connection, due: Sequence[Due]
) -> Mapping[tuple[str, UUID], Sequence[Contact]]:
    """The addresses of the clients of `due`, by tenant and client."""
    contacts: dict[tuple[str, UUID], list[Contact]] = {}
    rows = await connection.fetch(SQL["contacts"], [d.tenant_id for d in due], [d.client_id for d in due])
    for row in rows:
        found = Contact(
            row["channel"], row["chat_sealed"], row["opted_out"], row["promotions_opted_out"], row["locale"]
        )
        contacts.setdefault((row["tenant_id"], row["client_id"]), []).append(found)
    return contacts


def _due_of(row: asyncpg.Record) -> Due:
    head = row["head_version"]
    return Due(
        message_id=row["message_id"],
        tenant_id=row["tenant_id"],
        queue=row["queue"],
        template=row["template"],
        client_id=row["client_id"],
        booking_version=row["booking_version"],
        start_at=row["start_at"],
        expires_at=row["expires_at"],
        locale=row["locale"],
        channel=row["channel"],
        failures=row["failures"],
        counted=row["counted"],
        slot_message_id=row["slot_message_id"],
        head=Head(head, row["head_status"], row["head_start_at"]) if head is not None else None,
    )
