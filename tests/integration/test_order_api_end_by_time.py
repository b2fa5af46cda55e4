"""The end of a search by time, over HTTP on real servers: by its timer, by whoever touches the order, by the sweep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deploy.local.stack import LocalStack
from order_api.store import LOCK_OVERDUE, SELECT_SEARCHING_ORDER
from tests.integration.order_api_rig import (
    Home,
    Rig,
    data,
    made,
    order_api,
    order_api_bench,
    order_api_home,
    settled,
    told,
)
from weelo_common.events import TimerFired
from weelo_common.events.topics import ORDERS_EVENTS, TIMERS_COMMANDS


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


def fired(order_id: str, *, due_at: datetime, version: int = 1) -> TimerFired:
    return TimerFired(
        timer_key=f"order-expiry:{order_id}",
        owner="order-api",
        version=version,
        due_at=due_at,
        fired_at=due_at,
        order_id=order_id,
    )


async def test_a_fired_timer_ends_the_search(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer)
    await rig.make_overdue(order_id)
    await settled(rig, fired(order_id, due_at=datetime.now(UTC)))
    assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "expired"
    assert (await customer.create()).status_code == 201
    envelopes = await rig.events(ORDERS_EVENTS, order_id, "OrderExpired")
    assert told(envelopes)[-1] == ("OrderExpired", 2, "expired")


async def test_a_timer_of_an_order_that_ended_otherwise_changes_nothing(rig: Rig) -> None:
    customer = rig.customer()
    order_id = await made(customer)
    await customer.post(f"/orders/{order_id}/cancel")
    await settled(
        rig, fired(order_id, due_at=datetime.now(UTC)), fired(str(uuid4()), due_at=datetime.now(UTC))
    )
    assert await rig.value("SELECT version FROM orders WHERE id = $1", order_id) == 2


async def test_a_timer_far_too_early_is_scheduled_again_with_a_higher_version(rig: Rig) -> None:
    order_id = await made(rig.customer())
    await settled(rig, fired(order_id, due_at=datetime.now(UTC)))
    assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "active"
    assert await rig.value("SELECT timer_version FROM orders WHERE id = $1", order_id) == 2
    timers = [e.event for e in await rig.events(TIMERS_COMMANDS, order_id, "TimerScheduled")]
    assert timers[-1] is not None


async def test_a_timer_a_little_early_is_waited_for_in_place(home: Home) -> None:
    async with order_api(home, order_lifetime_s=1) as rig:
        order_id = await made(rig.customer())
        await settled(rig, fired(order_id, due_at=datetime.now(UTC) + timedelta(seconds=1)))
        assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "expired"
        assert await rig.value("SELECT timer_version FROM orders WHERE id = $1", order_id) == 1


async def test_the_sweep_ends_overdue_orders_that_nobody_touched_and_says_so(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="weelo_common.sweep")
    async with order_api(home, sweep_period_s=0.2) as rig:
        orders = [await made(rig.customer()) for _ in range(3)]
        for order_id in orders:
            await rig.make_overdue(order_id)
        for order_id in orders:
            envelopes = await rig.events(ORDERS_EVENTS, order_id, "OrderExpired")
            assert told(envelopes)[-1] == ("OrderExpired", 2, "expired")
    assert "CleanupJob" in [record.getMessage() for record in caplog.records]


async def test_a_read_of_an_overdue_order_ends_its_search(rig: Rig) -> None:
    customer = rig.customer()
    for read in ("/orders/{}", "/orders/{}/status", "/orders", "/orders/check-active"):
        order_id = await made(customer)
        await rig.make_overdue(order_id)
        answer = await customer.get(read.format(order_id))
        assert answer.status_code == 200
        assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "expired", read


async def test_a_create_that_meets_an_overdue_order_ends_its_search_and_counts_it(rig: Rig) -> None:
    customer = rig.customer()
    old = await made(customer)
    assert (await customer.create()).status_code == 409
    ended = {"noticed_by": "create"}
    counted = rig.life.registry.get_sample_value
    assert not counted("weelo_order_api_searches_ended_total", ended)
    await rig.make_overdue(old)
    new = data(await customer.create())["orderId"]
    assert await rig.value("SELECT status FROM orders WHERE id = $1", old) == "expired"
    assert await rig.value("SELECT status FROM orders WHERE id = $1", new) == "active"
    assert counted("weelo_order_api_searches_ended_total", ended) == 1


async def test_the_sweep_passes_over_an_order_that_somebody_holds(home: Home, rig: Rig) -> None:
    order_id = await made(rig.customer())
    await rig.make_overdue(order_id)
    async with order_api_bench(home) as bench:
        async with bench.database.transaction() as holder:
            await holder.execute("SELECT FROM orders WHERE id = $1 FOR UPDATE", order_id)
            async with bench.database.transaction() as sweeper:
                await bench.orders.end_overdue_batch(sweeper)
        assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "active"
        async with bench.database.transaction() as sweeper:
            assert await bench.orders.end_overdue_batch(sweeper) >= 1
    assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "expired"


async def test_a_look_for_a_customers_order_is_never_led_into_the_sweeps_index(home: Home) -> None:
    """Not even by statistics of a moment when nothing searched: it would walk through all that search now."""
    async with order_api_bench(home) as bench, bench.database.transaction() as connection:
        await connection.execute("UPDATE orders SET searching = false, search_end = 'time' WHERE searching")
        await connection.execute("ANALYZE orders")
        await connection.execute("SET LOCAL enable_seqscan = off")  # a small table is else read whole
        for number, sql in enumerate((SELECT_SEARCHING_ORDER, LOCK_OVERDUE)):
            await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE look{number} AS {sql}")
            rows = await connection.fetch(f"EXPLAIN EXECUTE look{number} ('1')")
            plan = "\n".join(row[0] for row in rows)
            await connection.execute(f"DEALLOCATE look{number}")
            used = "orders_overdue" if sql is LOCK_OVERDUE else "orders_one_searching_per_customer"
            assert used in plan, plan
