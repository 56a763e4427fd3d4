"""The send loop: claim, wait for the slot, one request, its outcome.

In: due rows. Out: requests to providers, outcomes to the writer. Promise: at most one send per message, unless the
answer was lost: then it is `unknown`, counted, and never sent again. That window is from the claim's commit to the
outcome's: a process killed in it leaves claims that `_sweep` of any replica ends as `unknown` after `claim_seconds`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from time import monotonic

import asyncpg
import structlog

from turnout_common import metrics
from turnout_common.clock import Clock
from turnout_common.postgres import is_transient, load_queries
from turnout_sender.channels.http import AnswerLost, Http, NotSent
from turnout_sender.channels.port import Answer, Verdict
from turnout_sender.claims import Claim, Claimer
from turnout_sender.decisions import after
from turnout_sender.deliveries import Outcome, ProviderMessage, find_orphans
from turnout_sender.limits import GRANT_SECONDS
from turnout_sender.outcomes import OutcomeWriter, Released, Settled
from turnout_sender.settings import SenderSettings

log = structlog.get_logger()
SQL = load_queries("turnout_sender")
POLL_SECONDS = 0.2
#: A claim whose request has not begun by then is given back: its booking may have changed, its chat be another's turn.
STALE_SECONDS = 1.0
PRUNE_SECONDS = 3600.0
DRAIN_SECONDS = 5.0


class SendLoop:
    """`wake()` after a commit that planned messages; `run()` for ever. `due` is the backlog at the last sweep."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        claimer: Claimer,
        http: Http,
        settings: SenderSettings,
        clock: Clock,
        chance: random.Random,
        after_commit: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._claimer = claimer
        self._http = http
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._after_commit = after_commit
        self._writer = OutcomeWriter(pool, settings, clock, chance, after_commit)
        self._wakened = asyncio.Event()
        self._stopping = False
        self._in_flight: set[asyncio.Task[None]] = set()
        self._of_tenant: Counter[str] = Counter()
        self.due = 0

    def wake(self) -> None:
        self._wakened.set()

    def wake_all(self) -> None:
        """After a commit of a consumer: there may be messages to send and events to publish."""
        self.wake()
        self._after_commit()

    async def run(self) -> None:
        """Until cancelled; then no new claims are made, and those under way are finished and written."""
        claiming = asyncio.create_task(self._claim_on())
        writing = asyncio.create_task(self._writer.run())
        sweeping = asyncio.create_task(self._sweep_on())
        try:
            done, _ = await asyncio.wait({claiming, writing, sweeping}, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        finally:
            sweeping.cancel()
            await self._drain(claiming, writing)

    async def _drain(self, claiming: asyncio.Task[None], writing: asyncio.Task[None]) -> None:
        """A claim is not cancelled half-way: one that was committed unseen would end as `unknown`."""
        self._stopping = True
        self.wake()
        await asyncio.wait({claiming}, timeout=DRAIN_SECONDS)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._settings.send_timeout_seconds + STALE_SECONDS)
        if not writing.done():
            emptying = asyncio.create_task(self._writer.drained())
            await asyncio.wait(
                {writing, emptying}, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            emptying.cancel()
        claiming.cancel()
        writing.cancel()

    async def _claim_on(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                claimed = await self._claimer.claim(self._busy()) if self._room() else None
                failures = 0
            except Exception as error:
                if not is_transient(error):
                    raise
                failures += 1
                log.warning("claiming waits for Postgres", error=repr(error)[:300], failures=failures)
                pause = min(0.1 * 2.0 ** min(failures, 6), 5.0)
                await asyncio.sleep(pause * self._chance.uniform(0.5, 1.0))
                continue
            if claimed is not None and claimed.found:
                self._after_commit()
            for claim in claimed.claims if claimed else ():
                self._start(claim)
            if not (claimed and claimed.claims):
                await self._wait()

    def _room(self) -> bool:
        return len(self._in_flight) < self._settings.max_in_flight

    def _busy(self) -> list[str]:
        most = self._settings.max_in_flight_per_tenant
        return [tenant_id for tenant_id, count in self._of_tenant.items() if count >= most]

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wakened.wait()
        except TimeoutError:
            pass
        self._wakened.clear()

    def _start(self, claim: Claim) -> None:
        task = asyncio.create_task(self._deliver(claim))
        self._in_flight.add(task)
        self._of_tenant[claim.due.tenant_id] += 1
        task.add_done_callback(lambda done: self._finish(done, claim))

    def _finish(self, task: asyncio.Task[None], claim: Claim) -> None:
        self._in_flight.discard(task)
        self._of_tenant[claim.due.tenant_id] -= 1
        if not self._of_tenant[claim.due.tenant_id]:
            del self._of_tenant[claim.due.tenant_id]
        if not self._room():
            return
        self.wake()

    async def _deliver(self, claim: Claim) -> None:
        due, channel = claim.due, str(claim.adapter.channel)
        if not await self._turn_comes(claim):
            self._writer.put(Released(due.message_id, claim.claim_id))
            return
        started = monotonic()
        answer = await self._request(claim)
        seconds = monotonic() - started
        metrics.SENDS.labels(channel, answer.verdict).inc()
        metrics.SEND_SECONDS.labels(channel).observe(seconds)
        log.info(
            "message sent" if answer.verdict is Verdict.ACCEPTED else "message not sent",
            message=str(due.message_id), tenant=due.tenant_id, channel=channel, template=due.template,
            outcome=str(answer.verdict), reason=answer.reason, seconds=round(seconds, 3),
        )  # fmt: skip
        named = answer.provider_message_id if claim.adapter.channel.gives_receipts else None
        outcome = Outcome(
            message_id=due.message_id,
            claim_id=claim.claim_id,
            answer=answer,
            transition=after(answer, due.failures, self._settings, self._chance),
            at=self._clock.now(),
            duration_ms=round(seconds * 1000),
            receipts_as=ProviderMessage(due.tenant_id, channel, named) if named else None,
        )
        self._writer.put(Settled(due.tenant_id, channel, outcome))

    async def _turn_comes(self, claim: Claim) -> bool:
        """Waits for the claim's slot. One that was missed is given up for another one; False when none comes in time."""
        slot_at: float | None = claim.slot_at
        while slot_at is not None:
            await asyncio.sleep(max(slot_at - monotonic(), 0.0))
            if monotonic() - claim.claimed_at > STALE_SECONDS:
                return False
            if monotonic() - slot_at <= GRANT_SECONDS:
                return True
            metrics.GRANTS_GIVEN_UP.labels(str(claim.adapter.channel)).inc()
            try:
                slot_at = await self._claimer.another_slot(claim)
            except Exception as error:
                if not is_transient(error):
                    log.error("no slot could be taken", error=repr(error)[:300])
                return False
        return False

    async def _request(self, claim: Claim) -> Answer:
        try:
            return await claim.adapter.send(self._http, claim.token, claim.address, claim.text)
        except NotSent as error:
            return Answer(Verdict.FAILED, str(error))
        except AnswerLost as error:
            return Answer(Verdict.LOST, str(error))
        except Exception as error:
            # A bug of an adapter: nobody can tell how far it came. Its text might hold the token: the type must do.
            log.error("adapter failed", channel=str(claim.adapter.channel), error=type(error).__name__)
            return Answer(Verdict.LOST, "adapter_failed")

    async def _sweep_on(self) -> None:
        """Ends what dead senders left, measures the backlog, and removes what nobody asks for any more."""
        pruned_at = -PRUNE_SECONDS
        age = timedelta(seconds=self._settings.claim_seconds)
        every = min(max(self._settings.claim_seconds / 4, 0.2), 15.0)
        while True:
            await asyncio.sleep(every * self._chance.uniform(0.9, 1.1))
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    now = self._clock.now()
                    found = await find_orphans(connection, now, age)
                    self.due = await connection.fetchval(SQL["backlog"], now)
                    if monotonic() - pruned_at > PRUNE_SECONDS:
                        await connection.execute(SQL["prune"], now)
                        pruned_at = monotonic()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("sweep waits for Postgres", error=repr(error)[:300])
                continue
            metrics.DUE_MESSAGES.set(self.due)
            if found:
                log.warning("sends without an outcome: their sender died", messages=found)
                self._after_commit()
