"""Nothing of a person leaves ingest unsealed: not in its logs, its answers, its tables or on Kafka (design §6)."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import asyncpg
import pytest
import structlog

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, Service, add_channels, ingest, outbox_is_empty, value
from tests.integration.probe import read_all, until
from tests.privacy import FORGED, REFUSED, leaks
from tests.webhook_fixtures import CANARIES, NOON, body_of, names
from turnout_cli.webhooks import Webhook
from turnout_common.clock import FixedClock
from turnout_common.security import TenantKeys
from turnout_common.tenants import tenant_keys

TABLES = ("inbox", "inbox_keys", "raw_items", "fate_counts", "outbox", "missing", "recovery_marks")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, from the lowest level on, as JSON."""
    written = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=written),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(written)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)
    structlog.configure(**before)


async def test_canaries_of_all_samples_stay_sealed(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str, log: io.StringIO
) -> None:
    await add_channels(database, tenant_id)
    secrets = tuple(SECRETS.values())
    async with ingest(database, infrastructure, topic_prefix, clock=FixedClock(NOON)) as service:
        answers = await _post_everything(service, tenant_id)
        await until(lambda: outbox_is_empty(database), "the outbox to be published")
    total = await value(database, "SELECT count(*) FROM ingest.inbox WHERE fate = 'published'")
    records = await read_all(infrastructure.kafka, topic_prefix + "inbound_webhooks", total)
    on_kafka = b"\n".join(
        b"|".join((record.key or b"", record.value or b"", *(v for _, v in record.headers)))
        for record in records
    )

    assert total > 20
    assert log.getvalue().count('"event": "inbox"') > 20  # it did log
    assert leaks(log.getvalue().encode(), CANARIES + secrets) == []
    assert leaks(answers, CANARIES + secrets) == []
    assert leaks(on_kafka, CANARIES + secrets) == []
    assert leaks(await _tables(database), CANARIES + secrets) == []


@pytest.mark.parametrize("word", ["Quillfeather", "хочу записаться", "a'secret\\of-some_length"])
async def test_the_search_finds_what_is_there(word: str) -> None:
    raw = word.encode()
    found = {
        "plain": raw,
        "capitals": word.upper().encode() if word.isascii() else raw,
        "JSON": json.dumps({"x": word}).encode(),
        "Python": repr({"x": raw}).encode(),
        "URL": urlencode({"x": word}, quote_via=quote).encode(),
        "hex": raw.hex().upper().encode(),
    } | {f"base64 at {at}": base64.b64encode(b"z" * at + raw + b"zz") for at in range(4)}

    assert [
        form for form, text in found.items() if leaks(b"..." + text + b"...", [word, "other"]) != [word]
    ] == []


async def test_raw_bytes_of_every_item_open_with_the_tenants_key_only(
    database: Database, infrastructure: Infrastructure, topic_prefix: str, tenant_id: str
) -> None:
    await add_channels(database, tenant_id)
    body = body_of("calcom", "created")
    async with ingest(database, infrastructure, topic_prefix, relay=False, clock=FixedClock(NOON)) as service:
        await service.post(tenant_id, Webhook("calcom", body))
        await service.post(tenant_id, Webhook("calcom", b"{}"))
    connection = await asyncpg.connect(database.admin_dsn)
    sealed = [
        record["sealed"]
        for record in await connection.fetch(
            "SELECT sealed FROM ingest.raw_items JOIN ingest.inbox USING (item_id) WHERE raw_items.tenant_id = $1 ORDER BY seq",
            tenant_id,
        )
    ]
    keys = await tenant_keys(connection, MASTER_KEY, tenant_id)
    await connection.close()

    assert [keys.open("raw", each) for each in sealed] == [body, b"{}"]
    with pytest.raises(ValueError):
        TenantKeys("other", keys.data_keys).open("raw", sealed[0])


async def _post_everything(service: Service, tenant_id: str) -> bytes:
    """Posts all samples twice, what is refused, and forgeries; gives all answers."""
    webhooks = [
        Webhook(channel, body_of(channel, name), f"Canary-{channel}-{name}") for channel in SECRETS for name in names(channel)
    ] + [Webhook(channel, body, f"Canary-{channel}-{number}") for channel in SECRETS for number, body in enumerate(REFUSED)]  # fmt: skip
    found = []
    for webhook in [*webhooks, *webhooks]:
        answer = await service.post(tenant_id, webhook)
        found.append(answer.body + repr(answer.headers).encode())
    for webhook in {each.channel: each for each in webhooks}.values():
        answer = await service.post(tenant_id, webhook, FORGED)
        assert answer.status == 401
        found.append(answer.body + repr(answer.headers).encode())
    return b"\n".join(found)


async def _tables(database: Database) -> bytes:
    """All rows of the schema as text, bytes in hex as well as they are."""
    connection = await asyncpg.connect(database.admin_dsn)
    found = []
    for table in TABLES:
        for record in await connection.fetch(f"SELECT * FROM ingest.{table}"):
            found += [each if isinstance(each, bytes) else str(each).encode() for each in record.values()]
    await connection.close()
    return b"\n".join(found)
