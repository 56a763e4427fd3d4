"""Promise: a secret that is made is one that its provider takes, and what could never verify is refused unseen."""

from __future__ import annotations

import base64

import pytest

from turnout_common.channel_secrets import (
    MADE_BY_PROVIDER,
    BadChannelValue,
    new_secret,
    require_routing_id,
    require_secret,
)
from turnout_ingest.providers import PROVIDERS

IN_BASE64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize("channel", sorted(PROVIDERS.keys() - MADE_BY_PROVIDER))
def test_secret_that_is_made_is_long_new_and_one_that_the_provider_takes(channel: str) -> None:
    made = {new_secret(channel) for _ in range(50)}

    assert len(made) == 50
    for secret in made:
        require_secret(channel, secret)
        assert len(secret) >= 43
        assert PROVIDERS[channel].secret_bytes(secret)


@pytest.mark.parametrize("channel", sorted(MADE_BY_PROVIDER))
def test_secret_that_the_provider_makes_is_asked_for(channel: str) -> None:
    with pytest.raises(BadChannelValue, match="--secret"):
        new_secret(channel)


@pytest.mark.parametrize(
    ("channel", "secret"),
    [
        ("calcom", ""),
        ("calcom", "x" * 1025),
        ("telegram", "with+plus"),
        ("telegram", "x" * 257),
        ("telegram", "секрет"),
        ("telegram", "ends\n"),
        ("max", "four"),
        ("max", "with space"),
        ("events", IN_BASE64),
        ("events", "whsec_"),
        ("events", "whsec_" + base64.b64encode(bytes(23)).decode()),
        ("events", "whsec_" + base64.b64encode(bytes(65)).decode()),
        ("events", "whsec_" + "*" * 44),
        ("events", "whpk_" + base64.b64encode(bytes(33)).decode()),
    ],
)
def test_secret_that_could_never_verify_is_refused_and_not_shown(channel: str, secret: str) -> None:
    with pytest.raises(BadChannelValue) as refused:
        require_secret(channel, secret)

    assert len(secret) < 7 or secret not in str(refused.value)


@pytest.mark.parametrize(
    ("channel", "secret"),
    [
        ("calcom", " as given=/+ "),
        ("telegram", "A-z_0"),
        ("max", "A-z_0"),
        ("vk", "x"),
        ("events", "whsec_" + IN_BASE64),
        ("events", "whsec_" + IN_BASE64.rstrip("=")),
        ("events", "whpk_" + IN_BASE64),
    ],
)
def test_secret_that_a_provider_may_have_is_taken(channel: str, secret: str) -> None:
    require_secret(channel, secret)


@pytest.mark.parametrize("routing_id", ["", "-1", "12a", "１２", "1" * 33, "1.5"])
def test_account_that_is_no_number_is_refused(routing_id: str) -> None:
    for channel in ("whatsapp", "instagram", "vk"):
        with pytest.raises(BadChannelValue, match="number"):
            require_routing_id(channel, routing_id)
    require_routing_id("telegram", routing_id)
