"""The providers' own bodies, posted to a running system: what each is answered, signed or not, and what becomes of it;
and that no service's log tells a secret or a person.

The bodies lie beside the repository (their licences are mixed); where they are not, conftest.py leaves this out.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.provider_samples import (
    ACCOUNTS,
    HANDSHAKES,
    SECRETS,
    Sample,
    Told,
    ask,
    files,
    moved_from_then,
    post,
    post_signed,
    samples,
    wrongly_signed,
)
from tests.e2e.stack import Turnout, running_turnout
from tests.privacy import FORGED, REFUSED, leaks
from tests.webhook_fixtures import CANARIES, ROUTING_IDS, names, value_of
from turnout_cli.webhooks import Webhook
from turnout_common.clock import SystemClock


@dataclass(frozen=True)
class Expected:
    """What a sample that is signed becomes, and what it is answered."""

    fate: str
    event_type: str
    status: int = 200
    text: str = ""


#: What is no event of ours, or not about an appointment, is known and not needed; what is a good envelope around
#: something that cannot be ours is kept aside; both are answered with success (design §3, domain.md A1-A7).
EXPECTED = {
    # Any 2xx will do. A booking of any age is taken in, also one whose beginning nobody saw.
    "calcom/docs_booking_cancelled.json": Expected("published", "BOOKING_CANCELLED", 202),
    "calcom/docs_booking_created.json": Expected("published", "BOOKING_CREATED", 202),
    "calcom/docs_booking_no_show_unmarked.json": Expected("published", "BOOKING_NO_SHOW_UPDATED", 202),
    "calcom/docs_booking_requested.json": Expected("published", "BOOKING_REQUESTED", 202),
    "calcom/real_booking_rescheduled.json": Expected("published", "BOOKING_RESCHEDULED", 202),
    "calcom/real_meeting_ended.json": Expected("published", "MEETING_ENDED", 202),  # flat
    "calcom/real_ping.json": Expected("ignored", "PING", 202),  # the Test button speaks of no booking
    "calcom/signed_vector.json": Expected("published", "BOOKING_NO_SHOW_UPDATED", 202),
    # Standard Webhooks sign any body: a type that the catalogue has not, and none at all.
    "standard_webhooks/example_event.json": Expected("ignored", "example.event", 202),
    "standard_webhooks/signed_vector.json": Expected("ignored", "unknown", 202),
    # Empty: an answer could be a call of the Bot API. The button's data is the client's, and of no button of ours.
    "telegram/callback_query.json": Expected("quarantined", "callback_query"),
    "telegram/edited_message.json": Expected("published", "edited_message"),
    "telegram/message_text.json": Expected("published", "message"),
    # `ok`, and the code of the group; the button was pressed in a group chat, which is nobody's word to the salon.
    "vk/confirmation.json": Expected("ignored", "confirmation", text=HANDSHAKES["vk"]),
    "vk/message_deny.json": Expected("published", "message_deny", text="ok"),
    "vk/message_event.json": Expected("ignored", "message_event", text="ok"),
    "vk/message_new_v5199_with_secret.json": Expected("published", "message_new", text="ok"),
    # Exactly 200. The message was written in a group.
    "max/bot_stopped.json": Expected("published", "bot_stopped"),
    "max/message_callback.json": Expected("published", "message_callback"),
    "max/message_created.json": Expected("ignored", "message_created"),
    "max/message_edited.json": Expected("published", "message_edited"),
    # The vector names no number of ours, so that nobody can say whose message it is.
    "whatsapp/callback_button_quick_reply.json": Expected("published", "message.button"),
    "whatsapp/message_status_delivered.json": Expected("published", "status.delivered"),
    "whatsapp/message_status_failed.json": Expected("published", "status.failed"),
    "whatsapp/message_text.json": Expected("published", "message.text"),
    "whatsapp/signed_vector_unicode.json": Expected("quarantined", "messages"),
    "whatsapp/user_marketing_preferences_resume.json": Expected("published", "user_preferences"),
    # Taken back: the words are erased, and booking has nothing to do.
    "instagram/message_text.json": Expected("published", "message"),
    "instagram/message_unsend.json": Expected("ignored", "message.unsend"),
    "instagram/messaging_seen.json": Expected("published", "read"),
}
REFUSAL = Told(401, "")
TENANT, PEOPLE = "payloads", "canaries"
TOKENS = {
    "telegram": "880012345:E2eTokenOfTelegram-7Qm2vX9k",
    "vk": "vk1.a.E2eTokenOfVk-7Qm2vX9k",
    "max": "E2eTokenOfMax-7Qm2vX9k",
    "whatsapp": "EAAE2eTokenOfWhatsapp7Qm2vX9k",
    "instagram": "IGAAE2eTokenOfInstagram7Qm2vX9k",
}
#: What each service logs of a batch or a request; the sender, with a tenant's token in its hands, of a failure.
LOGGED = {
    "ingest": b'"event": "inbox"',
    "booking": b'"event": "batch done"',
    "sender": b'"event": "message not sent"',
    "rollup": b'"event": "batch done"',
    "kpi-api": b'"event": "request"',
}
#: What a terminal shows stays in the log of an `up` that left it.
SHOWN = ("up.log", "token of the demo tenant")
NO_REASON = ("published to inbound_webhooks", "accepted, waits for publishing")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
of_every_sample = pytest.mark.parametrize("name", sorted(EXPECTED))


def test_every_file_of_the_shared_payloads_has_an_expectation_and_is_posted() -> None:
    assert files() == sorted(EXPECTED)
    assert sorted(sample.name for sample in samples()) == sorted(EXPECTED)


@pytest.fixture(scope="module")
def turnout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turnout]:
    home: Path = tmp_path_factory.mktemp("home")
    # With all that the services and their libraries have to say, not what they say as a rule.
    with running_turnout(home, TURNOUT_LOG_LEVEL="DEBUG") as started:
        for tenant, accounts in ((TENANT, ACCOUNTS), (PEOPLE, ROUTING_IDS)):
            started.must("tenant", "create", tenant, "--timezone", "Europe/Berlin")
            for channel, secret in SECRETS.items():
                given = {"--secret": secret, "--routing-id": accounts.get(channel)}
                given |= {"--handshake": HANDSHAKES.get(channel), "--api-token": TOKENS.get(channel)}
                options = [word for name, value in given.items() if value for word in (name, value)]
                started.must("tenant", "channel", "set", tenant, channel, *options)
        yield started


def url(turnout: Turnout, channel: str, tenant: str = TENANT) -> str:
    return f"{turnout.url('ingest')}/webhooks/{channel}/{tenant}"


def items(turnout: Turnout) -> list[dict[str, Any]]:
    """The tenant's, the oldest first."""
    found: list[dict[str, Any]] = turnout.must_json("inbox", "list", "--tenant", TENANT, "--limit", "1000")
    return found[::-1]


def by_request(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [list(of_one) for _, of_one in groupby(found, key=lambda item: item["request_id"])]


def post_once_known(turnout: Turnout, webhook: Webhook, tenant: str = TENANT) -> Told:
    """Its answer, once ingest has heard of the channel."""
    deadline = SystemClock().now() + timedelta(seconds=5)
    while (told := post_signed(url(turnout, webhook.channel, tenant), webhook)).status == 401:
        assert SystemClock().now() < deadline
        time.sleep(0.5)
    return told


@dataclass(frozen=True)
class Posted:
    """What all samples were answered, and the items that they became."""

    answers: dict[str, Told]
    items: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def all_samples() -> list[Sample]:
    return list(samples())


@pytest.fixture(scope="module")
def posted(turnout: Turnout, all_samples: list[Sample]) -> Posted:
    answers = {sample.name: post_once_known(turnout, sample.webhook) for sample in all_samples}
    found = by_request(items(turnout))
    return Posted(answers, dict(zip(answers, found, strict=True)))


@pytest.fixture(scope="module")
def refusals(turnout: Turnout, all_samples: list[Sample], posted: Posted) -> dict[str, dict[str, Told]]:
    """What all samples are answered whose signature or secret is wrong."""
    return {
        sample.name: wrongly_signed(url(turnout, sample.webhook.channel), sample) for sample in all_samples
    }


@of_every_sample
def test_signed_sample_is_answered_as_its_provider_wants_it_and_has_its_fate(
    posted: Posted, name: str
) -> None:
    expected = EXPECTED[name]

    assert posted.answers[name] == Told(expected.status, expected.text)
    (item,) = posted.items[name]
    assert (item["event_type"], item["fate"]) == (expected.event_type, expected.fate)
    assert item["reason"]
    assert expected.fate == "published" or item["reason"] not in NO_REASON


@of_every_sample
def test_sample_that_is_wrongly_signed_is_refused_without_a_word(
    refusals: dict[str, dict[str, Told]], name: str
) -> None:
    assert len(refusals[name]) >= 3
    assert refusals[name] == dict.fromkeys(refusals[name], REFUSAL)


def test_nothing_is_kept_of_what_is_refused(
    turnout: Turnout, refusals: dict[str, dict[str, Told]], posted: Posted
) -> None:
    assert len(items(turnout)) == sum(map(len, posted.items.values()))


def test_sample_that_comes_again_is_answered_the_same_and_counts_once(
    turnout: Turnout, all_samples: list[Sample], posted: Posted, refusals: dict[str, dict[str, Told]]
) -> None:
    again = {each.name: post_signed(url(turnout, each.webhook.channel), each.webhook) for each in all_samples}
    fates = [[item["fate"] for item in of_one] for of_one in by_request(items(turnout))[-len(again) :]]

    assert again == posted.answers
    assert dict(zip(again, fates, strict=True)) == {name: ["duplicate"] for name in again}


def test_samples_of_vk_and_max_are_taken_in_under_their_old_name(
    turnout: Turnout, all_samples: list[Sample], posted: Posted
) -> None:
    found = [sample for sample in all_samples if sample.webhook.channel in ("vk", "max")]
    alias = url(turnout, "vkmax")

    assert {each.name: post_signed(alias, each.webhook) for each in found} == {
        each.name: posted.answers[each.name] for each in found
    }
    for each in found:
        answers = wrongly_signed(alias, each)
        assert answers == dict.fromkeys(answers, REFUSAL)


def people() -> list[Webhook]:
    """Every body of tests/fixtures, told as of now, and bodies that are no provider's; all of them carry people. The
    bookings come last: by then their client is known."""
    told = [
        Webhook(channel, json.dumps(moved_from_then(value_of(channel, name))).encode(), f"Canary-{name}")
        for channel in reversed(SECRETS)
        for name in names(channel)
    ]
    return told + [
        Webhook(channel, body, f"Canary-{n}") for channel in SECRETS for n, body in enumerate(REFUSED)
    ]


def private_words(turnout: Turnout, token: str) -> dict[str, str]:
    """What must be in no log, by what it is."""
    state = json.loads((turnout.home / "state.json").read_text())
    key = (turnout.home / "master.key").read_text().strip()
    words = {f"canary {number}": word for number, word in enumerate(CANARIES)}
    words |= {f"secret of {name}": secret.removeprefix("whsec_") for name, secret in SECRETS.items()}
    words |= {"secret of events, read": base64.b64decode(words["secret of events"]).decode()}
    words |= {SHOWN[1]: state["token"]}
    words |= {f"token of {name}": value for name, value in TOKENS.items()}
    words |= {f"handshake of {name}": value for name, value in HANDSHAKES.items()}
    words |= {f"password of {name}": value for name, value in state["passwords"].items()}
    raw = base64.b64decode(key)
    return words | {
        "owner's token": token,
        "master key": key,
        "master key, raw": raw.hex(),
        "as Python": repr(raw)[2:-1],
    }


def busy(turnout: Turnout) -> dict[str, int]:
    """The services that have not done all there is to do, and how much it is."""
    names = ("ingest", "booking", "sender", "rollup")
    found = {name: json.loads(ask("GET", f"{turnout.url(name)}/status").text)["lag"] for name in names}
    return {name: waiting for name, waiting in found.items() if waiting}


def wait_until_all_is_done(turnout: Turnout) -> None:
    """What one service has done the next has to do."""
    deadline, idle = SystemClock().now() + timedelta(seconds=90), 0
    while idle < 5:
        idle = 0 if busy(turnout) else idle + 1
        assert SystemClock().now() < deadline, busy(turnout)
        time.sleep(0.5)


def post_people(turnout: Turnout) -> None:
    """All that may be told of a person, by whoever may tell it, and by whoever may not."""
    known: set[str] = set()
    for webhook in people():
        if webhook.channel not in known:
            post_once_known(turnout, webhook, PEOPLE)
        known.add(webhook.channel)
        told = post_signed(url(turnout, webhook.channel, PEOPLE), webhook)
        assert told.status in ((200, 401) if webhook.channel == "vk" else (200, 202, 400)), told
    for channel in SECRETS:
        body = json.dumps({"Quillfeather": "Canary", "secret": "Canary"}).encode()
        for path in (url(turnout, channel, PEOPLE), url(turnout, channel, "Canary")):
            assert post(path, body, FORGED).status == 401
    for channel in ("whatsapp", "instagram"):
        for token, status in ((HANDSHAKES[channel], 200), (HANDSHAKES[channel] + "Canary", 403)):
            query = f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}"
            assert ask("GET", f"{url(turnout, channel, PEOPLE)}?{query}").status == status


def look_at_it(turnout: Turnout, token: str) -> None:
    """What an owner does, with a token that holds and with one that does not."""
    today = SystemClock().now().date()
    for given, status in ((token, 200), (token[:-1] + "~", 401)):
        bearer = {"Authorization": f"Bearer {given}"}
        path = f"{turnout.url('kpi-api')}/kpi/summary?tenantId={PEOPLE}&from={today}&to={today}"
        assert ask("GET", path, headers=bearer).status == status


def test_no_log_of_any_service_tells_a_secret_or_a_person(
    turnout: Turnout, posted: Posted, refusals: dict[str, dict[str, Told]]
) -> None:
    """Providers misbehave (those that are not mocked know no address at all), so that what the sender says of its
    failures is searched as well."""
    for provider, behaviour in (("max", {"kind": "revoked"}), ("telegram", {"kind": "cut", "times": 1})):
        wanted = json.dumps({"token": TOKENS[provider], "behaviours": [behaviour]}).encode()
        path = f"{turnout.url('mock-providers')}/_admin/{provider}/behaviours"
        assert ask("PUT", path, wanted, {"Content-Type": "application/json"}).status < 300
    token = turnout.must("tenant", "token", "create", PEOPLE, "--scope", "owner").strip()
    post_people(turnout)
    look_at_it(turnout, token)
    wait_until_all_is_done(turnout)
    fates = turnout.must_json("inbox", "fates", "--tenant", PEOPLE)
    logs = {path.name: path.read_bytes() for path in (turnout.home / "logs").iterdir()}
    words = private_words(turnout, token)

    assert sum(row["items"] for row in fates if row["fate"] == "published") > 60, "all services heard of them"
    assert [service for service, line in LOGGED.items() if line not in logs[f"{service}.log"]] == []
    told = {
        (name, what) for name, text in logs.items() for what, word in words.items() if leaks(text, [word])
    }
    assert told - {SHOWN} == set()
