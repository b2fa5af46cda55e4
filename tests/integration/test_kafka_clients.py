"""What is given up while the brokers hang leaves nothing behind: no task that never ends, none that complains."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.events_rig import GROUP, PATIENCE_S, EventsRig, events_rig, until
from weelo_common.events.topics import ORDERS_EVENTS
from weelo_common.kafka import KafkaClients


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


class OneAnswer:
    """Stands before a broker: the first question of a connection is answered, and nothing after it."""

    def __init__(self, broker: str) -> None:
        self._broker = broker.rsplit(":", 1)
        self._closed = asyncio.Event()
        self.asked_again = asyncio.Event()
        self.address = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[OneAnswer]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self._closed.set()
            server.close()
            await server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(*self._broker)
        to_there.write(await _message(reader))
        writer.write(await _message(there))
        await _message(reader)
        self.asked_again.set()
        await self._closed.wait()
        writer.close()
        to_there.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One whole message of Kafka's protocol, with its length before it."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length))


@pytest.fixture
async def complaints() -> list[str]:
    """What the loop was told because nobody else heard it."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    return told


def tasks_of(name: str) -> list[asyncio.Task[object]]:
    """The tasks that run a coroutine of aiokafka."""
    return [task for task in asyncio.all_tasks() if name in str(task.get_coro())]


async def test_a_commit_that_was_given_up_may_fail_later_and_no_task_complains(
    rig: EventsRig, stack: LocalStack, complaints: list[str]
) -> None:
    consumer = rig.kafka.consumer(group=GROUP)
    await rig.kafka.start_consumer(consumer)
    tp = TopicPartition(rig.kafka.topic_name(ORDERS_EVENTS), 0)
    consumer.assign([tp])
    await rig.kafka.commit(consumer, {tp: 0})
    with frozen(stack.server("kafka")):
        with pytest.raises(TimeoutError):
            await rig.kafka.commit(consumer, {tp: 0}, deadline_s=0.5)
        given_up = tasks_of("_do_commit_offsets")
        assert len(given_up) == 1
        await rig.kafka.stop_consumer(consumer)  # cuts the connection off, and with it what was on its way
        await asyncio.wait(given_up)
    assert "exception=" in repr(given_up.pop())
    gc.collect()
    assert complaints == []


async def test_a_commit_that_is_cut_off_may_fail_later_and_no_task_complains(
    rig: EventsRig, stack: LocalStack, complaints: list[str]
) -> None:
    consumer = rig.kafka.consumer(group=GROUP)
    await rig.kafka.start_consumer(consumer)
    tp = TopicPartition(rig.kafka.topic_name(ORDERS_EVENTS), 0)
    consumer.assign([tp])
    await rig.kafka.commit(consumer, {tp: 0})
    with frozen(stack.server("kafka")):
        committing = asyncio.create_task(rig.kafka.commit(consumer, {tp: 0}, PATIENCE_S))
        await until(lambda: bool(tasks_of("_do_commit_offsets")), "it is on its way")
        given_up = tasks_of("_do_commit_offsets")
        committing.cancel()
        await asyncio.wait([committing])
        await rig.kafka.stop_consumer(consumer)
        await asyncio.wait(given_up)
    assert "exception=" in repr(given_up.pop())
    gc.collect()
    assert complaints == []


async def test_a_producer_that_is_stopped_while_the_brokers_hang_leaves_no_task(
    rig: EventsRig, stack: LocalStack
) -> None:
    before = asyncio.all_tasks()
    producer = await rig.kafka.start_producer()
    topic = rig.kafka.topic_name(ORDERS_EVENTS)
    await producer.send_and_wait(topic, b"{}", partition=0)
    with frozen(stack.server("kafka")):
        waiting = await producer.send(topic, b"{}", partition=0)
        await rig.kafka.stop_producer(producer)
        await until(lambda: asyncio.all_tasks() <= before, "the end of its tasks")
    waiting.cancel()


@pytest.mark.parametrize("kind", ["producer", "consumer", "admin"])
async def test_a_client_whose_start_is_given_up_leaves_no_connection(
    rig: EventsRig, complaints: list[str], kind: str
) -> None:
    async with OneAnswer(rig.settings.kafka_bootstrap_servers).open() as broker:
        hasty = {"kafka_bootstrap_servers": broker.address, "kafka_request_deadline_s": PATIENCE_S}
        kafka = KafkaClients(rig.settings.model_copy(update=hasty), client_id="test")

        async def start() -> None:
            if kind == "producer":
                await kafka.start_producer()
            elif kind == "consumer":
                await kafka.start_consumer(kafka.consumer(group=None))
            else:
                async with kafka.admin():
                    pass

        starting = asyncio.create_task(start())
        await asyncio.wait_for(broker.asked_again.wait(), PATIENCE_S)
        starting.cancel()
        await asyncio.wait([starting])
        del starting
        gc.collect()
    assert complaints == []


async def test_a_producer_that_is_dropped_while_it_waits_for_news_of_the_cluster_ends_at_once(
    rig: EventsRig, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weelo_common.kafka.GOODBYE_S", 3 * PATIENCE_S)  # no stall of the machine is as long
    producer = await rig.kafka.start_producer()
    topic = rig.kafka.topic_name(ORDERS_EVENTS)
    await producer.send_and_wait(topic, b"{}", partition=0)
    with frozen(stack.server("kafka")):
        waiting = await producer.send(topic, b"{}", partition=0)
        await until(lambda: bool(tasks_of("_send_produce_req")), "it is on its way")
        news = producer.client.force_metadata_update()
        began = time.monotonic()
        await rig.kafka.drop_producer(producer)
        assert time.monotonic() - began < PATIENCE_S
        assert tasks_of("Sender.") == []
        assert await news is False
    waiting.cancel()
