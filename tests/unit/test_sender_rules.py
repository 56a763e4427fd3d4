"""The sender's pure parts: texts, backoff, slots of a second, receipts, and what Telegram's answers mean."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from turnout_common.events import RECEIPT_RANKS, MessagePlanned, MessageTemplate, MessageWithdrawn, Queue
from turnout_common.security import SecretError
from turnout_sender.channels.http import Reply, bounded_seconds
from turnout_sender.channels.port import Answer, Verdict
from turnout_sender.channels.telegram import answer_of
from turnout_sender.decisions import after, backoff
from turnout_sender.limits import HORIZON_SECONDS, Ask, SlotName, allot
from turnout_sender.receipts import Receipt, Receipted, fold
from turnout_sender.settings import SenderSettings
from turnout_sender.slots import NOTHING_SAID, Changes, Known, SlotKey, Word, settle
from turnout_sender.templates import LOCALES, choose_locale, render

AT = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)


def settings(**changes: object) -> SenderSettings:
    return SenderSettings(env="development", postgres_dsn=SecretStr("postgresql://x"), **changes)  # type: ignore[arg-type]


# Texts


@pytest.mark.parametrize(
    ("template", "locale", "text"),
    [
        ("confirmation", "en", "Your appointment is booked: Friday, 27 November, 10:00. See you then!"),
        ("confirmation", "ru", "Вы записаны: пятница, 27 ноября, 10:00. Ждём вас!"),
        ("reminder_24h", "en", "A reminder of your appointment: Friday, 27 November, 10:00."),
        ("reminder_24h", "ru", "Напоминаем о вашей записи: пятница, 27 ноября, 10:00."),
    ],
)
def test_text_of_each_template_and_language(template: str, locale: str, text: str) -> None:
    assert render(template, locale, AT, ZoneInfo("Europe/Berlin")) == text


@pytest.mark.parametrize(
    ("zone", "at", "local"),
    [
        ("Europe/Berlin", "2026-10-25T00:30:00+00:00", "Sunday, 25 October, 02:30"),  # still summer time
        (
            "Europe/Berlin",
            "2026-10-25T01:30:00+00:00",
            "Sunday, 25 October, 02:30",
        ),  # an hour later, winter time
        ("Pacific/Niue", "2026-11-27T09:00:00+00:00", "Thursday, 26 November, 22:00"),
        ("Pacific/Kiritimati", "2026-11-27T11:00:00+00:00", "Saturday, 28 November, 01:00"),
    ],
)
def test_text_tells_the_salons_wall_clock(zone: str, at: str, local: str) -> None:
    assert local in render("confirmation", "en", datetime.fromisoformat(at), ZoneInfo(zone))


def test_every_template_has_a_text_in_every_language() -> None:
    for template in MessageTemplate:
        for locale in LOCALES:
            assert render(template, locale, AT, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (("ru-RU", "en"), "ru"),
        (("ru_RU",), "ru"),
        (("de", "RU"), "ru"),
        ((None, None, "en"), "en"),
        (("de", None), "en"),
        ((), "en"),
    ],
)
def test_first_language_that_there_are_texts_in_is_chosen(
    wanted: tuple[str | None, ...], chosen: str
) -> None:
    assert choose_locale(*wanted) == chosen


# Retries


def test_backoff_doubles_with_jitter_and_has_an_end() -> None:
    rules = settings(retry_base_seconds=2, retry_most_seconds=60)
    for failures in range(1, 40):
        longest = min(2 * 2.0 ** (failures - 1), 60)
        waits = [backoff(failures, rules, random.Random(seed)) for seed in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize(
    ("answer", "status", "failures"),
    [
        (Answer(Verdict.ACCEPTED), "accepted", 3),
        (Answer(Verdict.REFUSED, "blocked"), "failed", 3),
        (Answer(Verdict.LOST, "ServerDisconnectedError"), "unknown", 3),
        (Answer(Verdict.FAULT, "bad_request"), "dead", 3),
        (Answer(Verdict.THROTTLED, "throttled"), "planned", 3),
        (Answer(Verdict.TOKEN_REFUSED, "http_401"), "planned", 3),
        (Answer(Verdict.FAILED, "http_500"), "planned", 4),
    ],
)
def test_what_an_answer_makes_of_a_message(answer: Answer, status: str, failures: int) -> None:
    found = after(answer, 3, settings(max_attempts=5), random.Random(1))

    assert (found.status, found.failures, found.reason) == (status, failures, answer.reason)
    assert (found.retry_in is not None) == (status == "planned")


def test_last_failure_is_final_and_a_providers_wait_is_kept() -> None:
    rules = settings(max_attempts=4, retry_base_seconds=1)

    assert after(Answer(Verdict.FAILED, "http_500"), 3, rules, random.Random(1)).status == "failed"
    waited = after(Answer(Verdict.FAILED, "http_503", retry_after=77.0), 0, rules, random.Random(1))
    assert waited.retry_in == 77.0
    assert after(Answer(Verdict.THROTTLED, retry_after=9.0), 0, rules, random.Random(1)).retry_in == 9.0


# Telegram's answers


@pytest.mark.parametrize(
    ("status", "body", "verdict", "reason"),
    [
        (200, {"ok": True, "result": {"message_id": 7}}, Verdict.ACCEPTED, None),
        (200, {"ok": True, "result": True}, Verdict.LOST, "answer_unreadable"),
        (200, {}, Verdict.LOST, "answer_unreadable"),
        (400, {"ok": False, "description": "Bad Request: chat not found"}, Verdict.REFUSED, "chat_not_found"),
        (400, {"ok": False, "description": "Bad Request: message is too long"}, Verdict.FAULT, "bad_request"),
        (401, {"ok": False}, Verdict.TOKEN_REFUSED, "http_401"),
        (
            403,
            {"ok": False, "description": "Forbidden: bot was blocked by the user"},
            Verdict.REFUSED,
            "blocked",
        ),
        (404, {"ok": False, "description": "Not Found"}, Verdict.TOKEN_REFUSED, "http_404"),
        (429, {"ok": False, "parameters": {"retry_after": 3}}, Verdict.THROTTLED, "throttled"),
        (302, {}, Verdict.FAILED, "http_302"),
        (500, {"ok": False}, Verdict.FAILED, "http_500"),
        (502, {"ok": False}, Verdict.FAILED, "http_502"),
        (502, {}, Verdict.LOST, "answer_unreadable"),  # not the Bot API's word: it may have sent the message
        (503, {}, Verdict.FAILED, "http_503"),
        (504, {}, Verdict.LOST, "answer_unreadable"),
        (413, {}, Verdict.FAULT, "http_413"),
    ],
)
def test_what_telegrams_answers_mean(
    status: int, body: dict[str, object], verdict: Verdict, reason: str | None
) -> None:
    answer = answer_of(Reply(status, body, None))

    assert (answer.verdict, answer.reason, answer.http_status) == (verdict, reason, status)


def test_retry_after_is_read_from_the_body_before_the_header() -> None:
    body = {"ok": False, "parameters": {"retry_after": 3}}

    assert answer_of(Reply(429, body, 9.0)).retry_after == 3.0
    assert answer_of(Reply(429, {}, 9.0)).retry_after == 9.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (5, 5.0),
        ("-1", 0.0),
        ("1e9", 86_400.0),
        ("nan", None),
        (10**400, None),
        ("Fri, 27 Nov 2026", None),
        (None, None),
    ],
)
def test_a_providers_seconds_are_bounded(value: object, seconds: float | None) -> None:
    assert bounded_seconds(value) == seconds


# Slots of a second


def ask(tenant_id: str = "t", client: int = 0) -> Ask:
    return Ask(uuid4(), tenant_id, "telegram", UUID(int=client), 20)


def test_slots_are_a_twentieth_of_a_second_apart_and_end_at_the_horizon() -> None:
    asks = [ask(client=n) for n in range(30)]

    found = allot(asks, {}, lead=0.02)

    times = [found.granted[a.message_id] for a in asks if a.message_id in found.granted]
    assert all(later - sooner == pytest.approx(0.05) for sooner, later in pairwise(times))
    assert times[0] == 0.02
    assert times[-1] <= 0.02 + HORIZON_SECONDS < times[-1] + 0.05
    assert found.later == {}


def test_chat_that_is_not_free_waits_and_takes_no_slot_of_its_bot() -> None:
    first, second, other = ask(client=1), ask(client=1), ask(client=2)

    found = allot([first, second, other], {}, lead=0.0)

    assert found.granted == {first.message_id: 0.0, other.message_id: pytest.approx(0.05)}
    assert found.later == {second.message_id: pytest.approx(1.0)}


def test_message_that_missed_its_slot_is_not_held_up_by_it() -> None:
    missed = Ask(uuid4(), "t", "telegram", UUID(int=1), 20, holds_chat=True)

    found = allot([missed], {missed.chat: 0.6}, lead=0.0)

    assert found.granted == {missed.message_id: 0.0}
    assert found.next_at[missed.chat] == 1.0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=60),
    st.dictionaries(st.sampled_from("ab"), st.floats(-5, 5), max_size=2),
    st.floats(0, 0.5),
)
def test_no_bot_and_no_chat_is_ever_faster_than_it_may(
    wanted: list[tuple[str, int]], busy: dict[str, float], lead: float
) -> None:
    asks = [ask(tenant, client) for tenant, client in wanted]
    opens = {SlotName(tenant, "telegram", ""): at for tenant, at in busy.items()}

    found = allot(asks, opens, lead)

    for tenant in "ab":
        times = sorted(
            found.granted[a.message_id]
            for a in asks
            if a.tenant_id == tenant and a.message_id in found.granted
        )
        assert all(later - sooner >= 0.05 - 1e-9 for sooner, later in pairwise(times))
        assert all(time >= max(busy.get(tenant, 0.0), lead) for time in times)
        for client in range(4):
            chat = [a for a in asks if (a.tenant_id, a.client_id.int) == (tenant, client)]
            assert sum(a.message_id in found.granted for a in chat) <= 1


# Which message of a slot


BOOKING, CLIENT, KEY = uuid4(), uuid4(), SlotKey("t", "t:b:confirmation")
EARLY, LATE = UUID(int=1), UUID(int=2)


def planned(version: int, message_id: UUID) -> MessagePlanned:
    return MessagePlanned(
        message_id=message_id, tenant_id="t", slot_key=KEY.slot_key, sent_key=f"{KEY.slot_key}:{message_id}",
        queue=Queue.TX, template=MessageTemplate.CONFIRMATION, client_id=CLIENT, booking_id=BOOKING,
        booking_version=version, start_at=AT, not_before=AT, expires_at=AT + timedelta(hours=1),
    )  # fmt: skip


def withdrawn(version: int) -> MessageWithdrawn:
    return MessageWithdrawn(
        tenant_id="t", slot_key=KEY.slot_key, client_id=CLIENT, booking_id=BOOKING, booking_version=version
    )


def told(before: Word, known: list[Known], *said: MessagePlanned | MessageWithdrawn) -> Changes:
    changes = Changes()
    settle(KEY, before, {k.message_id: k for k in known}, said, changes)
    return changes


def test_withdrawal_beats_a_plan_of_its_own_version_in_either_order() -> None:
    both: list[MessagePlanned | MessageWithdrawn] = [planned(2, EARLY), withdrawn(2)]
    for said in permutations(both):
        changes = told(NOTHING_SAID, [], *said)

        assert changes.words == {KEY: Word(2, None)}
        assert [new.reason for new in changes.new] == ["withdrawn"]


def test_redelivered_plan_changes_nothing() -> None:
    changes = told(Word(2, EARLY), [Known(EARLY, "planned", 2)], planned(2, EARLY))

    assert changes == Changes()


@pytest.mark.parametrize(
    ("status", "attempts", "revives"),
    [
        ("cancelled", 0, True),
        ("cancelled", 2, True),
        ("failed", 0, True),
        ("limited", 0, True),
        ("failed", 1, False),
        ("accepted", 1, False),
        ("delivered", 1, False),
        ("unknown", 1, False),
        ("dead", 0, False),
        ("sending", 1, False),
    ],
)
def test_only_what_the_client_certainly_does_not_have_is_revived(
    status: str, attempts: int, revives: bool
) -> None:
    changes = told(Word(2, None), [Known(EARLY, status, 1, attempts)], planned(3, EARLY))

    assert bool(changes.revived) == revives
    assert changes.words == {KEY: Word(3, EARLY)}


def test_what_is_not_planned_any_more_is_cancelled_once() -> None:
    known = [Known(EARLY, "planned", 1), Known(LATE, "accepted", 2)]

    assert told(Word(2, LATE), known, withdrawn(3)).cancelled == {EARLY: "withdrawn"}
    assert told(Word(1, EARLY), known[:1], planned(2, LATE)).cancelled == {EARLY: "superseded"}


# Receipts


RECEIPTS = [
    Receipt("sent", AT),
    Receipt("delivered", AT + timedelta(seconds=2)),
    Receipt("read", AT + timedelta(seconds=5)),
    Receipt("failed", AT + timedelta(seconds=1), "131026"),
]


def test_receipts_in_any_order_end_in_one_state() -> None:
    ends = {fold(Receipted("accepted"), order) for order in permutations(RECEIPTS)}

    assert ends == {Receipted("read", RECEIPTS[1].occurred_at, RECEIPTS[2].occurred_at)}


@given(st.lists(st.sampled_from(RECEIPTS), max_size=6))
def test_receipt_never_takes_a_message_back(receipts: list[Receipt]) -> None:
    rank = {"accepted": 0, **RECEIPT_RANKS}
    state = Receipted("accepted")
    for receipt in receipts:
        new = fold(state, [receipt])
        assert rank[new.status] >= rank[state.status]
        state = new


def test_failed_receipt_keeps_its_time_and_reason_until_a_delivery_takes_them_away() -> None:
    failed = fold(Receipted("accepted"), RECEIPTS[3:])

    assert (failed.status, failed.failed_at, failed.reason) == ("failed", RECEIPTS[3].occurred_at, "131026")
    assert fold(failed, RECEIPTS[1:2]) == Receipted("delivered", RECEIPTS[1].occurred_at)


@pytest.mark.parametrize("status", ["planned", "sending", "cancelled", "dead", "limited"])
def test_message_that_was_not_sent_has_no_receipts(status: str) -> None:
    assert fold(Receipted(status), RECEIPTS) == Receipted(status)


# Settings


@pytest.mark.parametrize(
    "url", ["ftp://x", "//x", "http://", "http://u:p@x", "https://x?y=1", "https://x#y", "x"]
)
def test_base_url_that_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        settings(provider_base_url=url)


def test_production_talks_https_only() -> None:
    with pytest.raises(ValidationError, match="https"):
        SenderSettings(
            env="production", postgres_dsn=SecretStr("postgresql://x"), provider_base_url="http://mock:8605"
        )
    found = SenderSettings(
        env="production",
        postgres_dsn=SecretStr("postgresql://x"),
        provider_base_url="https://bot-api.example/",
    )
    assert found.provider_base_url == "https://bot-api.example"


@pytest.mark.parametrize("key", [bytes(range(32)), bytes(32), b"ab" * 16])
def test_production_refuses_a_guessable_master_key(key: bytes) -> None:
    fields = {
        "postgres_dsn": SecretStr("postgresql://x"),
        "master_key": SecretStr(base64.b64encode(key).decode()),
    }

    with pytest.raises(SecretError, match="refused in production"):
        SenderSettings(env="production", **fields).master_keys()  # type: ignore[arg-type]
    assert SenderSettings(env="development", **fields).master_keys().newest == key  # type: ignore[arg-type]


def test_empty_base_url_means_the_providers_own() -> None:
    assert settings(provider_base_url="").provider_base_url is None


def test_claim_must_outlive_its_request() -> None:
    with pytest.raises(ValidationError, match="longer"):
        settings(claim_seconds=5, send_timeout_seconds=10)
