"""The timers table on a real PostgreSQL: versions, claims, marks, tombstones."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.stack import LocalStack
from expiry.domain import Firing
from expiry.store import CLAIM_BACKLOG, CLAIM_HELD, LOAD, Cancel, Schedule, TimerStore
from tests.integration.expiry_rig import expiry_database
from tests.integration.service_rig import UNHURRIED
from tests.integration.wrong_clock import with_wrong_clock
from weelo_common.migrate import CREATE_LEDGER, INSERT_APPLIED, migrate, migrations_of
from weelo_common.postgres import Connection, Database, database_now
from weelo_common.settings import PostgresSettings

STORE = TimerStore()


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings.model_validate({"postgres_dsn": dsn, **UNHURRIED})


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database.open(settings_of(dsn), application_name="test") as database:
        async with database.connection() as conn:
            await migrate(conn, ["weelo_common", "expiry"])
            await conn.execute("TRUNCATE timers, firings")
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
    timer = Schedule(
        key=key,
        version=version,
        partition=partition,
        owner="order-api",
        due_at=await database_now(conn) + timedelta(seconds=due_in_s),
        payload='{"wave":1}',
        order_id="o-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    saved = await STORE.schedule(conn, timer)
    return saved.id is not None


async def cancel(conn: Connection, key: str = "order-expiry:o-1", *, version: int = 1) -> bool:
    return await STORE.cancel(conn, Cancel(key, version, 0, order_id=None, traceparent=None))


async def firing_of(conn: Connection, partition: int = 0, limit: int = 10) -> Firing:
    found = await STORE.claim_backlog(conn, partition, limit=limit)
    assert found is not None
    return found


async def claim(conn: Connection, partition: int = 0, limit: int = 10) -> list[str]:
    found = await STORE.claim_backlog(conn, partition, limit=limit)
    return [timer.key for timer in sorted(found.timers)] if found else []


async def ids(conn: Connection) -> list[int]:
    return [row["id"] for row in await conn.fetch("SELECT id FROM timers ORDER BY id")]


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
    assert await claim(conn) == []
    assert await STORE.claim_held(conn, await ids(conn)) is None


async def test_the_databases_clock_and_not_the_processs_says_what_is_due(
    dsn: str, database: Database
) -> None:
    slow = await with_wrong_clock(dsn, -timedelta(hours=1))
    async with (
        Database.open(settings_of(slow), application_name="test") as behind,
        behind.connection() as conn,
    ):
        await schedule(conn, due_in_s=60)  # long past by this process's clock
        assert await claim(conn) == []
        assert await STORE.claim_held(conn, await ids(conn)) is None
    async with database.connection() as conn:
        assert await claim(conn) == ["order-expiry:o-1"]


async def test_a_claimed_timer_carries_what_was_scheduled(conn: Connection) -> None:
    earliest = await database_now(conn)
    await schedule(conn, due_in_s=-2)
    scheduled = await database_now(conn)
    firing = await firing_of(conn)
    (timer,) = firing.timers
    assert (timer.key, timer.owner, timer.version, timer.partition) == ("order-expiry:o-1", "order-api", 1, 0)
    assert (timer.payload, timer.order_id) == ('{"wave":1}', "o-1")
    assert timer.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert earliest <= datetime.fromtimestamp(timer.due_ms / 1000 + 2, UTC) <= scheduled
    assert scheduled <= firing.fired_at <= await database_now(conn) + timedelta(milliseconds=1)


async def test_of_the_timers_that_memory_names_only_pending_and_due_ones_are_claimed(
    conn: Connection,
) -> None:
    for number, due_in_s in enumerate((-0.1, -0.1, 60)):
        await schedule(conn, f"order-expiry:{number}", due_in_s=due_in_s, partition=number)
    await cancel(conn, "order-expiry:1")
    named = [*await ids(conn), 987_654_321]
    firing = await STORE.claim_held(conn, named)
    assert firing is not None
    assert [timer.key for timer in firing.timers] == ["order-expiry:0"]
    assert await STORE.claim_held(conn, named) is None


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


async def test_a_cancel_of_a_timer_that_was_claimed_comes_too_late(conn: Connection) -> None:
    await schedule(conn)
    await claim(conn)
    assert not await cancel(conn, version=1)
    assert await state(conn) == ("fired", 1)


async def test_a_fired_timer_keeps_its_version_and_a_higher_one_revives_it(conn: Connection) -> None:
    await schedule(conn)
    await STORE.finish(conn, [(await firing_of(conn)).id])
    assert await state(conn) == ("fired", 1)
    assert not await schedule(conn, version=1)
    assert await schedule(conn, version=2)


async def test_finishing_an_old_firing_leaves_the_moved_timer_pending(conn: Connection) -> None:
    await schedule(conn, version=1)
    firing = await firing_of(conn)
    await schedule(conn, version=2, due_in_s=60)
    await STORE.finish(conn, [firing.id])
    assert await state(conn) == ("pending", 2)


async def test_firings_that_nobody_finished_are_found_again_as_they_were_by_one_finder(
    conn: Connection,
) -> None:
    await schedule(conn)
    firing = await firing_of(conn)
    assert await STORE.take_abandoned(conn, older_than_s=60, limit=10) == []
    await conn.execute("UPDATE firings SET worked_at = worked_at - interval '2 minutes'")
    assert await STORE.take_abandoned(conn, older_than_s=60, limit=10) == [firing]
    assert await STORE.take_abandoned(conn, older_than_s=60, limit=10) == []


async def test_a_firing_found_again_leaves_out_what_was_moved_or_is_gone(conn: Connection) -> None:
    for number in range(3):
        await schedule(conn, f"order-expiry:{number}")
    firing = await firing_of(conn)
    await schedule(conn, "order-expiry:0", version=2, due_in_s=60)
    await schedule(conn, "order-expiry:1", version=2)
    again = await firing_of(conn)  # the moved one has fired at its new version
    assert [timer.key for timer in again.timers] == ["order-expiry:1"]
    found = await STORE.take_abandoned(conn, older_than_s=0, limit=10)
    assert [(one.id, [timer.key for timer in one.timers]) for one in found] == [
        (firing.id, ["order-expiry:2"]),
        (again.id, ["order-expiry:1"]),
    ]


async def test_a_firing_is_renewed_until_somebody_has_finished_it(conn: Connection) -> None:
    await schedule(conn)
    firing = await firing_of(conn)
    assert await STORE.renew(conn, firing)
    await STORE.finish(conn, [firing.id])
    assert not await STORE.renew(conn, firing)


async def test_a_backlog_is_claimed_oldest_first(conn: Connection) -> None:
    for number in (3, 0, 4, 1, 2):
        await schedule(conn, f"order-expiry:old-{number}", due_in_s=-3600 + number)
    assert set(await claim(conn, limit=2)) == {"order-expiry:old-0", "order-expiry:old-1"}
    assert set(await claim(conn, limit=2)) == {"order-expiry:old-2", "order-expiry:old-3"}
    assert await claim(conn, limit=2) == ["order-expiry:old-4"]


async def test_what_is_due_soon_is_loaded_in_order_and_in_slices(conn: Connection) -> None:
    for number in (2, 0, 3, 1, 4):
        await schedule(conn, f"order-expiry:{number}", due_in_s=600 + 60 * number)
    await schedule(conn, "order-expiry:elsewhere", due_in_s=660, partition=1)
    now = await database_now(conn)
    after, after_id = now, 0
    seen: list[int] = []
    while loaded := await STORE.load(
        conn, 0, after=after, after_id=after_id, until=now + timedelta(seconds=600 + 60 * 3.5), limit=2
    ):
        assert list(loaded.due_ms) == sorted(loaded.due_ms)
        assert loaded.due_ms[-1] == int(loaded.last_due.timestamp() * 1000)
        seen += loaded.ids
        after, after_id = loaded.last_due, loaded.ids[-1]
    keys = [await conn.fetchval("SELECT timer_key FROM timers WHERE id = $1", one) for one in seen]
    assert keys == [f"order-expiry:{number}" for number in range(4)]


async def test_partitions_with_overdue_timers_are_told(conn: Connection) -> None:
    await schedule(conn, "order-expiry:0", due_in_s=-600, partition=3)
    await schedule(conn, "order-expiry:1", due_in_s=-1, partition=4)
    await schedule(conn, "order-expiry:2", due_in_s=600, partition=5)
    assert await STORE.overdue(conn, range(12), older_than_s=300) == [3]
    assert await STORE.overdue(conn, range(12), older_than_s=0) == [3, 4]
    assert await STORE.overdue(conn, [5], older_than_s=0) == []


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


async def test_a_tombstone_stays_for_as_long_as_its_firing_is_not_finished(conn: Connection) -> None:
    await schedule(conn)
    await cancel(conn, "order-expiry:gone")
    firing = await firing_of(conn)
    await conn.execute("UPDATE timers SET updated_at = clock_timestamp() - interval '25 hours'")
    day_s = 24 * 3600.0
    assert await STORE.drop_tombstones(conn, older_than_s=day_s, limit=10) == 1
    assert await STORE.take_abandoned(conn, older_than_s=0, limit=10) == [firing]
    await STORE.finish(conn, [firing.id])
    assert await STORE.drop_tombstones(conn, older_than_s=day_s, limit=10) == 1


async def test_a_payload_that_jsonb_would_refuse_comes_back_unchanged(conn: Connection) -> None:
    payload = '{"a":"\\u0000","b":1e400,"a":"twice"}'
    now: datetime = await database_now(conn)
    await STORE.schedule(conn, Schedule("x:1", 1, 0, "o", now, payload, order_id=None, traceparent=None))
    (timer,) = (await firing_of(conn)).timers
    assert timer.payload == payload


MANY = """
INSERT INTO timers (timer_key, version, partition, state, owner, due_at, payload)
SELECT 'order-expiry:' || n, 1, n % 12, 'pending', 'order-api',
       clock_timestamp() + interval '1 hour' + n * interval '1 ms', '{}'
FROM generate_series(1, 20000) AS n
"""


async def plan_of(conn: Connection, statement: str, *arguments: object) -> str:
    rows = await conn.fetch("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement, *arguments)
    return "\n".join(row[0] for row in rows)


async def test_claims_and_loads_read_from_the_index_only_what_they_take(conn: Connection) -> None:
    await conn.execute(MANY)
    await conn.execute("ANALYZE timers")
    await schedule(conn, "order-expiry:due")
    now = await database_now(conn)
    hour_ahead = now + timedelta(hours=1, seconds=1)
    backlog = await plan_of(conn, CLAIM_BACKLOG, 0, 10)
    held = await plan_of(conn, CLAIM_HELD, (await ids(conn))[:10])
    load = await plan_of(conn, LOAD, 0, now, 0, hour_ahead, 50)
    assert "Index Cond: ((partition = 0) AND (due_at <=" in backlog
    assert "Index Cond: (id = ANY (" in held
    assert "Index Only Scan using timers_due" in load
    for plan in (backlog, held, load):
        assert "Seq Scan on timers" not in plan
        assert "Rows Removed by Filter: 1999" not in plan


AN_OLD_CLAIM = "UPDATE timers SET state = 'firing', fired_at = clock_timestamp() WHERE timer_key = 'x:1'"
IS_WAITED_FOR = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'timers'::regclass AND NOT granted)"


async def test_what_an_old_process_claims_while_the_tables_change_is_fired_by_the_new_one(
    stack: LocalStack,
) -> None:
    prefix = f"ex{secrets.token_hex(3)}_"
    settings = settings_of(stack.provision(prefix)["expiry"])
    try:
        async with Database.open(settings, application_name="test") as fresh:
            async with fresh.connection() as conn:
                for migration in migrations_of("expiry")[:1]:
                    await conn.execute(migration.sql)
                    await conn.execute(CREATE_LEDGER)
                    await conn.execute(INSERT_APPLIED, migration.name, migration.checksum)
                await schedule(conn, "x:1")
            async with fresh.connection() as old, fresh.connection() as new, fresh.connection() as looking:
                async with old.transaction():
                    await old.execute(AN_OLD_CLAIM)
                    migrating = asyncio.create_task(migrate(new, ["expiry"]))
                    give_up_at = time.monotonic() + 20
                    while not await looking.fetchval(IS_WAITED_FOR):
                        assert time.monotonic() < give_up_at, "the change never waited for the claim"
                        await asyncio.sleep(0.01)
                await migrating
                (firing,) = await STORE.take_abandoned(new, older_than_s=0, limit=10)
                assert [timer.key for timer in firing.timers] == ["x:1"]
    finally:
        stack.remove(prefix)
