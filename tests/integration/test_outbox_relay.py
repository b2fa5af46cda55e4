"""The outbox and its relay on a real PostgreSQL and a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.events_rig import ORDERS_EVENTS, EventsRig, events_rig, filled, relaying, until
from weelo_common.events import OrderFullyFilled, decode
from weelo_common.kafka import KafkaClients
from weelo_common.outbox import Outbox
from weelo_common.relay import Relay
from weelo_common.relay_metrics import RelayMetrics
from weelo_common.telemetry import current_traceparent, span

LEASE_S = 30.0  # longer than any stall between two steps of a test


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


def make_relay(rig: EventsRig) -> Relay:
    settings = rig.settings.model_copy(update={"relay_lease_s": LEASE_S})
    relay = Relay(rig.relay_database, rig.kafka, settings, RelayMetrics(CollectorRegistry()))
    rig.database.on_commit(relay.wake)
    return relay


async def append(rig: EventsRig, order_id: str, versions: range) -> None:
    outbox = Outbox("order-api")
    async with rig.database.transaction() as connection:
        await outbox.append(
            connection, [filled(order_id, version) for version in versions], at=datetime.now(UTC)
        )


async def unsent(rig: EventsRig) -> int:
    async with rig.database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM outbox")
        return count


async def test_events_of_a_key_arrive_once_and_in_order_with_two_relays_and_many_writers(
    rig: EventsRig,
) -> None:
    orders = [f"order-{number}" for number in range(8)]

    async def write(order_id: str) -> None:
        for version in range(1, 31):
            await append(rig, order_id, range(version, version + 1))

    async with relaying(make_relay(rig), make_relay(rig)):
        await asyncio.gather(*(write(order_id) for order_id in orders))
        records = await rig.records(ORDERS_EVENTS, 8 * 30)
    seen: dict[str, list[int]] = defaultdict(list)
    for record in records:
        event = decode(ORDERS_EVENTS, record.key, record.headers, record.value).event
        assert isinstance(event, OrderFullyFilled)
        seen[event.order_id].append(event.order_version)
    assert seen == {order_id: list(range(1, 31)) for order_id in orders}
    assert await unsent(rig) == 0


async def test_a_rolled_back_transaction_publishes_nothing(rig: EventsRig) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with rig.database.transaction() as connection:
            await Outbox("order-api").append(connection, [filled("gone", 1)], at=datetime.now(UTC))
            raise ZeroDivisionError
    await append(rig, "kept", range(1, 2))
    relay = make_relay(rig)
    assert await relay.run_once() == 1
    async with relaying(relay):
        records = await rig.records(ORDERS_EVENTS, 1)
    assert [record.key for record in records] == [b"kept"]


async def test_rows_stay_while_kafka_is_away_and_drain_in_order_when_it_is_back(rig: EventsRig) -> None:
    nowhere = rig.settings.model_copy(
        update={"kafka_bootstrap_servers": "127.0.0.1:1", "kafka_request_deadline_s": 0.5}
    )
    away = Relay(
        rig.relay_database, KafkaClients(nowhere, client_id="t"), nowhere, RelayMetrics(rig.registry)
    )
    stop = asyncio.Event()
    running = asyncio.create_task(away.run(stop))
    await append(rig, "order-1", range(1, 6))
    await until(lambda: bool(rig.registry.get_sample_value("weelo_outbox_errors_total")), "a failed try")
    stop.set()
    await running
    assert await unsent(rig) == 5
    async with relaying(make_relay(rig)):
        records = await rig.records(ORDERS_EVENTS, 5)
    versions = [decode(ORDERS_EVENTS, r.key, r.headers, r.value).event for r in records]
    assert [event.order_version for event in versions if isinstance(event, OrderFullyFilled)] == [
        1,
        2,
        3,
        4,
        5,
    ]


async def test_a_second_relay_waits_while_the_first_holds_the_lease_and_takes_over_when_it_is_released(
    rig: EventsRig,
) -> None:
    first, second = make_relay(rig), make_relay(rig)
    async with relaying(first):
        await append(rig, "order-1", range(1, 2))
        await rig.records(ORDERS_EVENTS, 1)
        await append(rig, "order-1", range(2, 3))
        assert await second.run_once() == 0
        await rig.records(ORDERS_EVENTS, 2)
    await append(rig, "order-1", range(3, 4))
    async with relaying(second):
        await rig.records(ORDERS_EVENTS, 3)


async def test_a_stale_owner_deletes_nothing(rig: EventsRig) -> None:
    stale = make_relay(rig)
    await append(rig, "order-1", range(1, 2))
    assert await stale.run_once() == 1
    async with rig.database.connection() as connection:
        await connection.execute("UPDATE outbox_lease SET owner = 'another', term = term + 1")
    await append(rig, "order-1", range(2, 3))
    await stale.run_once()  # within its own lease by its own clock, but the row says otherwise
    assert await unsent(rig) == 1
    stop = asyncio.Event()
    stop.set()
    await stale.run(stop)


async def test_the_trace_context_of_the_writer_reaches_the_record(rig: EventsRig) -> None:
    with span("request"):
        ours = current_traceparent()
        await append(rig, "order-1", range(1, 2))
    async with relaying(make_relay(rig)):
        (record,) = await rig.records(ORDERS_EVENTS, 1)
    headers = dict(record.headers)
    if ours is None:
        assert "traceparent" not in headers  # no tracer is installed in this run
    else:
        assert headers["traceparent"].split(b"-")[1] == ours.encode().split(b"-")[1]
