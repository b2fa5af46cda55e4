"""The relay where Kafka takes only a part, or does not answer at all, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.events_rig import ORDERS_EVENTS, EventsRig, events_rig, filled, until
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.outbox import Outbox
from weelo_common.record_batches import encode_headers
from weelo_common.relay import Relay
from weelo_common.relay_metrics import RelayMetrics

LEASE_S = 12.0
TRY_S = 1.5  # of a lease: so long a hopeless try lasts here, and a stall of the machine still ends before the lease
NO_SUCH_TOPIC = "nobody.made.this.v1"
TRACED = b"\x02 traceparent"  # where such a name stands, the headers are read before they are sent


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


def patient_relay(rig: EventsRig, bootstrap: str | None = None) -> Relay:
    """A relay that would wait for Kafka for longer than its lease lasts, if its lease did not count."""
    settings = rig.settings.model_copy(update={"kafka_request_deadline_s": 60.0, "relay_lease_s": LEASE_S})
    if bootstrap is not None:
        settings = settings.model_copy(update={"kafka_bootstrap_servers": bootstrap})
    kafka = KafkaClients(settings, client_id="test")
    return Relay(rig.relay_database, kafka, settings, RelayMetrics(CollectorRegistry()))


async def append(rig: EventsRig, *order_ids: str) -> None:
    async with rig.database.transaction() as connection:
        events = [filled(order_id, 1) for order_id in order_ids]
        await Outbox("order-api").append(connection, events, at=datetime.now(UTC))


async def unsent(rig: EventsRig) -> list[str]:
    async with rig.database.connection() as connection:
        return [row["key"] for row in await connection.fetch("SELECT key FROM outbox ORDER BY id")]


async def close(relay: Relay) -> None:
    stop = asyncio.Event()
    stop.set()
    await relay.run(stop)


async def test_only_what_kafka_acknowledged_is_deleted_and_a_try_ends_before_its_lease(
    rig: EventsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(rig, "taken", "refused", "behind it")
    async with rig.database.connection() as connection:
        await connection.execute("UPDATE outbox SET topic = $1 WHERE key = 'refused'", NO_SUCH_TOPIC)
    relay = patient_relay(rig)
    assert await relay.run_once() == 1
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr("weelo_common.relay.LEASE_MARGIN_S", LEASE_S - TRY_S)
        with pytest.raises(KafkaUnavailable, match=NO_SUCH_TOPIC):
            await relay.run_once()
    assert time.monotonic() - started < LEASE_S
    assert await unsent(rig) == ["refused", "behind it"]
    async with rig.database.connection() as connection:
        await connection.execute("UPDATE outbox SET topic = $1", ORDERS_EVENTS.name)
    assert await relay.run_once() == 2
    await close(relay)
    keys = [record.key for record in await rig.records(ORDERS_EVENTS, 3)]
    assert sorted(keys) == [b"behind it", b"refused", b"taken"]


async def test_a_broker_that_never_answers_is_given_up_before_the_lease_ends(
    rig: EventsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weelo_common.relay.LEASE_MARGIN_S", LEASE_S - TRY_S)
    closed = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    await append(rig, "order-1")
    relay = patient_relay(rig, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(KafkaUnavailable):
        await relay.run_once()
    assert time.monotonic() - started < LEASE_S
    assert await unsent(rig) == ["order-1"]
    closed.set()
    server.close()
    await close(relay)
    await server.wait_closed()


@pytest.mark.parametrize("broken", [b"\x02", TRACED], ids=["untraced", "traced"])
async def test_a_row_whose_headers_cannot_be_read_is_named_and_holds_up_its_partition_alone(
    rig: EventsRig, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    await append(rig, "broken", *(f"other-{number}" for number in range(40)))
    async with rig.database.connection() as connection:
        good = await connection.fetchval("SELECT headers FROM outbox WHERE key = 'broken'")
        event_id = await connection.fetchval("SELECT event_id FROM outbox WHERE key = 'broken'")
        await connection.execute("UPDATE outbox SET headers = $1 WHERE key = 'broken'", broken)
    await append(rig, "broken")
    registry = CollectorRegistry()
    relay = Relay(rig.relay_database, rig.kafka, rig.settings, RelayMetrics(registry))
    stop = asyncio.Event()
    with caplog.at_level(logging.ERROR, "weelo_common.relay"):
        relaying = asyncio.create_task(relay.run(stop))
        await until(lambda: registry.get_sample_value("weelo_outbox_refused") == 1, "the refusal")
        flowing = await rig.records(ORDERS_EVENTS, 25)
        assert b"broken" not in {record.key for record in flowing}
        left = await unsent(rig)
        assert left[0] == left[-1] == "broken"
        async with rig.database.connection() as connection:
            await connection.execute("UPDATE outbox SET headers = $1 WHERE event_id = $2", good, event_id)
        found = await rig.records(ORDERS_EVENTS, 42)
        await until(lambda: registry.get_sample_value("weelo_outbox_refused") == 0, "the end of it")
        stop.set()
        await relaying
    (told,) = [record for record in caplog.records if record.name == "weelo_common.relay"]
    assert vars(told)["eventIds"] == [event_id]
    assert "BrokenHeaders" in vars(told)["reason"]
    ids = [dict(record.headers)["ce_id"].decode() for record in found if record.key == b"broken"]
    assert ids[0] == event_id
    assert len(ids) == 2


async def test_a_row_with_a_header_name_that_is_not_utf_8_is_sent_for_its_readers_to_judge(
    rig: EventsRig,
) -> None:
    await append(rig, "odd")
    odd = encode_headers([("nam?", b""), ("traceparent", b"00-" + b"1" * 32 + b"-" + b"1" * 16 + b"-01")])
    async with rig.database.connection() as connection:
        await connection.execute("UPDATE outbox SET headers = $1", odd.replace(b"nam?", b"nam\xff"))
    relay = patient_relay(rig)
    assert await relay.run_once() == 1
    assert await unsent(rig) == []
    await close(relay)
