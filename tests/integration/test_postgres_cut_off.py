"""Whoever is cut off while he talks to PostgreSQL, and once more while he tidies up, leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Coroutine

import pytest

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.events_rig import PATIENCE_S, EventsRig, events_rig, until

ACQUIRE_DEADLINE_S = 3.0  # each step of tidying up has as long; a test waits it out
LOCK = "SELECT pg_advisory_xact_lock(1)"
CUTS = 3  # in the statement, in the rollback, in giving the connection back
TURNS = 10  # of the loop: more than there are steps from one await to the next


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(
        stack,
        postgres_acquire_deadline_s=ACQUIRE_DEADLINE_S,
        postgres_lock_timeout_s=PATIENCE_S,
        postgres_statement_timeout_s=PATIENCE_S,
        postgres_idle_in_transaction_timeout_s=3 * PATIENCE_S,
    ) as made:
        yield made


@pytest.fixture
async def complaints() -> list[str]:
    """What the loop was told because nobody else heard it."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    return told


@contextlib.asynccontextmanager
async def cut_off_twice(
    rig: EventsRig, stack: LocalStack, work: Coroutine[None, None, None]
) -> AsyncIterator[None]:
    """Work that waits for the lock is cut off, and so is its tidying up; PostgreSQL answers neither, to the end."""
    async with rig.database.transaction() as holder:
        await holder.execute(LOCK)
        working = asyncio.create_task(work)
        await rig.lock_wait()
        with frozen(stack.server("postgres")):
            for _ in range(CUTS):
                working.cancel()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            assert working.cancelled()
            yield


def tidying() -> list[asyncio.Task[object]]:
    """The tasks that tidy up, ours and the pool's."""
    return [
        task for task in asyncio.all_tasks() if "tidy" in task.get_name() or "release" in str(task.get_coro())
    ]


async def test_a_transaction_whose_rollback_is_cut_off_is_rolled_back_and_nobody_complains(
    rig: EventsRig, stack: LocalStack, complaints: list[str]
) -> None:
    async with rig.database.connection() as connection:
        await connection.execute("CREATE TABLE noted (id integer)")

    async def note() -> None:
        async with rig.database.transaction() as connection:
            await connection.execute("INSERT INTO noted VALUES (1)")
            await connection.execute(LOCK)

    async with cut_off_twice(rig, stack, note()):
        assert tidying()
    await until(lambda: not tidying(), "the end of tidying up")
    async with rig.database.transaction() as connection:
        await connection.execute(LOCK)
        assert await connection.fetchval("SELECT count(*) FROM noted") == 0
    assert complaints == []


async def test_a_connection_that_cannot_be_given_back_in_time_is_dropped_and_nobody_complains(
    rig: EventsRig, stack: LocalStack, complaints: list[str]
) -> None:
    async def wait() -> None:
        async with rig.database.connection() as connection:
            await connection.execute(LOCK)

    async with cut_off_twice(rig, stack, wait()):
        await until(lambda: not tidying(), "the end of tidying up")
        gc.collect()
    assert complaints == []
