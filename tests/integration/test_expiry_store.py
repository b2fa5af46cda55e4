"""The timers table on a real PostgreSQL: versions, claims, marks, tombstones."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta

import pytest

from deploy.local.stack import LocalStack
from expiry.store import CLAIM, TimerStore
from tests.integration.wrong_clock import with_wrong_clock
from weelo_common.migrate import migrate
from weelo_common.postgres import Connection, Database, database_now
from weelo_common.settings import PostgresSettings

FRESH_S = 1.0
STORE = TimerStore()


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    prefix = f"ex{secrets.token_hex(3)}_"
    yield stack.provision(prefix)["expiry"]
    stack.remove(prefix)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database.open(PostgresSettings(postgres_dsn=dsn), application_name="test") as database:
        async with database.connection() as conn:
            await migrate(conn, ["weelo_common", "expiry"])
            await conn.execute("TRUNCATE timers")
        yield database


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Connection]:
    async with database.connection() as conn:
        yield conn


async def schedule(
    conn: Connection,
    key: str = "order-expiry:o-1",
    *,
    version: int = 1,
    due_in_s: float = -0.1,
    partition: int = 0,
) -> bool:
    return await STORE.schedule(
        conn,
        key=key,
        version=version,
        partition=partition,
        owner="order-api",
        due_at=await database_now(conn) + timedelta(seconds=due_in_s),
        payload='{"wave":1}',
        order_id="o-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


async def cancel(conn: Connection, key: str = "order-expiry:o-1", *, version: int = 1) -> bool:
    return await STORE.cancel(conn, key=key, version=version, partition=0, order_id=None, traceparent=None)


async def claim(conn: Connection, partition: int = 0, limit: int = 10) -> list[str]:
    found = await STORE.claim(conn, partition, fresh_s=FRESH_S, limit=limit)
    return [timer.key for timer in found.timers]


async def state(conn: Connection, key: str = "order-expiry:o-1") -> tuple[str, int]:
    row = await conn.fetchrow("SELECT state, version FROM timers WHERE timer_key = $1", key)
    assert row is not None
    return row["state"], row["version"]


async def test_a_higher_version_moves_a_timer_and_a_lower_or_equal_one_is_ignored(conn: Connection) -> None:
    assert await schedule(conn, version=2, due_in_s=-1)
    assert not await schedule(conn, version=2, due_in_s=60)
    assert not await schedule(conn, version=1, due_in_s=60)
    assert await schedule(conn, version=3, due_in_s=60)
    assert await claim(conn) == []
    assert await state(conn) == ("pending", 3)


async def test_a_timer_due_in_the_past_is_claimed_at_once_and_only_once(conn: Connection) -> None:
    await schedule(conn, due_in_s=-3600)
    assert await claim(conn) == ["order-expiry:o-1"]
    assert await claim(conn) == []


async def test_a_timer_is_never_claimed_before_the_databases_clock_says_so(conn: Connection) -> None:
    await schedule(conn, due_in_s=30)
    found = await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)
    assert found.timers == []
    assert found.next_due_s == pytest.approx(30, abs=1)


async def test_the_databases_clock_and_not_the_processs_says_what_is_due(
    dsn: str, database: Database
) -> None:
    slow = await with_wrong_clock(dsn, -timedelta(hours=1))
    async with (
        Database.open(PostgresSettings(postgres_dsn=slow), application_name="test") as behind,
        behind.connection() as conn,
    ):
        await schedule(conn, due_in_s=60)  # long past by this process's clock
        found = await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)
        assert found.timers == []
        assert found.next_due_s == pytest.approx(60, abs=5)
    async with database.connection() as conn:
        assert await claim(conn) == ["order-expiry:o-1"]


async def test_a_claimed_timer_carries_what_was_scheduled(conn: Connection) -> None:
    await schedule(conn, due_in_s=-2)
    (timer,) = (await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)).timers
    assert (timer.owner, timer.version, timer.payload, timer.order_id) == (
        "order-api",
        1,
        '{"wave":1}',
        "o-1",
    )
    assert timer.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert timer.late_s == pytest.approx(2, abs=0.5)


async def test_a_claim_takes_only_its_own_partition(conn: Connection) -> None:
    await schedule(conn, "order-expiry:here", partition=3)
    await schedule(conn, "order-expiry:there", partition=4)
    assert await claim(conn, partition=3) == ["order-expiry:here"]


async def test_a_cancelled_timer_is_not_claimed(conn: Connection) -> None:
    await schedule(conn)
    assert await cancel(conn)
    assert await claim(conn) == []


async def test_a_late_lower_version_does_not_revive_a_cancelled_timer(conn: Connection) -> None:
    await schedule(conn, version=2)
    await cancel(conn, version=3)
    assert not await schedule(conn, version=3)
    assert await schedule(conn, version=4)


async def test_a_cancel_that_overtakes_its_timer_keeps_it_from_being_scheduled(conn: Connection) -> None:
    assert await cancel(conn, version=2)
    assert not await schedule(conn, version=1)
    assert not await schedule(conn, version=2)
    assert await schedule(conn, version=3)


async def test_a_cancel_of_an_older_version_leaves_a_moved_timer_alone(conn: Connection) -> None:
    await schedule(conn, version=2)
    assert not await cancel(conn, version=1)
    assert await claim(conn) == ["order-expiry:o-1"]


async def test_a_cancel_of_a_timer_that_is_firing_comes_too_late(conn: Connection) -> None:
    await schedule(conn)
    await claim(conn)
    assert not await cancel(conn, version=1)
    assert await state(conn) == ("firing", 1)


async def test_a_fired_timer_keeps_its_version_and_a_higher_one_revives_it(conn: Connection) -> None:
    await schedule(conn)
    found = await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)
    await STORE.mark_fired(conn, found.timers)
    assert await state(conn) == ("fired", 1)
    assert not await schedule(conn, version=1)
    assert await schedule(conn, version=2)


async def test_marking_an_old_firing_leaves_the_moved_timer_pending(conn: Connection) -> None:
    await schedule(conn, version=1)
    found = await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)
    await schedule(conn, version=2, due_in_s=60)
    await STORE.mark_fired(conn, found.timers)
    assert await state(conn) == ("pending", 2)


async def test_firings_that_nobody_finished_are_found_again_as_they_were(conn: Connection) -> None:
    await schedule(conn)
    found = await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=10)
    assert await STORE.unfinished(conn, 0, older_than_s=0, limit=10) == list(found.timers)
    assert await STORE.unfinished(conn, 0, older_than_s=60, limit=10) == []
    assert await STORE.unfinished(conn, 1, older_than_s=0, limit=10) == []


async def test_a_backlog_is_claimed_oldest_first_and_does_not_delay_what_is_due_now(conn: Connection) -> None:
    for number in range(5):
        await schedule(conn, f"order-expiry:old-{number}", due_in_s=-3600 + number)
    await schedule(conn, "order-expiry:new", due_in_s=-0.1)
    assert await claim(conn, limit=2) == ["order-expiry:old-0", "order-expiry:old-1", "order-expiry:new"]
    assert await claim(conn, limit=2) == ["order-expiry:old-2", "order-expiry:old-3"]


async def test_a_row_that_a_command_holds_is_passed_over_and_taken_by_the_next_claim(
    database: Database,
) -> None:
    async with database.connection() as other:
        await schedule(other)
        await schedule(other, "order-expiry:o-2")
        async with database.transaction() as holder:
            await schedule(holder, version=2, due_in_s=-0.1)
            assert await claim(other) == ["order-expiry:o-2"]
        assert await claim(other) == ["order-expiry:o-1"]


async def test_only_tombstones_past_their_day_are_dropped_in_bounded_batches(conn: Connection) -> None:
    for number in range(3):
        await cancel(conn, f"order-expiry:gone-{number}")
    await conn.execute("UPDATE timers SET updated_at = clock_timestamp() - interval '25 hours'")
    await cancel(conn, "order-expiry:fresh")
    await schedule(conn, "order-expiry:pending")
    day_s = 24 * 3600.0
    assert await STORE.drop_tombstones(conn, older_than_s=day_s, limit=2) == 2
    assert await STORE.drop_tombstones(conn, older_than_s=day_s, limit=2) == 1
    assert await STORE.drop_tombstones(conn, older_than_s=day_s, limit=2) == 0
    assert await conn.fetchval("SELECT count(*) FROM timers") == 2


async def test_a_payload_that_jsonb_would_refuse_comes_back_unchanged(conn: Connection) -> None:
    payload = '{"a":"\\u0000","b":1e400,"a":"twice"}'
    now: datetime = await database_now(conn)
    await STORE.schedule(
        conn,
        key="x:1",
        version=1,
        partition=0,
        owner="o",
        due_at=now,
        payload=payload,
        order_id=None,
        traceparent=None,
    )
    (timer,) = (await STORE.claim(conn, 0, fresh_s=FRESH_S, limit=1)).timers
    assert timer.payload == payload


async def test_the_claim_reads_only_what_is_due_from_the_index(conn: Connection) -> None:
    await conn.execute(
        """INSERT INTO timers (timer_key, version, partition, state, owner, due_at, payload)
           SELECT 'order-expiry:' || n, 1, n % 12, 'pending', 'order-api',
                  clock_timestamp() + interval '1 hour' + n * interval '1 ms', '{}'
           FROM generate_series(1, 20000) AS n"""
    )
    await conn.execute("ANALYZE timers")
    await schedule(conn, "order-expiry:due")
    plan = await conn.fetch(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + CLAIM, 0, timedelta(seconds=FRESH_S), 10
    )
    text = "\n".join(row[0] for row in plan)
    assert "Index Cond: ((partition = 0) AND (due_at <=" in text
    assert "Rows Removed by Filter" not in text
