"""What is given up while the brokers hang leaves nothing behind: no task that never ends, none that complains."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.events_rig import GROUP, EventsRig, events_rig, until
from weelo_common.events.topics import ORDERS_EVENTS
from weelo_common.kafka import GOODBYE_S


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


def tasks_of(name: str) -> list[asyncio.Task[object]]:
    """The tasks that run a coroutine of aiokafka."""
    return [task for task in asyncio.all_tasks() if name in str(task.get_coro())]


async def test_a_commit_that_was_given_up_may_fail_later_and_no_task_complains(
    rig: EventsRig, stack: LocalStack
) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
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


async def test_a_producer_that_is_dropped_while_it_waits_for_news_of_the_cluster_ends_at_once(
    rig: EventsRig, stack: LocalStack
) -> None:
    producer = await rig.kafka.start_producer()
    topic = rig.kafka.topic_name(ORDERS_EVENTS)
    await producer.send_and_wait(topic, b"{}", partition=0)
    with frozen(stack.server("kafka")):
        waiting = await producer.send(topic, b"{}", partition=0)
        await until(lambda: bool(tasks_of("_send_produce_req")), "it is on its way")
        news = producer.client.force_metadata_update()
        began = time.monotonic()
        await rig.kafka.drop_producer(producer)
        assert time.monotonic() - began < GOODBYE_S
        assert tasks_of("Sender.") == []
        assert await news is False
    waiting.cancel()
