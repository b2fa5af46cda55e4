"""The relay's batches on a real Kafka: large ones, refused ones, late ones; and what the gauges tell of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.events_rig import ORDERS_EVENTS, EventsRig, events_rig, filled, relaying, until
from weelo_common.kafka import KafkaUnavailable
from weelo_common.outbox import INSERT_EVENTS, Outbox
from weelo_common.postgres import Connection
from weelo_common.record_batches import encode_headers
from weelo_common.relay import (
    DELETE_SENT,
    GATHER_FROM_ROWS,
    HEAVY_FROM_ROWS,
    PAGE_BYTES,
    SELECT_UNSENT,
    Relay,
    gathering_s,
)
from weelo_common.relay_metrics import RelayMetrics
from weelo_common.relay_pages import Page

NO_HEADERS = encode_headers([])
LEASE_S = 30.0  # longer than any stall between two steps of a test
READ_WHOLE = re.compile(r"Seq Scan on outbox\b(?!_)")


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


def make_relay(rig: EventsRig, registry: CollectorRegistry | None = None, **changes: Any) -> Relay:
    metrics = RelayMetrics(registry or CollectorRegistry())
    settings = rig.settings.model_copy(update={"relay_lease_s": LEASE_S} | changes)
    return Relay(rig.relay_database, rig.kafka, settings, metrics)


async def append(rig: EventsRig, *payloads: tuple[str, bytes]) -> None:
    """Rows as they are, key and payload: also such as no ``Outbox`` would write."""
    async with rig.database.transaction() as connection:
        await connection.execute(
            INSERT_EVENTS,
            [ORDERS_EVENTS.name] * len(payloads),
            [key for key, _ in payloads],
            [f"event-{number}-of-{key}" for number, (key, _) in enumerate(payloads)],
            [NO_HEADERS] * len(payloads),
            [payload for _, payload in payloads],
        )


async def unsent(rig: EventsRig) -> list[str]:
    async with rig.database.connection() as connection:
        return [row["key"] for row in await connection.fetch("SELECT key FROM outbox ORDER BY id")]


def incompressible(size: int) -> bytes:
    return secrets.token_bytes(size)


async def test_many_events_of_one_key_overflow_a_batch_and_stay_in_order(rig: EventsRig) -> None:
    # Some 2.5 MB for one partition: several batches, several pages.
    sent = [f"{number:05} ".encode() + incompressible(500) for number in range(5000)]
    await append(rig, *(("one", payload) for payload in sent))
    relay = make_relay(rig)
    assert await relay.run_once() == 5000
    async with relaying(relay):
        found = await rig.records(ORDERS_EVENTS, 5000)
    assert [record.value for record in found] == sent
    assert await unsent(rig) == []


async def test_large_events_go_alone_and_a_page_holds_few_of_them(rig: EventsRig) -> None:
    sent = [bytes([number]) + incompressible(900 * 1024) for number in range(12)]
    await append(rig, *(("large", payload) for payload in sent))
    relay = make_relay(rig)
    sizes: list[int] = []
    publish = relay._publish

    async def noted(page: Page) -> None:
        sizes.append(page.payload_bytes)
        await publish(page)

    relay._publish = noted  # type: ignore[method-assign]
    assert await relay.run_once() == 12
    assert max(sizes) < PAGE_BYTES + 1024 * 1024
    async with relaying(relay):
        assert [record.value for record in await rig.records(ORDERS_EVENTS, 12)] == sent


async def test_an_event_that_kafka_refuses_is_named_once_and_holds_up_its_partition_alone(
    rig: EventsRig, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    await append(
        rig,
        ("stuck", b"before"),
        ("stuck", incompressible(2 * 1024 * 1024)),
        ("stuck", b"behind"),
        *((f"other-{number}", b"free") for number in range(40)),
    )
    relay = make_relay(rig, registry)
    with caplog.at_level(logging.ERROR, "weelo_common.relay"):
        async with relaying(relay):
            await rig.records(ORDERS_EVENTS, 1)
            await until(lambda: registry.get_sample_value("weelo_outbox_refused") == 1, "the refusal")
            failures = registry.get_sample_value("weelo_outbox_errors_total") or 0
            await until(
                lambda: (registry.get_sample_value("weelo_outbox_errors_total") or 0) >= failures + 3, "tries"
            )
            left = await unsent(rig)
            assert left[:2] == ["stuck", "stuck"]
            partitions = {record.partition for record in await rig.records(ORDERS_EVENTS, 41 - len(left[2:]))}
            assert len(partitions) > 1
            async with rig.database.connection() as connection:
                await connection.execute("DELETE FROM outbox WHERE octet_length(payload) > 1024 * 1024")
            values = [record.value for record in await rig.records(ORDERS_EVENTS, 42)]
            await until(lambda: registry.get_sample_value("weelo_outbox_refused") == 0, "the end of it")
    assert [value for value in values if value != b"free"] == [b"before", b"behind"]
    (told,) = [record for record in caplog.records if record.name == "weelo_common.relay"]
    assert vars(told)["eventIds"] == ["event-1-of-stuck"]
    assert "MessageSizeTooLarge" in vars(told)["reason"]


async def test_a_topic_that_takes_small_batches_only_gets_small_ones(rig: EventsRig) -> None:
    name = rig.kafka.topic_name(ORDERS_EVENTS)
    limit = ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": "20000"})
    async with rig.kafka.admin() as admin:
        await admin.alter_configs([limit])
    sent = [f"{number:03} ".encode() + incompressible(500) for number in range(200)]
    await append(rig, *(("one", payload) for payload in sent))
    async with relaying(make_relay(rig)):
        found = await rig.records(ORDERS_EVENTS, 200)
    assert [record.value for record in found] == sent


async def test_how_many_rows_a_pass_had_decides_how_far_it_puts_off_the_next(rig: EventsRig) -> None:
    pause_s = 1000.0
    relay = make_relay(rig, relay_gather_s=pause_s)
    for rows in (1, GATHER_FROM_ROWS, HEAVY_FROM_ROWS):
        await append(rig, *((f"order-{number}", b"") for number in range(rows)))
        earliest = time.monotonic()
        assert await relay.run_once() == rows
        put_off_s = gathering_s(rows, pause_s)
        assert earliest + put_off_s <= relay._gather_until <= time.monotonic() + put_off_s
    async with relaying(relay):
        pass  # it ends as a relay does, with its producer


async def test_an_event_that_commits_after_one_with_a_higher_id_is_sent(rig: EventsRig) -> None:
    relay = make_relay(rig, relay_batch_rows=2)
    async with rig.database.transaction() as late:
        await Outbox("order-api").append(late, [filled("late", 1)], at=datetime.now(UTC))
        await append(rig, *((f"order-{number}", b"") for number in range(9)))
        assert await relay.run_once() == 9
        assert await unsent(rig) == []
    async with relaying(relay):
        assert len(await rig.records(ORDERS_EVENTS, 10)) == 10
    assert await unsent(rig) == []


async def test_no_event_overtakes_one_of_its_key_that_commits_while_a_pass_runs(rig: EventsRig) -> None:
    relay = make_relay(rig, relay_batch_rows=2)
    read = relay._read
    first = contextlib.AsyncExitStack()
    uncommitted = await first.enter_async_context(rig.database.transaction())
    await Outbox("order-api").append(uncommitted, [filled("late", 1)], at=datetime.now(UTC))
    await append(rig, *((f"order-{number}", b"{}") for number in range(7)))

    async def read_while_others_commit(*, after: int, up_to: int) -> Page:
        page = await read(after=after, up_to=up_to)
        if after == 0:
            await first.aclose()
            async with rig.database.transaction() as second:
                await Outbox("order-api").append(second, [filled("late", 2)], at=datetime.now(UTC))
        return page

    relay._read = read_while_others_commit  # type: ignore[method-assign]
    assert await relay.run_once() == 7
    relay._read = read  # type: ignore[method-assign]
    async with relaying(relay):
        found = await rig.records(ORDERS_EVENTS, 9)
    assert [json.loads(record.value)["orderVersion"] for record in found if record.key == b"late"] == [1, 2]


async def test_depth_and_age_are_true_where_another_holds_the_lease_and_where_kafka_is_away(
    rig: EventsRig,
) -> None:
    idle, away = CollectorRegistry(), CollectorRegistry()
    async with rig.database.connection() as connection:
        await connection.execute(
            "UPDATE outbox_lease SET owner = 'another', expires_at = clock_timestamp() + interval '1 hour'"
        )
    await append(rig, ("order-1", b"{}"), ("order-2", b"{}"))

    def told(registry: CollectorRegistry) -> bool:
        return (
            registry.get_sample_value("weelo_outbox_depth") == 2
            and (registry.get_sample_value("weelo_outbox_age_seconds") or 0) > 1
        )

    async with relaying(make_relay(rig, idle)):
        await until(lambda: told(idle), "depth and age where another relays")
        assert idle.get_sample_value("weelo_outbox_lease_held") == 0
    async with rig.database.connection() as connection:
        await connection.execute("UPDATE outbox_lease SET expires_at = '-infinity'")
    relay = make_relay(rig, away)
    released = asyncio.Event()

    async def hang(*_: Any) -> None:
        await released.wait()
        raise KafkaUnavailable("never came")

    relay._prepare = hang  # type: ignore[method-assign,assignment]
    async with relaying(relay):
        await until(lambda: told(away), "depth and age while the relaying hangs")
        assert away.get_sample_value("weelo_outbox_lease_held") == 1
        released.set()


@pytest.mark.parametrize(
    ("statement", "values"),
    [(SELECT_UNSENT, "0, 99, 2000, 4000000"), (DELETE_SENT, "ARRAY[1, 2, 3], 'me', 1")],
)
async def test_a_plan_made_on_an_empty_outbox_goes_by_the_index_all_the_same(
    rig: EventsRig, statement: str, values: str
) -> None:
    async def plan(connection: Connection) -> str:
        await connection.execute("ANALYZE outbox")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE it AS {statement}")
        lines = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE it ({values})"))
        await connection.execute("DEALLOCATE it")
        await connection.execute("RESET plan_cache_mode")
        return lines

    async with rig.relay_database.connection() as connection:
        assert not READ_WHOLE.search(await plan(connection))
    async with rig.database.connection() as connection:
        assert READ_WHOLE.search(await plan(connection)), "PostgreSQL would do so by itself: drop the setting"
