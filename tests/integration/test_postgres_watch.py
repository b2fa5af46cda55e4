"""The watch over PostgreSQL: a server that hangs is found in time, a process that is short of CPU blames nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.events_rig import EventsRig, events_rig, until
from weelo_common.postgres import Connection, DatabaseUnavailable

PERIOD_S = 0.02
DEADLINE_S = 1.0
SPELL_S = 1.1  # longer than the deadline: a timer is always due when the process gets to run
SPELLS = 4
CLOSE = "SELECT pg_terminate_backend($1)"
CLOSE_ALL_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
SLACK_S = 10.0  # for a machine that stalls; far below the deadline of the statement that is cut off


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack, postgres_statement_timeout_s=60.0) as made:
        yield made


@contextlib.asynccontextmanager
async def watching(rig: EventsRig) -> AsyncIterator[None]:
    stop = asyncio.Event()
    watch = asyncio.create_task(rig.database.watch(stop, PERIOD_S, DEADLINE_S))
    try:
        yield
    finally:
        stop.set()
        await watch


async def test_a_process_that_gets_no_cpu_does_not_take_postgres_for_away(
    rig: EventsRig, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(rig):
        for _ in range(SPELLS):
            time.sleep(SPELL_S)  # noqa: ASYNC251 - the starving itself
            await asyncio.sleep(0)
            assert rig.database.trouble is None
        async with rig.database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    assert "PostgreSQL is away" not in caplog.messages


def taken_back(connection: Connection) -> bool:
    """Whether the pool has noticed that a connection is closed, and lets nobody use it any more."""
    try:
        connection.is_closed()
    except asyncpg.InterfaceError:
        return True
    return False


async def test_a_server_that_closes_all_connections_at_once_does_not_end_the_watch(rig: EventsRig) -> None:
    dsn = rig.settings.postgres_dsn.get_secret_value()

    async def hold_one() -> None:
        async with rig.database.connection() as held:
            own = await asyncpg.connect(dsn)
            await own.execute(CLOSE, await held.fetchval("SELECT pg_backend_pid()"))
            await until(lambda: taken_back(held), "the word of the close")
            await own.execute(
                CLOSE_ALL_OTHERS
            )  # the watch's own is the last: so it may be where a server goes down
            await own.close()
            await until(lambda: rig.database.trouble is not None, "the word that it is away")
            await held.fetchval("SELECT 1")

    async with watching(rig):
        with pytest.raises(DatabaseUnavailable):
            await hold_one()
        await until(lambda: rig.database.trouble is None, "its return")


async def test_a_postgres_that_hangs_is_found_in_time_and_found_again(
    rig: EventsRig, stack: LocalStack
) -> None:
    async with watching(rig):
        async with rig.database.connection() as connection:
            waiting = asyncio.create_task(connection.execute("SELECT pg_sleep(120)"))
            await asyncio.sleep(0)
            with frozen(stack.server("postgres")):
                began = time.monotonic()
                with pytest.raises(Exception, match="connection"):
                    await waiting  # cut off, though its own deadline is far away
                assert time.monotonic() - began < DEADLINE_S + PERIOD_S + SLACK_S
                with pytest.raises(DatabaseUnavailable, match="away"):
                    async with rig.database.connection():
                        pass
        await until(lambda: rig.database.trouble is None, "PostgreSQL")
        async with rig.database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
