"""The relay of ingest over the naive app's outbox: what is compared does the same work, publishing included."""

from __future__ import annotations

from turnout_common.log_setup import configure_logging
from turnout_common.relay import Relay, RelayQueries
from turnout_common.runtime import run_process
from turnout_ingest.relay import QUERIES
from turnout_ingest.settings import IngestSettings


async def relay() -> int:
    settings = IngestSettings()
    configure_logging("naive-relay", settings.log_level, settings.log_format)
    queries = RelayQueries(*(sql.replace("ingest.", "naive.") for sql in (QUERIES.fetch, QUERIES.delete)))
    await Relay("naive", settings, queries).run()
    return 0


if __name__ == "__main__":
    run_process(relay())
