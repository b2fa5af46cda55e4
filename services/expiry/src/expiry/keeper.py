"""Keeps the replica's work true to the tables: what is due soon, what is overdue, what nobody finished, the clock.

It reads PostgreSQL once in a while and at each takeover of partitions, and changes no timer. Everything that memory
does not know of, for whatever reason, is found here within one look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime

from expiry.metrics import ExpiryMetrics
from expiry.settings import Settings
from expiry.store import TimerStore
from expiry.work import Work
from weelo_common.postgres import SELECT_NOW, Connection, Database, DatabaseUnavailable

log = logging.getLogger(__name__)

LOAD_SLICE_TIMERS = 20_000  # of one statement: some 30 ms
UNFINISHED_BATCH = 4  # abandoned firings taken up in one look, as many as there are lanes to publish them
COUNT_DUE_LIMIT = 100_000  # beyond this nobody needs to know how many are due


class Keeper:
    """Hears of partitions and new timers, and looks at the tables."""

    def __init__(
        self, *, work: Work, database: Database, store: TimerStore, metrics: ExpiryMetrics, settings: Settings
    ) -> None:
        self._work = work
        self._database = database
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._ahead_ms = int(settings.hold_ahead_s * 1000)
        self._woken = asyncio.Event()
        self._nothing_since: float | None = None
        self._count_at = 0.0
        self._is_off = False

    def own(self, partitions: Collection[int]) -> None:
        """The consumer's partitions changed. Only signals: safe in a rebalance.

        "None" is said at the beginning of every rebalance, and where there are more replicas than partitions. Both
        look alike from here, so the partitions are kept until a rebalance must have ended: somebody else's claims and
        ours are apart, and in between nobody else fires them.
        """
        if not partitions:
            if self._nothing_since is None:
                self._nothing_since = self._work.monotonic()
            return
        self._nothing_since = None
        self._take(partitions)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped."""
        while not stop.is_set():
            self._woken.clear()
            try:
                await self.run_once()
            except DatabaseUnavailable as error:
                log.warning("Timers are not looked after", extra={"reason": str(error)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.fire_look_s):
                    await _either(self._woken, stop)

    async def run_once(self) -> None:
        """One look.

        Raises:
            DatabaseUnavailable: the next look goes on.
        """
        self._let_go()
        async with self._database.connection() as conn:
            await self._read_clock(conn)
            overdue_s = self._settings.fire_overdue_s
            self._work.found_backlog(
                await self._store.overdue(conn, self._work.owned, older_than_s=overdue_s)
            )
            await self._load(conn)
            if not self._work.unfinished:
                abandoned = await self._store.take_abandoned(
                    conn, older_than_s=self._settings.fire_abandoned_s, limit=UNFINISHED_BATCH
                )
                self._work.found_unfinished(abandoned)
            await self._count(conn)

    def _take(self, partitions: Collection[int]) -> None:
        self._work.own(partitions)
        self._metrics.partitions.set(len(self._work.owned))
        self._woken.set()

    def _let_go(self) -> None:
        since = self._nothing_since
        if since is not None and self._work.monotonic() - since > self._settings.fire_rebalance_s:
            self._nothing_since = None
            self._take(())

    async def _read_clock(self, conn: Connection) -> None:
        asked_at = self._work.monotonic()
        now: datetime = await conn.fetchval(SELECT_NOW)
        was_known = self._work.clock.known
        answered_at = self._work.monotonic()
        set_by_s = self._work.clock.observe(now.timestamp(), asked_at, answered_at)
        ahead_s = now.timestamp() - time.time()
        self._metrics.clock_offset.set(ahead_s)
        if set_by_s is not None:
            log.warning("The database's clock was set", extra={"byS": round(set_by_s, 3)})
        # The answer may have been on its way, or waited for this process, for as long as it took.
        is_off = abs(ahead_s) > self._settings.clock_warn_s + answered_at - asked_at
        if is_off and not self._is_off:
            # Timers keep to the database's clock all the same; logs, traces and tokens keep to this one.
            log.warning("Clocks differ", extra={"databaseAheadS": round(ahead_s, 3)})
        self._is_off = is_off
        if not was_known or set_by_s is not None:
            self._work.woken.set()

    async def _load(self, conn: Connection) -> None:
        """Hold what is due within ``hold_ahead_s``; a window is extended once a quarter of it has passed."""
        now_ms = self._work.clock.now_ms(self._work.monotonic())
        until_ms = now_ms + self._ahead_ms
        for partition in sorted(self._work.owned):
            held_until_ms = self._work.wheel.held_until_ms(partition)
            if held_until_ms is None:
                await self._load_partition(conn, partition, _moment(now_ms - self._fresh_ms), until_ms)
            elif until_ms - held_until_ms >= self._ahead_ms // 4:
                await self._load_partition(conn, partition, _moment(held_until_ms), until_ms)
        self._metrics.held.set(len(self._work.wheel))

    @property
    def _fresh_ms(self) -> int:
        return int(self._settings.fire_fresh_s * 1000)

    async def _load_partition(self, conn: Connection, partition: int, after: datetime, until_ms: int) -> None:
        wheel = self._work.wheel
        wheel.hold_until(partition, until_ms)  # before the table is read: see there
        after_id = 2**63 - 1  # what is due at that very moment is held already
        until = _moment(until_ms)
        try:
            while True:
                loaded = await self._store.load(
                    conn, partition, after=after, after_id=after_id, until=until, limit=LOAD_SLICE_TIMERS
                )
                if loaded is None:
                    return
                if not wheel.add_loaded(partition, loaded.due_ms, loaded.ids):
                    log.warning("Memory is full of timers", extra={"partition": partition})
                    return  # looks find the rest
                self._work.woken.set()
                if len(loaded.ids) < LOAD_SLICE_TIMERS:
                    return
                after, after_id = loaded.last_due, loaded.ids[-1]
        except BaseException:
            wheel.hold_until(partition, int(after.timestamp() * 1000))  # the next look goes on from here
            raise

    async def _count(self, conn: Connection) -> None:
        now = self._work.monotonic()
        owned = self._work.owned
        self._metrics.due.set(await self._store.count_due(conn, owned, limit=COUNT_DUE_LIMIT))
        if now >= self._count_at:
            self._count_at = now + self._settings.count_pending_s
            self._metrics.pending.set(await self._store.count_pending(conn, owned))


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
