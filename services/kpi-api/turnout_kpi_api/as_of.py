"""asOf: up to when everything that came in is in the numbers.

In: the outboxes' oldest rows and the consumers' read marks. Out: the least of them and now. An idle partition's mark is
written every two seconds, so asOf is that much behind now at rest.
"""

from __future__ import annotations

from datetime import datetime

from turnout_common.postgres import Connection, load_queries

_SQL = load_queries("turnout_kpi_api")["as_of"]


async def read_as_of(connection: Connection, now: datetime) -> datetime:
    """Reads asOf in the caller's snapshot, so that it holds for the sums of the same transaction."""
    found = await connection.fetchval(_SQL, now)
    assert isinstance(found, datetime)
    return found
