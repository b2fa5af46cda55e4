"""After ten minutes' downtime: 20,000 timers are overdue, and new ones come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.stack import LocalStack
from expiry.main import build
from tests.integration.expiry_processes import Client, client_of
from tests.integration.expiry_rig import TOPICS, Bench, bench_on, create_topics, expiry_database, settings_for
from weelo_common.events.timers import TimerFired, TimerScheduled
from weelo_common.lifecycle import running

OVERDUE = 20_000
DOWNTIME_S = 600
DEADLINE_S = 60.0
BATCH = 200  # small, so that the backlog takes a hundred rounds
PARTITIONS = 12
FRESH_S = 20  # what is later counts as backlog: a new timer must not, though the machine stalls
# Service, client and servers share the machine's cores, so a slow one is given a share of the time that the backlog
# took it. Whoever waited for the backlog's end would be late by the whole of it.
ON_TIME = timedelta(seconds=2)
ON_TIME_SHARE = 0.5

FILL = """
INSERT INTO timers (timer_key, version, partition, state, owner, due_at, payload, order_id)
SELECT 'order-expiry:old-' || number, 1, number % $2, 'pending', 'order-api',
       clock_timestamp() - interval '1 second' * $3::float8 * (1 - number / $1::float8), '{}', 'old-' || number
FROM generate_series(0, $1::integer - 1) AS number
"""


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


@pytest.fixture
async def bench(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    async with bench_on(settings_for(stack, dsn, fire_batch_timers=BATCH, fire_fresh_s=FRESH_S)) as bench:
        await create_topics(bench.kafka, *TOPICS)
        yield bench


def is_old(event: TimerFired) -> bool:
    return event.timer_key.startswith("order-expiry:old-")


async def schedule_new(client: Client, number: int) -> None:
    now = datetime.now(UTC)
    await client.send(
        TimerScheduled(
            timer_key=f"order-expiry:new-{number}",
            version=1,
            owner="order-api",
            due_at=now + timedelta(seconds=0.3),
            order_id=f"new-{number}",
        )
    )


async def test_20_000_overdue_timers_fire_oldest_first_while_new_ones_are_on_time(bench: Bench) -> None:
    async with bench.database.connection() as conn:
        await conn.execute(FILL, OVERDUE, PARTITIONS, DOWNTIME_S)
        await conn.execute("ANALYZE timers")
    new = 0
    async with client_of(bench.kafka) as client, running(build, bench.settings):
        await client.until(lambda: bool(client.fired), "expiry has begun to fire", DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            while len(client.fired) < OVERDUE:
                await schedule_new(client, new)
                new += 1
                await asyncio.sleep(0.02)
        await client.until(lambda: len(client.fired) == OVERDUE + new, "all have fired", DEADLINE_S)
        events = [events[0] for events in client.fired.values()]
    old = [event for event in events if is_old(event)]
    fresh = [event for event in events if not is_old(event)]
    assert len(old) == OVERDUE
    assert len(fresh) == new
    assert all(len(ids) == 1 for ids in client.ids.values())

    backlog_began, backlog_ended = min(event.fired_at for event in old), max(event.fired_at for event in old)
    amid = [event for event in fresh if event.fired_at < backlog_ended]
    assert len(amid) >= 5, "the backlog was gone before new timers came: make it larger"
    worst = max(event.fired_at - event.due_at for event in amid)
    on_time = max(ON_TIME, ON_TIME_SHARE * (backlog_ended - backlog_began))
    assert worst < on_time, f"a new timer was {worst} late amid the backlog; {on_time} would do"

    # Oldest first, apart from the partitions' turns: no timer fires before one that is due two turns earlier. The last
    # of them were not overdue by much when expiry started: those count as new.
    last_due = max(event.due_at for event in old)
    backlog = [event for event in old if event.due_at < last_due - timedelta(seconds=FRESH_S + 10)]
    by_due = sorted(backlog, key=lambda event: event.due_at)
    turns = sorted({event.fired_at for event in old})
    turn_of = {moment: number for number, moment in enumerate(turns)}
    for earlier, later in zip(by_due, by_due[2 * BATCH * PARTITIONS :], strict=False):
        assert turn_of[earlier.fired_at] < turn_of[later.fired_at]
