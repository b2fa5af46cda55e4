"""Rubbish on every topic: each record ends somewhere, nothing hangs, and no service goes down for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.provision import SERVICES
from deploy.local.services import ServiceProcess
from deploy.local.stack import LocalStack
from tests.e2e.city import City, new_subtype, order_body
from tests.faults.conftest import ENV
from tests.faults.rubbish import spoiled_records
from tools.contracts.samples import samples
from tools.demo.phone import new_client
from weelo_cli.ledger.counters import read_counters
from weelo_cli.ledger.topics import Topics
from weelo_common.events.topics import ALL_TOPICS
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

CAUGHT_UP_WITHIN_S = 60.0  # some 1,300 records, each tried three times where a handler fails on it
LOOK_S = 0.25


@pytest.fixture
async def littered(stack: LocalStack, services: object) -> AsyncIterator[tuple[City, KafkaSettings]]:
    """A system of its own, in topics and databases that nobody else reads."""
    prefix = f"r{uuid4().hex[:6]}_"
    dsns = await asyncio.to_thread(stack.provision, prefix)
    topics = {"KAFKA_TOPIC_PREFIX": prefix.replace("_", ".")}
    await asyncio.to_thread(stack.create_topics, topics)
    started: dict[str, ServiceProcess] = {}
    try:
        for name in SERVICES:
            env = {**ENV, **topics, "POSTGRES_DSN": dsns[name]}
            await asyncio.to_thread(stack.migrate, [name], env)
            started[name] = stack.start_service(name, env)
        for process in started.values():
            await asyncio.to_thread(process.wait_ready)
        settings = KafkaSettings(
            kafka_bootstrap_servers=stack.servers.kafka_bootstrap,
            kafka_topic_prefix=topics["KAFKA_TOPIC_PREFIX"],
        )
        async with new_client() as client:
            yield City(stack, started, client, {**stack.command_env(), **topics}), settings
    finally:
        for process in started.values():
            process.stop()


async def caught_up(kafka: KafkaClients, city: City) -> None:
    """Return once every group has taken every record to its end."""
    lag: dict[str, int] = {}
    try:
        async with asyncio.timeout(CAUGHT_UP_WITHIN_S), Topics(kafka) as topics:
            while not lag or any(lag.values()):
                lag = dict(await topics.lag(await topics.ends()))
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        down = [name for name, process in city.services.items() if not process.running]
        raise AssertionError(f"still behind: {lag}; down: {down}") from None


async def test_rubbish_on_every_topic_stops_no_service(littered: tuple[City, KafkaSettings]) -> None:
    city, settings = littered
    kafka = KafkaClients(settings, client_id="rubbish")
    random = Random("records")
    pids = {name: process.pid for name, process in city.services.items()}
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        compression_type="gzip",
        max_request_size=20_000_000,
        linger_ms=5,
    )
    await producer.start()
    try:
        sent = []
        for event in [envelope.event for envelope in samples().values() if envelope.event is not None]:
            for key, headers, value in spoiled_records(event, random):
                name = kafka.topic_name(event.TOPIC)
                sent.append(await producer.send(name, value, key=key, headers=headers))
        for topic in ALL_TOPICS:
            for moment_ms in (0, 1, -(10**15), -(2**62)):
                sent.append(await producer.send(kafka.topic_name(topic), b"", timestamp_ms=moment_ms))
            for value in (
                b"\x01",
                b"\x01" + b"\xff" * 32,
                b"\x01" + b"\x7f" * 320,
                b"\x09",
                b"\x00" * 500_000,
            ):
                sent.append(await producer.send(kafka.topic_name(topic), value))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    await caught_up(kafka, city)
    urls = {name: [process.base_url] for name, process in city.services.items()}
    counts, silent = await read_counters(urls)
    assert not silent
    for count in counts:
        assert count.consumed == sum(count.outcomes.values()) > 0, count
    assert sum(count.outcomes["dead"] for count in counts) > 100
    assert sum(count.outcomes["parked"] for count in counts) > 0
    for name, process in city.services.items():
        assert process.running, f"{name} ended: {process.log_tail()}"
        assert process.pid == pids[name]
    # And the work goes on: an order finds its captain.
    subtype = new_subtype()
    async with city.captain(subtype) as captain:
        created = await city.customer().create(order_body(subtype))
        offer = await captain.offer(created.data["orderId"])
        assert (await captain.accept(created.data["orderId"], offer)).ok
