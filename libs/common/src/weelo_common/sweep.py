"""The periodic clean-up of a service's own slice: bounded batches, one replica at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from weelo_common.inbox import keep_inbox_days
from weelo_common.postgres import Connection, Database, DatabaseUnavailable

log = logging.getLogger(__name__)

MAX_BATCHES = 200  # of one job in one sweep; the rest waits for the next
TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
UNLOCK = "SELECT pg_advisory_unlock($1)"


@dataclass(frozen=True, slots=True)
class SweepJob:
    """One kind of clean-up. ``run_batch`` does a bounded batch in its own transaction and returns how many rows.

    0 ends the job for this sweep.
    """

    name: str
    run_batch: Callable[[Connection], Awaitable[int]]


class Sweep:
    """Runs the jobs every ``period_s`` seconds, first at the start, under an advisory lock."""

    def __init__(self, name: str, database: Database, jobs: Sequence[SweepJob], *, period_s: float) -> None:
        self._name = name
        self._database = database
        self._jobs = (SweepJob("inboxDays", keep_inbox_days), *jobs)
        self._period_s = period_s
        self._lock_key = zlib.crc32(f"weelo-sweep:{name}".encode())

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped."""
        while not stop.is_set():
            try:
                await self.run_once(stop)
            except DatabaseUnavailable as error:
                log.warning("CleanupJob waits", extra={"reason": str(error)})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._period_s)

    async def run_once(self, stop: asyncio.Event | None = None) -> dict[str, int]:
        """One sweep; returns rows done by job, or nothing where another replica sweeps. A job that fails is logged.

        Raises:
            DatabaseUnavailable: what was done stays done; the next sweep goes on.
        """
        done: dict[str, int] = {}
        async with self._database.connection() as holder:
            if not await holder.fetchval(TRY_LOCK, self._lock_key):
                return done
            try:
                for job in self._jobs:
                    done[job.name] = await self._run_job(job, stop)
            finally:
                try:
                    await holder.execute(UNLOCK, self._lock_key)
                except BaseException:
                    holder.terminate()  # back in the pool it would keep the lock, and nobody would sweep
                    raise
        log.info("CleanupJob", extra={"rows": done})
        return done

    async def _run_job(self, job: SweepJob, stop: asyncio.Event | None) -> int:
        """One job's batches; how many rows they did. A defect ends it until the next sweep, and nothing else."""
        total = 0
        try:
            for _ in range(MAX_BATCHES):
                if stop is not None and stop.is_set():
                    break
                async with self._database.transaction() as connection:
                    rows = await job.run_batch(connection)
                total += rows
                if rows == 0:
                    break
        except DatabaseUnavailable:
            raise
        except Exception:  # the other jobs, and whoever calls the service, need not suffer from it
            log.exception("CleanupJob failed", extra={"job": job.name})
        return total
