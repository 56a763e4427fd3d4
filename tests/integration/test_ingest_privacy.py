"""Nothing of a person leaves ingest unsealed: not in its logs, its answers, its tables or on Kafka (design §6)."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator

import asyncpg
import pytest
import structlog

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database, Infrastructure
from tests.integration.ingest_service import SECRETS, Service, add_channels, ingest, outbox_is_empty, value
from tests.integration.probe import read_all, until
from tests.webhook_fixtures import CANARIES, NOON, body_of, names
from turnout_cli.webhooks import Webhook
from turnout_common.clock import FixedClock
from turnout_common.security import TenantKeys
from turnout_common.tenants import tenant_keys

TABLES = ("inbox", "inbox_keys", "raw_items", "fate_counts", "outbox", "missing", "recovery_marks")
#: Bodies that are refused carry people too.
REFUSED = (
    b'{"triggerEvent":"BOOKING_CREATED","createdAt":"Quillfeather","payload":{"uid":"Canary"}}',
    b'{"Quillfeather":"Canary"}',
    b'{"type":"payment.received","timestamp":"2026-11-24T08:00:00Z","data":{"Quillfeather":"Canary"}}',
    b'{"type":"Quillfeather Canary","timestamp":"2026-11-24T08:00:00Z","data":{}}',
    b'{"update_id":1,"message":{"Quillfeather":"Canary"}}',
    b'Quillfeather, Canary: not JSON',
    b'{"triggerEvent":"Quillfeather Canary"}',
)  # fmt: skip


def forms(word: str) -> list[bytes]:
    """The ways in which a word may turn up: plain, escaped as JSON does it, in base64 at each offset, in hex."""
    raw = word.encode()
    escaped = json.dumps(word)[1:-1].encode()
    shifted = [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [
        raw,
        escaped,
        raw.hex().encode(),
        repr(raw)[2:-1].encode(),
        *(part for part in shifted if len(part) >= 8),
    ]


def leaks(text: bytes, words: tuple[str, ...]) -> list[str]:
    lowered = text.lower()
    return [word for word in words if any(form in text or form.lower() in lowered for form in forms(word))]


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


async def test_the_search_finds_what_is_there() -> None:
    for form in (
        CANARIES[0].encode(),
        base64.b64encode(b"zz" + CANARIES[0].encode()),
        CANARIES[0].upper().encode(),
    ):
        assert leaks(b"..." + form + b"...", CANARIES) == [CANARIES[0]]


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
    forged = {
        "X-Cal-Signature-256": "Canary",
        "X-Telegram-Bot-Api-Secret-Token": "Canary",
        "webhook-id": "Canary",
    }
    for webhook in webhooks[:40:10]:
        answer = await service.post(tenant_id, webhook, forged)
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
