"""Never an error, never a wrong accept: the corpus is replayed, then each fuzzer runs for a moment.

`just nightly` runs each for ten minutes; what it finds goes into the corpus. A new provider has its fixtures till then.
"""

from __future__ import annotations

import base64
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import file_of, kept, seeds
from tests.fuzz.targets import NOW, TARGETS
from tests.webhook_fixtures import NOON
from turnout_ingest.providers import PROVIDERS, standard_webhooks

ROOT = Path(__file__).parents[2]
SECONDS = 1
CASES = [(target, channel) for target in TARGETS for channel in sorted(PROVIDERS)]
GUIDED = sys.platform == "linux" and platform.machine() == "x86_64"


def replay(target: str, channel: str) -> None:
    for data in kept(target, channel) + seeds(target, channel):
        TARGETS[target](channel, data)


@pytest.mark.parametrize(("target", "channel"), CASES)
def test_corpus_of_earlier_findings_still_holds(target: str, channel: str) -> None:
    findings, fixtures = kept(target, channel), seeds(target, channel)

    assert fixtures, "nothing to begin with: put bodies of the channel into tests/fixtures"
    assert findings or not file_of(target, channel).exists(), "the corpus was emptied"
    replay(target, channel)


def _right_length(key: bytes, signed: bytes, signature: bytes) -> bool:
    return len(signature) == 88


def _whatever_it_raises(key: bytes, signed: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature, validate=True), signed)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (_right_length, AssertionError, "accepted what is not authentic"),
        (lambda *_: False, AssertionError, "refused what is authentic"),
        (_whatever_it_raises, ValueError, "base64|padding"),
    ],
)
def test_fault_of_the_ed25519_path_is_found(
    fault: Callable[[bytes, bytes, bytes], bool],
    error: type[Exception],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standard_webhooks, "_v1a_holds", fault)

    with pytest.raises(error, match=told):
        replay("verify", "events")


def test_public_key_taken_for_a_shared_secret_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    events = standard_webhooks.StandardWebhooks
    right = events.secret_bytes

    def wrong(self: standard_webhooks.StandardWebhooks, secret: str) -> tuple[bytes, ...]:
        forms = right(self, secret)
        return forms + tuple(form.replace(b"v1a,", b"v1,", 1) for form in forms)

    monkeypatch.setattr(events, "secret_bytes", wrong)

    with pytest.raises(AssertionError, match="accepted what is not authentic"):
        replay("verify", "events")


@settings(max_examples=300, deadline=None)
@given(
    public=st.binary(min_size=32, max_size=32),
    signature=st.one_of(st.binary(max_size=100), st.binary(min_size=64, max_size=64).map(base64.b64encode)),
    body=st.binary(max_size=50),
)
def test_public_key_and_signature_of_any_bytes_raise_nothing(
    public: bytes, signature: bytes, body: bytes
) -> None:
    provider = PROVIDERS["events"]
    secrets = provider.secret_bytes("whpk_" + base64.b64encode(public).decode())
    headers = {
        b"webhook-id": b"msg_1",
        b"webhook-timestamp": b"%d" % NOW,
        b"webhook-signature": b"v1a," + signature,
    }

    assert provider.verify(headers, body, secrets, NOON) in (True, False)


@pytest.mark.slow
@pytest.mark.skipif(not GUIDED, reason="atheris has wheels for Linux on x86_64 only")
@pytest.mark.parametrize(("target", "channel"), CASES)
def test_fuzzer_finds_nothing(target: str, channel: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        target,
        channel,
        str(tmp_path / "corpus"),
        str(SECONDS),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "stat::number_of_executed_units" in done.stderr + done.stdout, "the fuzzer did not run"
