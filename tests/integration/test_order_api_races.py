"""Races that PostgreSQL decides: captains against captains, against the customer, against time, against themselves.

The commands run straight on real rows, without HTTP around them; the events they append stay in the outbox, where the
end of each test reads them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from deploy.local.stack import LocalStack
from order_api import store
from order_api.decision import Refusal
from order_api.domain import Line, NewOrder, create
from order_api.errors import AcceptLost
from order_api.handlers import Touched
from order_api.intake import ENDPOINT
from order_api.model import TruckStatus
from order_api.new_orders import CreateLost, KeptAnswer, MadeOrder, insert_orders
from tests.integration.order_api_rig import PATIENCE_S, Bench, Home, order_api_bench, order_api_home
from tests.integration.wrong_clock import with_wrong_clock
from weelo_common.events import Place
from weelo_common.ids import new_id
from weelo_common.postgres import Connection, database_now
from weelo_common.record_batches import decode_headers

PLACE = Place(latitude=28.5, longitude=77.3, address="x")
COUNT_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = current_user"
)
END_NOW = "UPDATE orders SET expires_at = date_trunc('milliseconds', clock_timestamp()) WHERE id = $1"


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest.fixture
async def bench(home: Home) -> AsyncIterator[Bench]:
    async with order_api_bench(home) as made:
        yield made


async def made(bench: Bench, trucks: int = 1, lifetime: timedelta = timedelta(seconds=60)) -> str:
    """The id of a new order of a new customer."""
    (order_id,) = await made_many(bench, 1, trucks, lifetime)
    return order_id


async def made_many(
    bench: Bench, count: int, trucks: int, lifetime: timedelta = timedelta(seconds=60)
) -> list[str]:
    """The ids of new orders of as many new customers, made in one transaction."""
    line = Line("TRUCK", "TATA_ACE", trucks, 500)
    made_ids = []
    async with bench.database.transaction() as connection:
        for _ in range(count):
            wish = NewOrder(f"c-{new_id()}", "", "", PLACE, PLACE, 5, None, None, (line,))
            now = await database_now(connection)
            decision = create(wish, now=now, lifetime=lifetime, new_id=new_id)
            await insert_orders(connection, [MadeOrder(decision.order, None)], endpoint=ENDPOINT)
            await bench.outbox.append(connection, decision.events, at=now)
            made_ids.append(decision.order.id)
    return made_ids


async def tried(bench: Bench, order_id: str, captain_id: str) -> Touched | Refusal:
    """The captain's accept: what he got, or why not."""
    try:
        return await bench.orders.accept(
            order_id, captain_id=captain_id, offer_token=bench.offer(order_id, captain_id)
        )
    except AcceptLost as lost:
        return lost.refusal


async def held(connection: Connection, order_id: str) -> None:
    """Hold the order's row, as a command in another process does."""
    await connection.execute("SELECT FROM orders WHERE id = $1 FOR UPDATE", order_id)


async def until_waiting(bench: Bench, count: int) -> None:
    """Wait until so many transactions wait for a lock."""
    async with bench.database.connection() as connection, asyncio.timeout(PATIENCE_S):
        while await connection.fetchval(COUNT_WAITING) < count:  # noqa: ASYNC110 - PostgreSQL sends no signal
            await asyncio.sleep(0.005)


async def events_in_order(bench: Bench, order_id: str) -> list[tuple[str, int]]:
    """Class and version of each order event of an order, as the relay would publish them."""
    async with bench.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT headers, payload FROM outbox WHERE key = $1 AND topic = 'orders.events.v1' ORDER BY id",
            order_id,
        )
    return [
        (
            dict(decode_headers(row["headers"]))["ce_type"].decode().split(".")[2],
            json.loads(row["payload"])["orderVersion"],
        )
        for row in rows
    ]


async def test_two_captains_for_two_trucks_both_win(bench: Bench) -> None:
    for order_id in await made_many(bench, 1000, 2, timedelta(minutes=10)):
        first, second = await asyncio.gather(
            tried(bench, order_id, f"k-{new_id()}"), tried(bench, order_id, f"k-{new_id()}")
        )
        assert isinstance(first, Touched)
        assert isinstance(second, Touched)
        assert first.truck is not None
        assert second.truck is not None
        assert first.truck.id != second.truck.id
        assert max(first.order.trucks_filled, second.order.trucks_filled) == 2
    assert await events_in_order(bench, order_id) == [
        ("created", 1),
        ("truck_assigned", 2),
        ("truck_assigned", 3),
        ("fully_filled", 4),
    ]


async def test_of_fifty_captains_for_one_truck_one_wins_and_the_others_are_told_it_is_taken(
    bench: Bench,
) -> None:
    for _ in range(10):
        order_id = await made(bench)
        outcomes = await asyncio.gather(*(tried(bench, order_id, f"k-{new_id()}") for _ in range(50)))
        counts = Counter("won" if isinstance(outcome, Touched) else outcome for outcome in outcomes)
        assert counts == {"won": 1, Refusal.TRUCK_REQUEST_TAKEN: 49}


async def test_a_captain_who_accepts_two_orders_at_once_gets_one(bench: Bench) -> None:
    for _ in range(50):
        captain = f"k-{new_id()}"
        orders = [await made(bench), await made(bench)]
        outcomes = await asyncio.gather(*(tried(bench, order_id, captain) for order_id in orders))
        counts = Counter("won" if isinstance(outcome, Touched) else outcome for outcome in outcomes)
        assert counts == {"won": 1, Refusal.CAPTAIN_BUSY: 1}


async def test_an_accept_that_waits_for_the_captains_other_order_to_commit_is_told_that_he_is_busy(
    bench: Bench,
) -> None:
    captain = f"k-{new_id()}"
    first, second = await made(bench), await made(bench)
    async with bench.database.transaction() as connection:
        await held(connection, first)
        await connection.execute(
            "UPDATE truck_requests SET status = 'assigned', captain_id = $2 WHERE order_id = $1",
            first,
            captain,
        )
        other = asyncio.create_task(tried(bench, second, captain))
        await until_waiting(bench, 1)  # at the unique index of running truck requests
    assert await other is Refusal.CAPTAIN_BUSY
    assert await events_in_order(bench, second) == [("created", 1)]


async def test_a_captain_who_taps_twice_gets_one_truck(bench: Bench) -> None:
    for _ in range(50):
        order_id, captain = await made(bench, 2), f"k-{new_id()}"
        outcomes = await asyncio.gather(*(tried(bench, order_id, captain) for _ in range(3)))
        assert all(isinstance(outcome, Touched) for outcome in outcomes)
        assert len({outcome.truck for outcome in outcomes if isinstance(outcome, Touched)}) == 1
        assert await events_in_order(bench, order_id) == [("created", 1), ("truck_assigned", 2)]


async def test_accept_against_cancel_leaves_a_cancelled_order_and_a_free_captain(bench: Bench) -> None:
    seen = set()
    for number in range(60):
        order_id, captain = await made(bench), f"k-{new_id()}"
        customer_id = await bench.value("SELECT customer_id FROM orders WHERE id = $1", order_id)
        racers = [
            tried(bench, order_id, captain),
            bench.orders.cancel(order_id, customer_id=customer_id, reason=None),
        ]
        outcomes = await asyncio.gather(*(racers if number % 2 else reversed(racers)))
        accepted = outcomes[0 if number % 2 else 1]
        assert isinstance(accepted, Touched) or accepted is Refusal.ORDER_CANCELLED
        assert await bench.value("SELECT status FROM orders WHERE id = $1", order_id) == "cancelled"
        won = isinstance(accepted, Touched)
        seen.add(won)
        told = await events_in_order(bench, order_id)
        names = ["created", "truck_assigned", "fully_filled", "cancelled", "truck_released"]
        assert told == list(zip(names if won else ["created", "cancelled"], range(1, 6), strict=False))
        assert isinstance(await tried(bench, await made(bench), captain), Touched)
    assert seen == {True, False}


async def test_an_accept_that_waited_for_the_lock_past_the_end_is_too_late(bench: Bench) -> None:
    order_id = await made(bench)
    async with bench.database.transaction() as connection:
        await held(connection, order_id)
        waiting = asyncio.create_task(tried(bench, order_id, "k-late"))
        await until_waiting(bench, 1)
        assert not await connection.fetchval(
            "SELECT expires_at <= clock_timestamp() FROM orders WHERE id = $1", order_id
        )
        await connection.execute(END_NOW, order_id)
    assert await waiting is Refusal.ORDER_EXPIRED
    assert await events_in_order(bench, order_id) == [("created", 1), ("expired", 2)]


async def test_accept_and_the_end_by_time_never_both_win(bench: Bench) -> None:
    seen = set()
    for lifetime_ms in (
        0,
        2,
        5,
        10,
        20,
        50,
        100,
        20_000,
    ) * 5:  # the first is over at once, the last is long enough
        order_id = await made(bench, lifetime=timedelta(milliseconds=lifetime_ms))
        outcome, ended = await asyncio.gather(
            tried(bench, order_id, f"k-{new_id()}"), _ended_in_time(bench, order_id)
        )
        told = [name for name, _ in await events_in_order(bench, order_id)]
        if isinstance(outcome, Touched):
            assert outcome.now < ended.order.expires_at
            assert told == ["created", "truck_assigned", "fully_filled"]
        else:
            assert outcome is Refusal.ORDER_EXPIRED
            assert told == ["created", "expired"]
        seen.add(isinstance(outcome, Touched))
    assert seen == {True, False}


async def _ended_in_time(bench: Bench, order_id: str) -> Touched:
    """Touch the order until its search is over, as the timer, the sweep and every read do."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            touched = await bench.orders.end_if_overdue(order_id)
            if not touched.order.searching:
                return touched


async def test_the_databases_clock_and_not_the_processs_says_when_a_search_is_over(home: Home) -> None:
    slow = await with_wrong_clock(home.values["postgres_dsn"], -timedelta(hours=1))
    behind = replace(home, values=home.values | {"postgres_dsn": slow})
    async with order_api_bench(behind) as bench:
        order_id = await made(bench)  # its end is long past by this process's clock
        assert isinstance(await tried(bench, order_id, f"k-{new_id()}"), Touched)
    async with order_api_bench(home) as bench:
        assert await bench.value("SELECT expires_at < clock_timestamp() FROM orders WHERE id = $1", order_id)


async def test_a_row_that_changed_without_its_lock_is_not_overwritten(bench: Bench) -> None:
    order_id = await made(bench)
    async with bench.database.transaction() as connection:
        loaded = await store.load_order(connection, order_id)
        assert loaded is not None
        before, _ = loaded
        await connection.execute("UPDATE orders SET version = version + 1 WHERE id = $1", order_id)
        with pytest.raises(store.OrderChangedUnlocked):
            await store.save_order(connection, before, replace(before, version=before.version + 1))


async def test_no_two_running_truck_requests_of_a_captain_can_be_written(bench: Bench) -> None:
    first, second = await made(bench), await made(bench)
    await tried(bench, first, "k-index")
    async with bench.database.connection() as connection:
        loaded = await store.load_order(connection, second)
        assert loaded is not None
        before, _ = loaded
        truck = replace(before.trucks[0], status=TruckStatus.ASSIGNED, captain_id="k-index")
        with pytest.raises(store.CaptainHasRunningTruck):
            await store.save_order(connection, before, replace(before, trucks=(truck,)))


async def test_a_key_keeps_one_answer_even_when_the_order_of_its_first_create_is_over(bench: Bench) -> None:
    line = Line("TRUCK", "TATA_ACE", 1, 500)
    wish = NewOrder(f"c-{new_id()}", "", "", PLACE, PLACE, 5, None, None, (line,))
    answer = KeptAnswer("key-1", b"f" * 32, 201, b"{}")

    async def create_under_the_key() -> str:
        async with bench.database.transaction() as connection:
            now = await database_now(connection)
            order = create(wish, now=now, lifetime=timedelta(seconds=60), new_id=new_id).order
            await insert_orders(connection, [MadeOrder(order, answer)], endpoint=ENDPOINT)
            return order.id

    first = await create_under_the_key()
    await bench.orders.cancel(first, customer_id=wish.customer_id, reason=None)
    with pytest.raises(CreateLost):  # a twin that had looked before the first committed
        await create_under_the_key()


@pytest.mark.parametrize(
    "damage",
    [
        """
        INSERT INTO idempotency_records (customer_id, endpoint, key, fingerprint, status, body, order_id, created_at)
        SELECT customer_id, 'POST /orders', unnest(ARRAY['one', 'two']), '', 201, '', id, created_at
          FROM orders WHERE id = $1""",
        """
        INSERT INTO truck_requests (id, order_id, request_number, vehicle_type, vehicle_subtype, price_per_truck,
                                    status, created_at, updated_at)
        SELECT gen_random_uuid(), order_id, request_number, vehicle_type, vehicle_subtype, price_per_truck,
               status, created_at, updated_at FROM truck_requests WHERE order_id = $1""",
    ],
    ids=["two kept answers of one order", "two truck requests of one number"],
)
async def test_what_must_be_there_once_cannot_be_written_twice(bench: Bench, damage: str) -> None:
    order_id = await made(bench)
    async with bench.database.connection() as connection:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(damage, order_id)
