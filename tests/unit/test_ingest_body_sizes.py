"""How large a webhook may be (design §3): 1 MiB, and 3 MiB for Meta, which posts batches of up to 1,000 updates."""

from __future__ import annotations

import json

import pytest

from tests.webhook_fixtures import NOON, ROUTING_IDS, body_of
from tests.webhook_route import Route, channel_of, part, tenant
from turnout_cli.webhooks import Webhook, signed_body, whatsapp
from turnout_ingest.providers import PROVIDERS
from turnout_ingest.settings import IngestSettings

MIB = 1024 * 1024
LIMITS = {
    "calcom": MIB,
    "events": MIB,
    "instagram": 3 * MIB,
    "max": MIB,
    "telegram": MIB,
    "vk": MIB,
    "whatsapp": 3 * MIB,
}
CHANNELS = sorted(LIMITS)
META = ("instagram", "whatsapp")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SAMPLES = {"calcom": "created", "events": "payment_received"}
LARGEST_BATCH = 1_000


def route() -> Route:
    """A tenant with all channels, and the size limit that ingest has unless told otherwise."""
    own = [channel_of(name, ROUTING_IDS.get(name), SECRET) for name in CHANNELS]
    return Route(tenant("salon", *own), max_body_bytes=IngestSettings.model_fields["max_body_bytes"].default)


def body_of_size(channel: str, size: int) -> bytes:
    """A good body that is `size` bytes long once it is signed: for VK, whose secret stands in it, with that."""
    value = json.loads(body_of(channel, SAMPLES.get(channel, "text"))) | {"padding": ""}
    for _ in range(2):  # the second time it is as long as it is to be
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        missing = size - len(signed_body(Webhook(channel, body), SECRET))
        value["padding"] += "x" * missing
    return body


def batch() -> bytes:
    """As many texts as Meta puts into one POST, 2.5 MiB of them."""
    number, client = (
        whatsapp.Number(ROUTING_IDS["whatsapp"], "493023125001"),
        whatsapp.Client("493023125000", "Igor"),
    )
    texts = [
        json.loads(whatsapp.text(number, client, f"wamid.{n}", NOON, "х" * 1100).body)["entry"][0]
        for n in range(LARGEST_BATCH)
    ]
    return json.dumps({"object": whatsapp.OBJECT, "entry": texts}, ensure_ascii=False).encode()


def test_every_channel_has_its_limit() -> None:
    assert PROVIDERS.keys() == LIMITS.keys()


@pytest.mark.parametrize("channel", CHANNELS)
async def test_signed_body_of_the_largest_size_is_taken_in(channel: str) -> None:
    own, body = route(), body_of_size(channel, LIMITS[channel])

    assert (await own.deliver(channel, body, SECRET))[0] == PROVIDERS[channel].answers.success
    assert [row.fate.value for row in own.inbox.rows] == ["published"]


@pytest.mark.parametrize("channel", CHANNELS)
async def test_signed_body_of_a_byte_more_is_413_and_leaves_nothing(channel: str) -> None:
    own, body = route(), body_of_size(channel, LIMITS[channel] + 1)

    assert await own.deliver(channel, body, SECRET) == (413, b"")
    assert own.inbox.rows == []


@pytest.mark.parametrize("channel", CHANNELS)
async def test_length_that_is_told_is_refused_before_the_body_is_read(channel: str) -> None:
    own, found = route(), []
    for size in (LIMITS[channel], LIMITS[channel] + 1):
        own.reads = 0
        headers = {b"content-length": b"%d" % size}
        sent = await own.call([part(b"{}")], path=f"/webhooks/{channel}/salon", headers=headers)
        found.append((sent[0]["status"], own.reads))

    assert found == [(401, 1), (413, 0)]


async def test_batch_of_meta_is_taken_in_whole() -> None:
    own, body = route(), batch()

    assert 2.4 * MIB < len(body) < 2.6 * MIB
    assert (await own.deliver("whatsapp", body, SECRET))[0] == 200
    assert [row.fate.value for row in own.inbox.rows] == ["published"] * LARGEST_BATCH


@pytest.mark.parametrize("channel", META)
@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
async def test_callback_that_tenants_share_takes_as_much(channel: str, more: int, status: int) -> None:
    body = body_of_size(channel, LIMITS[channel] + more)

    assert (await route().deliver(channel, body, SECRET, path=f"/webhooks/{channel}"))[0] == status


@pytest.mark.parametrize("channel", ["vk", "max"])
@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
async def test_alias_takes_as_much_as_its_channels(channel: str, more: int, status: int) -> None:
    body = body_of_size(channel, LIMITS[channel] + more)

    assert (await route().deliver(channel, body, SECRET, path="/webhooks/vkmax/salon"))[0] == status
