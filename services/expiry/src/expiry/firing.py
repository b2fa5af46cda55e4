"""The loop that fires: claim what is due, publish, forget.

PostgreSQL's clock says what is due; memory only says when to ask. A claim marks its timers as fired and leaves a note
of them in the table ``firings``; the note goes once Kafka has acknowledged. A crash between any two steps leaves the
note, and whoever finds it publishes again with the same event ids: fired rather late than never, and never twice in
effect.

Several lanes run side by side, so that PostgreSQL claims the next batch while this process writes the last one. Claims
come one after another, and so do the batches that are handed to Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from expiry.domain import ClaimedTimer, Firing
from expiry.metrics import ExpiryMetrics
from expiry.publisher import Publisher
from expiry.settings import Settings
from expiry.store import TimerStore
from expiry.wheel import Slice
from expiry.work import Work
from weelo_common.kafka import KafkaUnavailable
from weelo_common.postgres import Database, DatabaseUnavailable

log = logging.getLogger(__name__)

LANES = 4  # one claims, one writes, two wait for Kafka; so many batches are in memory at most
FORGET_S = 0.05  # the notes of what was acknowledged go together; a crash repeats what was fired since
HELD_ROW_PAUSE_MS = 10  # as long as a short transaction takes
MAX_GIVEN_BACK = 100_000  # timers remembered; those of a lost partition never come back by themselves


class Firer:
    """Fires what the replica's work says."""

    def __init__(
        self,
        *,
        work: Work,
        database: Database,
        store: TimerStore,
        publisher: Publisher,
        metrics: ExpiryMetrics,
        settings: Settings,
    ) -> None:
        self._work = work
        self._database = database
        self._store = store
        self._publisher = publisher
        self._metrics = metrics
        self._settings = settings
        self._fresh_ms = int(settings.fire_fresh_s * 1000)
        self._turn = asyncio.Lock()
        self._backlogs_turn = False
        self._given_back: set[int] = set()  # timers that a claim passed over once
        self._acknowledged: list[int] = []  # firings whose notes can go
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """None while the last round went well, else what stood in its way."""
        return self._trouble

    async def run(self, stop: asyncio.Event) -> None:
        """Fire until stopped; the rounds in hand are finished first."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._work.woken.set())
        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._connect(), name="firing: meet the brokers")
                for number in range(LANES):
                    lanes.create_task(self._lane(stop), name=f"firing lane {number}")
                while not stop.is_set():
                    await self._pause(stop, FORGET_S)
                    await self._forget_or_wait(stop)
            await self._forget_or_wait(stop)
        finally:
            stopping.cancel()
            await asyncio.shield(self._publisher.close())

    async def run_once(self) -> int:
        """One round: publish again what is unfinished, else fire one batch of what is due; how many it were.

        Raises:
            DatabaseUnavailable, KafkaUnavailable: nothing is lost; call again later.
        """
        async with self._turn:
            firing = await self._next_firing()
        sent = 0 if firing is None else await self._carry_out(firing)
        await self._forget()
        return sent

    async def _lane(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with self._turn:
                    await self._rest(stop)
                    firing = None if stop.is_set() else await self._next_firing()
                if firing is not None:
                    await self._carry_out(firing)
                if not self._work.unfinished and self._work.backlog is None:
                    self._all_is_well()  # what failed before has been caught up with
            except (DatabaseUnavailable, KafkaUnavailable) as error:
                self._note_trouble(error)
                await self._pause(stop, self._settings.fire_retry_s)

    async def _next_firing(self) -> Firing | None:
        """What is unfinished comes first; then what is due now and the backlog take turns."""
        if self._work.unfinished:
            return await self._take_up()
        if not self._work.clock.known:
            return None
        partition = self._work.backlog
        self._backlogs_turn = partition is not None and not self._backlogs_turn
        if not self._backlogs_turn:
            due = self._work.take_due(fresh_ms=self._fresh_ms, limit=self._settings.fire_batch_timers)
            if due:
                return await self._claim(due)
        return None if partition is None else await self._claim_backlog(partition)

    async def _take_up(self) -> Firing | None:
        firing = self._work.unfinished.popleft()
        try:
            async with self._database.connection() as conn:
                still_open = await self._store.renew(conn, firing)
        except DatabaseUnavailable:
            self._work.found_unfinished([firing])
            raise
        if not still_open:
            return None
        self._metrics.repeated.inc(len(firing.timers))
        return firing

    async def _claim(self, due: Sequence[Slice]) -> Firing | None:
        ids = [timer_id for slice_ in due for timer_id in slice_.ids]
        try:
            asked_at = self._work.monotonic()
            async with self._database.connection() as conn:
                firing = await self._store.claim_held(conn, ids)
        except DatabaseUnavailable:
            # Claimed or not, memory has let go of them: the table is asked, and what was claimed left its note.
            self._work.found_backlog(slice_.partition for slice_ in due)
            raise
        claimed = 0 if firing is None else len(firing.timers)
        if claimed < len(ids):
            self._give_back(due, firing.timers if firing else ())
        return self._claimed(firing, asked_at)

    async def _claim_backlog(self, partition: int) -> Firing | None:
        limit = self._settings.fire_batch_timers
        asked_at = self._work.monotonic()
        async with self._database.connection() as conn:
            firing = await self._store.claim_backlog(conn, partition, limit=limit)
        self._work.backlog_done(partition, more=firing is not None and len(firing.timers) == limit)
        return self._claimed(firing, asked_at)

    def _claimed(self, firing: Firing | None, asked_at: float) -> Firing | None:
        if firing is not None:
            fired_s = firing.fired_at.timestamp()
            self._work.clock.observe(fired_s, asked_at, self._work.monotonic())
            observe = self._metrics.late.observe
            for timer in firing.timers:
                observe(fired_s - timer.due_ms / 1000)
        return firing

    def _give_back(self, due: Sequence[Slice], claimed: Sequence[ClaimedTimer]) -> None:
        """What was not claimed is cancelled, moved, fired by another, or held by a command: ask once more, soon."""
        taken = {timer.id for timer in claimed}
        if len(self._given_back) > MAX_GIVEN_BACK:
            self._given_back.clear()
        again_at = self._work.clock.now_ms(self._work.monotonic()) + HELD_ROW_PAUSE_MS
        for slice_ in due:
            for timer_id in slice_.ids:
                if timer_id in taken:
                    continue
                if timer_id in self._given_back:
                    self._given_back.discard(timer_id)
                else:
                    self._given_back.add(timer_id)
                    self._work.wheel.add_odd(slice_.partition, timer_id, again_at)

    async def _carry_out(self, firing: Firing) -> int:
        try:
            left = await self._publisher.publish(firing) if firing.timers else []
        except KafkaUnavailable:
            self._work.found_unfinished([firing])
            raise
        sent = len(firing.timers) - len(left)
        self._metrics.fired.inc(sent)
        if left:
            self._work.found_unfinished([replace(firing, timers=left)])
            raise KafkaUnavailable(f"{len(left)} of {len(firing.timers)} timers were not acknowledged")
        self._acknowledged.append(firing.id)
        return sent

    async def _forget(self) -> None:
        """Delete the notes of what was acknowledged. A crash before that publishes it again, with the same ids."""
        if not self._acknowledged:
            return
        done, self._acknowledged = self._acknowledged, []
        try:
            async with self._database.connection() as conn:
                await self._store.finish(conn, done)
        except DatabaseUnavailable:
            self._acknowledged += done
            raise

    async def _forget_or_wait(self, stop: asyncio.Event) -> None:
        try:
            await self._forget()
        except DatabaseUnavailable as error:
            self._note_trouble(error)
            await self._pause(stop, self._settings.fire_retry_s)

    async def _connect(self) -> None:
        """Meet the brokers before the first timer is due; without them it is tried again then."""
        with contextlib.suppress(KafkaUnavailable):
            await self._publisher.connect()

    def _note_trouble(self, error: Exception) -> None:
        self._metrics.errors.inc()
        if self._trouble is None:  # an outage is told of once, not at each try of each lane
            log.warning("Firing waits", extra={"reason": str(error)})
        self._trouble = type(error).__name__

    def _all_is_well(self) -> None:
        if self._trouble is not None:
            log.warning("Firing goes on")
        self._trouble = None

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()

    async def _rest(self, stop: asyncio.Event) -> None:
        """Until there is something to do, or a stop; a moment at least, in which timers gather for one claim."""
        if self._work.backlog is None:
            await asyncio.sleep(self._settings.fire_pace_s)
        while not stop.is_set():
            self._work.woken.clear()
            wait_s = self._work.wait_s()
            if wait_s is not None and wait_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._work.woken.wait()
