"""order-api while what it leans on is away in the worst moment: Redis in the middle of a request, expiry for good."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from tests.e2e.city import City, new_subtype, order_body
from tests.faults.conftest import LIFETIME_S
from tests.faults.harm import kill_whole
from tests.integration.events_rig import PATIENCE_S, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

BLOCK_CREATES = "LOCK TABLE idempotency_records IN EXCLUSIVE MODE"
COUNT_BLOCKED = """
SELECT count(*) FROM pg_stat_activity
 WHERE wait_event_type = 'Lock' AND datname = current_database() AND usename = current_user
"""


async def test_redis_that_restarts_while_a_create_holds_its_lock_there_changes_nothing(city: City) -> None:
    customer, content, key = city.customer(), order_body(new_subtype()), str(uuid4())
    connection = await asyncpg.connect(city.stack.service_env("order-api")["POSTGRES_DSN"])
    try:
        async with connection.transaction():
            await connection.execute(BLOCK_CREATES)
            first = asyncio.create_task(customer.create(content, key))

            async def blocked() -> None:
                while not await connection.fetchval(COUNT_BLOCKED):  # noqa: ASYNC110 - PostgreSQL sends no signal
                    await asyncio.sleep(0.01)

            await asyncio.wait_for(blocked(), PATIENCE_S)  # past the lock in Redis, before the commit
            kill_whole(city.stack.server("redis"))
            city.stack.server("redis").start()  # empty: the lock, the rate and the scripts are gone
        created = await first
        await asyncio.to_thread(city.stack.wait_server, "redis")
    finally:
        await connection.close()
    if created.status == 503:  # the machine was slow, and PostgreSQL's lock was waited for too long
        created = await customer.create(content, key)
    assert created.status == 201
    again = await customer.create(content, key)
    assert (again.status, again.replayed, again.body) == (201, True, created.body)
    other = await customer.create(content, str(uuid4()))
    assert (other.status, other.code) == (409, "ACTIVE_ORDER_EXISTS")
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())


async def test_with_expiry_away_no_customer_is_locked_out_by_an_overdue_order(city: City) -> None:
    city.services["expiry"].kill()
    try:
        customers = [city.customer() for _ in range(5)]
        content = order_body(new_subtype())
        orders = [(await customer.create(content)).data["orderId"] for customer in customers]
        blocked = await customers[0].create(content)
        assert (blocked.status, blocked.code) == (409, "ACTIVE_ORDER_EXISTS")
        await asyncio.sleep(LIFETIME_S + 0.5)  # the orders' own length
        assert (await customers[0].create(content)).status == 201
        read = await customers[1].read(orders[1])
        assert (read.data["order"]["status"], read.data["order"]["searching"]) == ("expired", False)
        status = await customers[2].read(orders[2], "/status")
        assert (status.data["status"], status.data["isActive"]) == ("expired", False)
        cancelled = await customers[3].cancel(orders[3])
        assert (cancelled.status, cancelled.code) == (409, "ORDER_NOT_CANCELLABLE")
        for customer in customers[1:]:
            assert (await customer.create(content)).status == 201
    finally:
        await asyncio.to_thread(city.services["expiry"].restart)
    await until(lambda: city.services["expiry"].ready(), "expiry is back", 20)
    report = await city.ledger()  # its timers came late, and found every search ended
    assert report.ok, "\n".join(report.lines())
