"""Whatever the bytes and headers are: `verify` says yes or no, `items` gives items or Refused, a row comes of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import check
from tests.webhook_fixtures import NOON, names, value_of
from turnout_ingest.providers import PROVIDERS

EXAMPLES = settings(max_examples=300, deadline=None)
HEADERS = (
    b"x-cal-signature-256", b"x-telegram-bot-api-secret-token", b"webhook-id", b"webhook-timestamp",
    b"webhook-signature", b"content-type", b"x-hub-signature-256", b"x-max-bot-api-secret",
)  # fmt: skip
SAMPLES = [(channel, value_of(channel, name)) for channel in PROVIDERS for name in names(channel)]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(
        ["", "\x00", "2026-11-24T08:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
headers = st.dictionaries(st.sampled_from(HEADERS), st.binary(max_size=80), max_size=6)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A real body with some of its values replaced or removed, anywhere."""
    channel, sample = draw(st.sampled_from(SAMPLES))
    body = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 4))):
        _mutate(draw, body)
    return channel, json.dumps(body).encode()


def _mutate(draw: st.DrawFn, body: Any) -> None:
    node = body
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return
        place = draw(st.sampled_from(places))
        if isinstance(node[place], dict | list) and node[place] and draw(st.booleans()):
            node = node[place]
            continue
        if isinstance(node, dict) and draw(st.booleans()):
            del node[place]
        else:
            node[place] = draw(anything)
        return


@EXAMPLES
@given(channel=st.sampled_from(sorted(PROVIDERS)), body=st.binary(max_size=300), sent=headers)
def test_bytes(channel: str, body: bytes, sent: dict[bytes, bytes]) -> None:
    check(channel, body, sent)


@EXAMPLES
@given(channel=st.sampled_from(sorted(PROVIDERS)), value=anything, sent=headers)
def test_json(channel: str, value: Any, sent: dict[bytes, bytes]) -> None:
    check(channel, json.dumps(value).encode(), sent)


@settings(max_examples=1500, deadline=None)
@given(case=mutated())
def test_mutated_samples(case: tuple[str, bytes]) -> None:
    check(*case, {b"webhook-id": b"msg"})


@EXAMPLES
@given(
    channel=st.sampled_from(sorted(PROVIDERS)),
    sent=headers,
    body=st.binary(max_size=100),
    secret=st.text(max_size=40),
)
def test_verify_with_headers_of_any_bytes(
    channel: str, sent: dict[bytes, bytes], body: bytes, secret: str
) -> None:
    provider = PROVIDERS[channel]

    assert provider.verify(sent, body, provider.secret_bytes(secret or "s"), NOON) in (True, False)


@pytest.mark.parametrize("channel", sorted(PROVIDERS))
def test_header_equal_to_no_digest_never_verifies(channel: str) -> None:
    provider = PROVIDERS[channel]

    assert not provider.verify(
        dict.fromkeys(HEADERS, b"no-secret-provided"), b"{}", provider.secret_bytes("s"), NOON
    )
