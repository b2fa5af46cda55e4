"""The inbox on a real PostgreSQL: one of two wins, and its days come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.stack import LocalStack
from tests.integration.events_rig import EventsRig, events_rig
from weelo_common.inbox import KEEP_DAYS, Registration, keep_inbox_days, register
from weelo_common.postgres import Connection, database_now
from weelo_common.sweep import Sweep, SweepJob

MAKE_DAY = "CREATE TABLE inbox_{day:%Y%m%d} PARTITION OF inbox FOR VALUES FROM ('{day}') TO ('{next}')"


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


async def note(connection: Connection, event_id: str, event_time: datetime) -> Registration:
    return await register(connection, consumer="c", event_id=event_id, event_time=event_time, key="k")


async def note_alone(rig: EventsRig, event_id: str, event_time: datetime) -> Registration:
    async with rig.database.transaction() as connection:
        return await note(connection, event_id, event_time)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_of_two_at_once_the_second_waits_for_the_first_and_is_fresh_only_if_that_failed(
    rig: EventsRig, first_commits: bool
) -> None:
    now = datetime.now(UTC)
    with contextlib.suppress(ZeroDivisionError):
        async with rig.database.transaction() as connection:
            assert (await note(connection, "e1", now)).fresh
            second = asyncio.create_task(note_alone(rig, "e1", now))
            await rig.lock_wait()
            if not first_commits:
                raise ZeroDivisionError
    assert (await second).fresh is not first_commits


async def test_a_repeat_is_recognised_whatever_day_it_comes_on(rig: EventsRig) -> None:
    happened = datetime.now(UTC) - timedelta(days=2)
    assert (await note_alone(rig, "e1", happened)).fresh
    assert not (await note_alone(rig, "e1", happened)).fresh
    async with rig.database.connection() as connection:
        assert await connection.fetchval("SELECT day FROM inbox") == happened.date()


async def test_days_past_keeping_are_dropped_whole_and_no_younger_one(rig: EventsRig) -> None:
    async with rig.database.transaction() as connection:
        today = (await database_now(connection)).date()
        for age in (KEEP_DAYS + 1, KEEP_DAYS - 1):
            day = today - timedelta(days=age)
            await connection.execute(MAKE_DAY.format(day=day, next=day + timedelta(days=1)))
        for age in (KEEP_DAYS + 1, KEEP_DAYS - 1, 0):
            await note(connection, f"{age} days old", datetime.now(UTC) - timedelta(days=age))
        await keep_inbox_days(connection)
        kept = await connection.fetch("SELECT event_id FROM inbox ORDER BY day")
    assert [row["event_id"] for row in kept] == [f"{KEEP_DAYS - 1} days old", "0 days old"]
    assert KEEP_DAYS > 7  # no topic keeps its events for longer


async def test_rows_that_came_before_their_days_partition_are_moved_into_it(rig: EventsRig) -> None:
    happened = datetime.now(UTC)
    assert (await note_alone(rig, "e1", happened)).fresh
    async with rig.database.transaction() as connection:
        assert await connection.fetchval("SELECT count(*) FROM inbox_default") == 1
        assert await keep_inbox_days(connection) > 0
        assert await connection.fetchval("SELECT count(*) FROM inbox_default") == 0
        assert await keep_inbox_days(connection) == 0
    assert not (await note_alone(rig, "e1", happened)).fresh


async def test_two_replicas_never_sweep_at_once(rig: EventsRig) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> int:
        begun.set()
        await go_on.wait()
        return 0

    first = Sweep("order-api", rig.database, [SweepJob("slow", slow)], period_s=60)
    second = Sweep("order-api", rig.database, [], period_s=60)
    sweeping = asyncio.create_task(first.run_once())
    await begun.wait()
    assert await second.run_once() == {}
    go_on.set()
    assert (await sweeping)["slow"] == 0
    assert "inboxDays" in await second.run_once()


async def test_a_job_that_fails_keeps_no_other_from_its_rows_and_the_sweep_goes_on(
    rig: EventsRig, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(connection: Connection) -> int:
        raise KeyError("a defect")

    batches = iter([3, 2, 0, 1, 0])

    async def good(connection: Connection) -> int:
        return next(batches)

    sweep = Sweep(
        "order-api", rig.database, [SweepJob("broken", broken), SweepJob("good", good)], period_s=60
    )
    for rows in (5, 1):
        done = await sweep.run_once()
        assert (done["broken"], done["good"]) == (0, rows)
    failed = [record for record in caplog.records if record.getMessage() == "CleanupJob failed"]
    assert [record.__dict__["job"] for record in failed] == ["broken", "broken"]
