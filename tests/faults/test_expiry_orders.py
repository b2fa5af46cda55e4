"""Orders of 60 s at full load: each is ended by its timer, within a second of its end.

``tests/integration/test_expiry_orders.py`` is the short form, and has the orders whose timers never fire.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from aiokafka import TopicPartition

from deploy.local.stack import LocalStack
from expiry.settings import Settings
from tests.integration.expiry_processes import replicas
from tests.integration.expiry_rig import empty_tables
from tests.integration.order_api_process_rig import order_api_running
from tests.integration.order_api_rig import Caller, Home, data, order_api_home
from weelo_common.clock import parse_time
from weelo_common.events import OrderExpired
from weelo_common.events.envelope import decode
from weelo_common.events.topics import ORDERS_EVENTS
from weelo_common.kafka import KafkaClients

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

LIFETIME_S = 60
RATE = (
    100  # creates a second: what the whole system is meant to bear on this machine, and more than enough here
)
SECONDS = 15
PATIENCE_S = 30.0
IN_TIME = timedelta(seconds=1)


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as home:
        yield home


@pytest.fixture(scope="module")
def expiry_dsn(stack: LocalStack, home: Home) -> str:
    return stack.provision(home.prefix)["expiry"]


async def create_at_rate(home: Home, base_url: str) -> dict[str, datetime]:
    """The end of each order, by its id; orders go out at ``RATE``, however long an answer takes."""
    ends: dict[str, datetime] = {}
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=base_url, timeout=PATIENCE_S, limits=limits) as http:

        async def create() -> None:
            user = f"c-{secrets.token_hex(8)}"
            order = data(await Caller(http, user, home.token("customer", user)).create())["order"]
            ends[order["id"]] = parse_time(order["expiresAt"])

        async with asyncio.TaskGroup() as creates:
            for _ in range(RATE * SECONDS):
                creates.create_task(create())
                await asyncio.sleep(1 / RATE)
    return ends


async def endings(kafka: KafkaClients, count: int, deadline_s: float) -> dict[str, datetime]:
    """When each order was ended by time, once so many were."""
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    found: dict[str, datetime] = {}
    try:
        name = kafka.topic_name(ORDERS_EVENTS)
        consumer.assign([TopicPartition(name, number) for number in range(ORDERS_EVENTS.partitions)])
        async with asyncio.timeout(deadline_s):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        event = decode(ORDERS_EVENTS, record.key, record.headers, record.value).event
                        if isinstance(event, OrderExpired):
                            found[event.order_id] = event.occurred_at
    finally:
        await kafka.stop_consumer(consumer)
    return found


async def test_orders_of_60_s_are_ended_within_a_second_of_their_end_at_full_load(
    home: Home, expiry_dsn: str, tmp_path: Path
) -> None:
    shared = ("kafka_bootstrap_servers", "kafka_producer_idempotence", "kafka_topic_prefix", "http_port")
    settings = Settings.model_validate(
        {name: home.values[name] for name in shared} | {"postgres_dsn": expiry_dsn}
    )
    await empty_tables(settings)
    never = {"ORDER_LIFETIME_S": str(LIFETIME_S), "SWEEP_PERIOD_S": "3600"}  # no sweep helps out
    with order_api_running(home, tmp_path, **never) as orders, replicas(settings, tmp_path, 0, 0):
        ends = await create_at_rate(home, orders.base_url)
        kafka = KafkaClients(settings, client_id="test")
        ended = await endings(kafka, len(ends), LIFETIME_S + PATIENCE_S)
    assert ended.keys() == ends.keys()
    lates = sorted(ended[order] - ends[order] for order in ends)
    assert lates[0] >= timedelta(0)
    assert lates[-1] < IN_TIME
