"""The end of a search by time, over HTTP on real servers: by its timer, by whoever touches the order, by the sweep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deploy.local.stack import LocalStack
from order_api.store import LOCK_OVERDUE, SELECT_SEARCHING_ORDER
from tests.integration.order_api_rig import (
    PATIENCE_S,
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
from weelo_common.events import TimerFired, TimerScheduled
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


async def expires_at(rig: Rig, order_id: str) -> datetime:
    ends: datetime = await rig.value("SELECT expires_at FROM orders WHERE id = $1", order_id)
    return ends


async def scheduled(rig: Rig, order_id: str, *, version: int) -> TimerScheduled:
    """The scheduling of an order's end with that version, once it is told."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for envelope in await rig.events(TIMERS_COMMANDS, order_id, "TimerScheduled"):
                if isinstance(envelope.event, TimerScheduled) and envelope.event.version == version:
                    return envelope.event


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
    await settled(rig, fired(order_id, due_at=datetime.now(UTC)))  # as by hand: the clocks agree
    assert await rig.value("SELECT status FROM orders WHERE id = $1", order_id) == "active"
    assert (await scheduled(rig, order_id, version=2)).due_at == await expires_at(rig, order_id)


async def test_a_timer_by_a_clock_that_is_ahead_is_scheduled_again_for_later_and_not_for_now(
    rig: Rig,
) -> None:
    order_id = await made(rig.customer())
    ends = await expires_at(rig, order_id)
    await settled(rig, fired(order_id, due_at=ends + timedelta(hours=1)))
    early = (await scheduled(rig, order_id, version=2)).due_at - ends
    assert timedelta(seconds=2) < early <= timedelta(seconds=60)


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


async def test_an_order_that_cannot_be_read_keeps_no_other_from_its_end_and_the_service_goes_on(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with order_api(home, sweep_period_s=0.1) as rig:
        broken = await made(rig.customer())
        async with rig.database.connection() as connection:
            await connection.execute(
                'UPDATE orders SET pickup = \'{"address": "Noida"}\' WHERE id = $1', broken
            )
        good = await made(rig.customer())
        for order_id in (broken, good):  # the broken one is the first that the sweep comes to
            await rig.make_overdue(order_id)
        envelopes = await rig.events(ORDERS_EVENTS, good, "OrderExpired")
        assert told(envelopes)[-1] == ("OrderExpired", 2, "expired")
        assert (await rig.http.get("/health/ready")).status_code == 200
        async with rig.database.connection() as connection:  # nothing for the tests that follow
            await connection.execute(
                "UPDATE orders SET searching = false, search_end = 'time' WHERE id = $1", broken
            )
    (line, *_) = [
        record for record in caplog.records if record.getMessage() == "Overdue order cannot be read"
    ]
    assert (line.__dict__["orderId"], line.__dict__["reason"]) == (broken, "ValidationError")
    assert "Noida" not in caplog.text


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
