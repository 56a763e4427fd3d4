"""Sending over real HTTP: what goes out, what does not, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import asyncpg
import pytest

from tests.infrastructure import Database, Infrastructure
from tests.integration.probe import until
from tests.integration.sender_world import World, payloads, sender_world
from turnout_common import metrics
from turnout_common.clock import SystemClock
from turnout_common.events import MessageEvent, Queue
from turnout_common.tenants import set_tenant_status
from turnout_sender import sending
from turnout_sender.claims import Claimed, Claimer


@pytest.fixture(scope="module")
async def world(
    database: Database, infrastructure: Infrastructure, topic_prefix: str
) -> AsyncIterator[World]:
    async with sender_world(database, infrastructure, topic_prefix) as made:
        yield made


async def test_confirmation_reaches_the_chat_with_local_time_in_the_clients_language(world: World) -> None:
    salon = await world.salon(timezone="Europe/Moscow", locale="en")
    booked = await salon.appointment(locale="ru-RU")
    plan = booked.planned(start_at=datetime.fromisoformat("2027-01-15T11:30:00+00:00"))
    await booked.becomes("confirmed", plan.start_at)
    await world.say(plan)

    async with world.sending():
        await world.until_status(plan, "accepted")

    sent = await world.mock.sent(salon.token)
    assert [(m["chat_id"], m["text"]) for m in sent] == [
        (booked.chat_id, "Вы записаны: пятница, 15 января, 14:30. Ждём вас!")
    ]
    delivery = await world.delivery(plan)
    assert delivery["provider_message_id"] == sent[0]["message_id"]
    assert await world.log_of(plan) == ["attempted", "accepted"]


async def test_events_carry_the_whole_state_and_are_valid_for_their_readers(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned("reminder_24h")
    await world.say(plan)
    async with world.sending():
        await world.until_status(plan, "accepted")

    rows = await world.admin.fetch(
        "SELECT * FROM sender.outbox WHERE subject = $1 ORDER BY outbox_id", str(plan.message_id)
    )
    logged = await world.admin.fetch(
        "SELECT * FROM sender.truth WHERE message_id = $1 ORDER BY seq", plan.message_id
    )
    events = [MessageEvent.model_validate_json(row["payload"]) for row in rows]

    assert [event.status for event in events] == ["attempted", "accepted"]
    assert [row["record_id"] for row in rows] == [event.event_id for event in events]
    assert {row["key"] for row in rows} == {f"{salon.tenant_id}:{plan.message_id}"}
    for event, row in zip(events, logged, strict=True):
        assert {
            name: getattr(event, name) for name in ("version", "channel", "template", "attempts", "start_at")
        } == {name: row[name] for name in ("version", "channel", "template", "attempts", "start_at")}
    last = events[-1]
    assert (last.booking_id, last.client_id, last.gives_receipts) == (
        booked.booking_id,
        booked.client_id,
        False,
    )
    assert last.first_attempt_at is not None and last.accepted_at is not None
    assert all("text" not in p and "chat_id" not in p for p in payloads(rows))


@pytest.mark.parametrize("status", ["cancelled", "no_show", "merged", "completed"])
async def test_booking_that_ended_is_not_texted(world: World, status: str) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned("reminder_24h")
    await world.say(plan)
    await booked.becomes(status)

    async with world.sending():
        await world.until_status(plan, "cancelled")

    assert await world.states(plan) == [("cancelled", f"booking_{status}")]
    assert await world.mock.calls(salon.token) == []
    assert await world.log_of(plan) == ["cancelled"]
    assert (await world.delivery(plan))["first_attempt_at"] is None


async def test_booking_that_moved_is_not_texted_and_one_that_only_changed_is(world: World) -> None:
    salon = await world.salon()
    moved, paid = await salon.appointment(), await salon.appointment()
    of_moved, of_paid = moved.planned(), paid.planned()
    await world.say(of_moved, of_paid)
    await moved.becomes("confirmed", moved.start_at + timedelta(hours=1))
    await paid.becomes("confirmed")

    async with world.sending():
        await world.until_status(of_moved, "cancelled")
        await world.until_status(of_paid, "accepted")

    assert await world.states(of_moved, of_paid) == [("cancelled", "booking_moved"), ("accepted", None)]
    assert [m["chat_id"] for m in await world.mock.sent(salon.token)] == [paid.chat_id]


async def test_client_who_opted_out_is_left_alone(world: World) -> None:
    salon = await world.salon()
    out, stays = await salon.appointment(), await salon.appointment()
    await salon.opt_out(out)
    to_out, to_stays = out.planned(), stays.planned()
    await world.say(to_out, to_stays)

    async with world.sending():
        await world.until_status(to_stays, "accepted")
        await world.until_status(to_out, "cancelled")

    assert await world.states(to_out) == [("cancelled", "opted_out")]
    assert [m["chat_id"] for m in await world.mock.sent(salon.token)] == [stays.chat_id]


async def test_who_stopped_marketing_gets_reminders_and_no_promotions(world: World) -> None:
    salon = await world.salon()
    out, stays = await salon.appointment(), await salon.appointment()
    await salon.opt_out(out, "marketing")
    reminder, promotion = out.planned("reminder_24h"), out.planned(queue=Queue.MK)
    to_stays = stays.planned(queue=Queue.MK)
    await world.say(reminder, promotion, to_stays)

    async with world.sending():
        await world.until_status(reminder, "accepted")
        await world.until_status(to_stays, "accepted")
        await world.until_status(promotion, "cancelled")

    assert await world.states(promotion) == [("cancelled", "opted_out")]
    assert sorted(m["chat_id"] for m in await world.mock.sent(salon.token)) == sorted(
        [out.chat_id, stays.chat_id]
    )


async def test_who_wants_no_messages_gets_no_promotions_either(world: World) -> None:
    salon = await world.salon()
    out = await salon.appointment()
    await salon.opt_out(out)
    plans = [out.planned("reminder_24h"), out.planned(queue=Queue.MK)]
    await world.say(*plans)

    async with world.sending():
        for plan in plans:
            await world.until_status(plan, "cancelled")

    assert await world.states(*plans) == [("cancelled", "opted_out")] * 2
    assert await world.mock.calls(salon.token) == []


async def test_message_that_nobody_can_get_fails_with_the_reason(world: World) -> None:
    salon = await world.salon()
    unreachable, late = await salon.appointment(reachable=False), await salon.appointment()
    now = SystemClock().now()
    plans = [unreachable.planned(), late.planned(expires_at=now - timedelta(seconds=1))]
    await world.say(*plans)

    async with world.sending():
        for plan in plans:
            await world.until_status(plan, "failed")

    assert await world.states(*plans) == [("failed", "unreachable"), ("failed", "expired")]
    assert await world.mock.calls(salon.token) == []


async def test_suspended_tenant_texts_nobody(world: World, database: Database) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.say(plan)
    connection = await asyncpg.connect(database.dsn("platform"))
    await set_tenant_status(connection, salon.tenant_id, "suspended")
    await connection.close()
    await world.directory.reload()

    async with world.sending():
        await world.until_status(plan, "cancelled")

    assert await world.states(plan) == [("cancelled", "tenant_suspended")]


async def test_blocked_bot_and_missing_chat_fail_without_another_try(world: World) -> None:
    salon = await world.salon()
    blocked, gone = await salon.appointment(), await salon.appointment()
    await world.mock.behave(
        salon.token,
        {"kind": "blocked", "chat_id": blocked.chat_id},
        {"kind": "no_chat", "chat_id": gone.chat_id},
    )
    plans = [blocked.planned(), gone.planned()]
    await world.say(*plans)

    async with world.sending():
        for plan in plans:
            await world.until_status(plan, "failed")

    assert await world.states(*plans) == [("failed", "blocked"), ("failed", "chat_not_found")]
    assert len(await world.mock.calls(salon.token)) == 2


async def test_provider_that_fails_is_tried_again_until_it_answers(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    await world.mock.behave(salon.token, {"kind": "fail", "times": 2})
    plan = booked.planned()
    await world.say(plan)

    async with world.sending():
        await world.until_status(plan, "accepted")

    assert [c["status"] for c in await world.mock.calls(salon.token)] == [500, 500, 200]
    delivery = await world.delivery(plan)
    assert (delivery["attempts"], delivery["failures"]) == (3, 2)
    assert await world.log_of(plan) == ["attempted", "attempted", "attempted", "accepted"]
    outcomes = await world.admin.fetch(
        "SELECT outcome, http_status FROM sender.attempts WHERE message_id = $1 ORDER BY attempt_no",
        plan.message_id,
    )
    assert [tuple(row) for row in outcomes] == [("failed", 500), ("failed", 500), ("accepted", 200)]


async def test_message_fails_after_the_last_attempt(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    await world.mock.behave(salon.token, {"kind": "fail"})
    plan = booked.planned()
    await world.say(plan)

    async with world.sending(max_attempts=3, circuit_failures=100):
        await world.until_status(plan, "failed")

    assert await world.states(plan) == [("failed", "http_500")]
    assert len(await world.mock.calls(salon.token)) == 3


async def test_retry_after_holds_the_whole_bot_back(world: World) -> None:
    salon = await world.salon()
    first, second = await salon.appointment(), await salon.appointment()
    await world.mock.behave(salon.token, {"kind": "throttle", "times": 1, "retry_after": 2})
    throttled, other = first.planned(), second.planned()
    await world.say(throttled)

    async with world.sending():
        await until(lambda: _has_calls(world, salon.token, 1), "the throttled request")
        await until(lambda: _is_paused(world, salon.tenant_id), "the pause of the bot")
        await world.say(other)
        await world.until_status(throttled, "accepted")
        await world.until_status(other, "accepted")

    calls = await world.mock.calls(salon.token)
    at = [datetime.fromisoformat(c["at"]) for c in calls]
    assert [c["status"] for c in calls] == [429, 200, 200]
    assert min(at[1:]) - at[0] >= timedelta(seconds=1.95)
    assert (await world.delivery(throttled))["failures"] == 0


async def _has_calls(world: World, token: str, count: int) -> bool:
    return len(await world.mock.calls(token)) >= count


async def _is_paused(world: World, tenant_id: str) -> bool:
    return bool(
        await world.admin.fetchval(
            "SELECT next_at > now() + interval '1 second' FROM sender.rate_slots WHERE tenant_id = $1 AND chat = ''",
            tenant_id,
        )
    )


@pytest.mark.parametrize("kind", ["lose_answer", "cut"])
async def test_lost_answer_is_unknown_and_never_sent_again(world: World, kind: str) -> None:
    salon = await world.salon()
    booked, later = await salon.appointment(), await salon.appointment()
    await world.mock.behave(salon.token, {"kind": kind, "times": 1})
    plan, after = booked.planned(), later.planned()
    await world.say(plan)

    async with world.sending():
        await world.until_status(plan, "unknown")
        await world.say(plan)
        await world.say(after)
        await world.until_status(after, "accepted")

    to_booked = [m for m in await world.mock.sent(salon.token) if m["chat_id"] == booked.chat_id]
    assert len(to_booked) == (1 if kind == "lose_answer" else 0)
    assert [c["status"] for c in await world.mock.calls(salon.token)] == [0, 200]
    assert await world.log_of(plan) == ["attempted", "unknown"]


async def test_provider_that_is_too_slow_has_lost_the_answer(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    await world.mock.behave(salon.token, {"kind": "slow", "times": 1, "seconds": 3})
    plan = booked.planned()
    await world.say(plan)

    async with world.sending(send_timeout_seconds=0.5):
        await world.until_status(plan, "unknown")

    assert len(await world.mock.sent(salon.token)) == 1


async def test_provider_that_is_not_there_is_tried_again(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    await world.say(plan)

    async with world.sending(provider_base_url="http://127.0.0.1:9", max_attempts=2):
        await world.until_status(plan, "failed")

    assert await world.states(plan) == [("failed", "ClientConnectorError")]
    assert (await world.delivery(plan))["attempts"] == 2


async def test_refused_token_opens_the_tenants_circuit_and_burns_no_attempt(world: World) -> None:
    salon, healthy = await world.salon(), await world.salon()
    booked, other = await salon.appointment(), await healthy.appointment()
    await world.mock.behave(salon.token, {"kind": "revoked", "times": 1})
    plan, waiting, fine = booked.planned(), (await salon.appointment()).planned(), other.planned()
    await world.say(plan)

    async with world.sending(token_pause_seconds=2):
        await until(lambda: _circuit_is_open(world, salon.tenant_id), "the circuit to open")
        await world.say(waiting, fine)
        await world.until_status(fine, "accepted")
        assert len(await world.mock.calls(salon.token)) == 1
        await world.until_status(plan, "accepted")
        await world.until_status(waiting, "accepted")

    calls = await world.mock.calls(salon.token)
    at = [datetime.fromisoformat(c["at"]) for c in calls]
    assert [c["status"] for c in calls] == [401, 200, 200]
    assert at[1] - at[0] >= timedelta(seconds=1.9)
    assert (await world.delivery(plan))["failures"] == 0
    assert not await _circuit_is_open(world, salon.tenant_id)


async def _circuit_is_open(world: World, tenant_id: str) -> bool:
    return bool(
        await world.admin.fetchval(
            "SELECT true FROM sender.circuits WHERE tenant_id = $1 AND open_until IS NOT NULL", tenant_id
        )
    )


async def test_failing_provider_is_left_alone_and_one_message_tries_again(world: World) -> None:
    salon = await world.salon()
    plans = [(await salon.appointment()).planned() for _ in range(8)]
    await world.mock.behave(salon.token, {"kind": "fail", "times": 9})
    await world.say(*plans)

    async with world.sending(circuit_failures=5, circuit_seconds=1.5), world.sending(circuit_seconds=1.5):
        for plan in plans:
            await world.until_status(plan, "accepted", seconds=60)

    calls = await world.mock.calls(salon.token)
    at = [datetime.fromisoformat(c["at"]) for c in calls]
    assert [c["status"] for c in calls] == [500] * 9 + [200] * 8
    # All eight failed, then one at a time tried: the ninth call and the tenth.
    assert [(at[n] - at[n - 1]).total_seconds() >= 1.2 for n in (8, 9)] == [True, True]


async def test_address_that_does_not_open_is_dead_and_stops_nobody(world: World) -> None:
    salon = await world.salon()
    broken, fine = await salon.appointment(chat_sealed="AQABnonsense"), await salon.appointment()
    dead, good = broken.planned(), fine.planned()
    await world.say(dead, good)

    async with world.sending():
        await world.until_status(good, "accepted")
        await world.until_status(dead, "dead")

    assert await world.states(dead) == [("dead", "address_unreadable")]
    assert (await world.delivery(dead))["first_attempt_at"] is not None
    assert await world.log_of(dead) == ["dead"]


async def test_day_limit_defers_and_limits_what_is_useless_tomorrow(world: World) -> None:
    salon = await world.salon()
    now = SystemClock().now()
    plans = [(await salon.appointment()).planned() for _ in range(2)]
    keeps = (await salon.appointment()).planned(expires_at=now + timedelta(days=3))
    spoils = (await salon.appointment()).planned()
    await world.say(*plans)

    async with world.sending(day_limit_tx=2):
        for plan in plans:
            await world.until_status(plan, "accepted")
        await world.say(keeps, spoils)
        await world.until_status(spoils, "limited")
        await until(lambda: _is_put_off(world, keeps.message_id, now), "the deferral")

    assert await world.states(spoils, keeps) == [("limited", "day_limit"), ("planned", None)]
    assert await world.log_of(spoils) == ["limited"]
    assert len(await world.mock.sent(salon.token)) == 2


async def _is_put_off(world: World, message_id: object, now: datetime) -> bool:
    return bool(
        await world.admin.fetchval(
            "SELECT next_attempt_at > $2 FROM sender.deliveries WHERE message_id = $1",
            message_id,
            now + timedelta(hours=1),
        )
    )


async def test_rate_is_shared_by_two_replicas(world: World) -> None:
    salon = await world.salon()
    plans = [(await salon.appointment()).planned() for _ in range(60)]
    await world.say(*plans)

    async with world.sending(), world.sending():
        await until(lambda: _has_calls(world, salon.token, 60), "sixty messages", seconds=60)

    at = sorted(datetime.fromisoformat(m["at"]) for m in await world.mock.sent(salon.token))
    assert len(at) == len({m["chat_id"] for m in await world.mock.sent(salon.token)}) == 60
    # 20 a second: any 21 in a row take a second, less what a request may be late for its slot and on its way.
    spans = [(at[n + 20] - at[n]).total_seconds() for n in range(len(at) - 20)]
    assert min(spans) >= 0.9
    assert (at[-1] - at[0]).total_seconds() >= 2.85


async def test_one_chat_gets_one_message_a_second(world: World) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plans = [booked.planned("confirmation"), booked.planned("reminder_24h")]
    await world.say(*plans)

    async with world.sending(), world.sending():
        for plan in plans:
            await world.until_status(plan, "accepted")

    one, other = sorted(datetime.fromisoformat(m["at"]) for m in await world.mock.sent(salon.token))
    assert (other - one).total_seconds() >= 0.9


async def test_missed_slot_is_given_up_for_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    salon = await world.salon()
    plan = (await salon.appointment()).planned()
    given_up = metrics.GRANTS_GIVEN_UP.labels("telegram")
    before = given_up._value.get()
    claim = Claimer.claim
    paused: list[bool] = []

    async def claim_and_pause(claimer: Claimer, busy: list[str]) -> Claimed:
        claimed = await claim(claimer, busy)
        if claimed.claims and not paused:
            paused.append(True)
            await asyncio.sleep(0.5)
        return claimed

    monkeypatch.setattr(Claimer, "claim", claim_and_pause)
    await world.say(plan)
    async with world.sending():
        await world.until_status(plan, "accepted")

    assert paused
    assert given_up._value.get() == before + 1
    assert await world.log_of(plan) == ["attempted", "accepted"]


async def test_claim_that_grew_stale_is_given_back_unsent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    salon = await world.salon()
    booked = await salon.appointment()
    plan = booked.planned()
    monkeypatch.setattr(sending, "STALE_SECONDS", -1.0)
    await world.say(plan)
    async with world.sending():
        await until(lambda: _was_released(world, plan.message_id), "the claim to be given back")

    delivery = await world.delivery(plan)
    assert (delivery["attempts"], delivery["first_attempt_at"]) in (
        (0, None),
        (1, delivery["first_attempt_at"]),
    )
    assert await world.mock.calls(salon.token) == []


async def _was_released(world: World, message_id: object) -> bool:
    return bool(
        await world.admin.fetchval(
            "SELECT true FROM sender.message_log WHERE message_id = $1 AND status = 'planned' AND first_attempt_at IS NULL",
            message_id,
        )
    )
