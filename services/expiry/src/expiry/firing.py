"""The loop that fires: claim what is due, publish, mark as fired.

PostgreSQL's clock says what is due; this process's clock is only used to wait. A crash between any two steps leaves
rows in the state firing, which are published again with the same event id: fired rather late than never, and never
twice in effect. Partitions may have two owners for a moment; the claims of both are apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from expiry.agenda import Agenda
from expiry.domain import ClaimedTimer
from expiry.metrics import ExpiryMetrics
from expiry.publisher import Publisher
from expiry.settings import Settings
from expiry.store import TimerStore
from weelo_common.kafka import KafkaUnavailable
from weelo_common.postgres import Database, DatabaseUnavailable

log = logging.getLogger(__name__)

# A firing older than this many produce deadlines has nobody who works on it: its owner died or lost the partition.
ABANDONED_DEADLINES = 3
HELD_ROW_PAUSE_S = 0.01  # as long as a short transaction takes


class Firer:
    """Fires the timers of the partitions it is told to own."""

    def __init__(
        self,
        *,
        database: Database,
        store: TimerStore,
        publisher: Publisher,
        metrics: ExpiryMetrics,
        settings: Settings,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._publisher = publisher
        self._metrics = metrics
        self._settings = settings
        self._monotonic = monotonic
        self._agenda = Agenda(settings.fire_look_s)
        self._unfinished: set[int] = set()  # partitions whose rows left in firing are to be published again
        self._woken = asyncio.Event()
        self._abandoned_s = ABANDONED_DEADLINES * settings.kafka_request_deadline_s
        self._search_abandoned_at = 0.0
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """None while the last round went well, else what stood in its way."""
        return self._trouble

    def own(self, partitions: Iterable[int]) -> None:
        """Fire the timers of exactly these partitions from now on. Only signals: safe in a rebalance."""
        gained = self._agenda.own(partitions, self._monotonic())
        self._unfinished = (self._unfinished & self._agenda.owned) | gained
        self._metrics.partitions.set(len(self._agenda.owned))
        self._woken.set()

    def note(self, partition: int, moment: float) -> None:
        """A timer of the partition was committed, due at about this moment of the monotonic clock. Only signals."""
        if self._agenda.note(partition, moment):
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Fire until stopped; the round in hand is finished first."""
        try:
            while not stop.is_set():
                try:
                    await self.run_once()
                except (DatabaseUnavailable, KafkaUnavailable) as error:
                    self._metrics.errors.inc()
                    self._trouble = type(error).__name__
                    log.warning("Firing waits", extra={"reason": str(error)})
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), self._settings.fire_retry_s)
                    continue
                self._trouble = None
                await self._rest(stop)
        finally:
            await asyncio.shield(self._publisher.close())

    async def run_once(self) -> int:
        """Fire what is due in each partition whose time has come, one batch of each; how many it were.

        Raises:
            DatabaseUnavailable, KafkaUnavailable: nothing is lost; call again later.
        """
        fired = await self._publish_unfinished()
        partitions = self._agenda.take_due(self._monotonic())
        timers: list[ClaimedTimer] = []
        try:
            for partition in partitions:
                timers += await self._claim(partition)
            for timer in timers:
                self._metrics.late.observe(max(0.0, timer.late_s))
            await self._publish(timers)
        except (DatabaseUnavailable, KafkaUnavailable, asyncio.CancelledError):
            # Whatever was claimed is ours to publish again, and what was not looked at is looked at next.
            self._unfinished |= set(partitions) & self._agenda.owned
            for partition in partitions:
                self._agenda.note(partition, self._monotonic())
            raise
        return fired + len(timers)

    async def _claim(self, partition: int) -> Sequence[ClaimedTimer]:
        settings = self._settings
        async with self._database.connection() as conn:
            claim = await self._store.claim(
                conn, partition, fresh_s=settings.fire_fresh_s, limit=settings.fire_batch_timers
            )
        if claim.next_due_s is not None:
            # Due but not claimed: a command holds the row, so do not ask for it without a pause.
            held = claim.next_due_s <= 0 and not claim.timers
            self._agenda.note(partition, self._monotonic() + (HELD_ROW_PAUSE_S if held else claim.next_due_s))
        return claim.timers

    async def _publish_unfinished(self) -> int:
        """Publish again what was claimed and not marked: by us in trouble, or by an owner before us."""
        await self._search_abandoned()
        fired = 0
        for partition in sorted(self._unfinished):
            while True:
                async with self._database.connection() as conn:
                    timers = await self._store.unfinished(
                        conn, partition, older_than_s=0.0, limit=self._settings.fire_batch_timers
                    )
                if not timers:
                    break
                self._metrics.repeated.inc(len(timers))
                await self._publish(timers)
                fired += len(timers)
            self._unfinished.discard(partition)
        return fired

    async def _search_abandoned(self) -> None:
        """Now and then look for firings that nobody finished.

        An owner that had lost the partition, and did not know it yet, may have claimed and died.
        """
        now = self._monotonic()
        if now < self._search_abandoned_at:
            return
        for partition in self._agenda.owned:
            async with self._database.connection() as conn:
                if await self._store.unfinished(conn, partition, older_than_s=self._abandoned_s, limit=1):
                    self._unfinished.add(partition)
        self._search_abandoned_at = now + self._settings.kafka_request_deadline_s

    async def _publish(self, timers: Sequence[ClaimedTimer]) -> None:
        if not timers:
            return
        sent = await self._publisher.publish(timers)
        if sent:
            # A crash before this commit publishes them again, with the same ids.
            async with self._database.connection() as conn:
                await self._store.mark_fired(conn, sent)
            self._metrics.fired.inc(len(sent))
        if len(sent) < len(timers):
            raise KafkaUnavailable(f"{len(timers) - len(sent)} of {len(timers)} timers were not acknowledged")

    async def _rest(self, stop: asyncio.Event) -> None:
        wait_s = self._agenda.wait_s(self._monotonic())
        if wait_s <= 0:
            return
        waiting = {asyncio.ensure_future(self._woken.wait()), asyncio.ensure_future(stop.wait())}
        try:
            await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            self._woken.clear()
