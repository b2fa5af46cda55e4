"""Two replicas of the notifier: one Redis between them, none, or a Redis that loses messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from services.notifier.tests.events import offers_made, withdrawn

from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Pair,
    Publish,
    Replica,
    order_id,
    phone,
    replica,
    replicas,
    token,
    until,
    user,
)
from tools.weelo_client.notifications import Notification, NotificationStream, Position, Refused, Reread

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(here: Ground) -> AsyncIterator[Pair]:
    """Two replicas that share the partitions; the heads check is too slow to help."""
    settings = here.settings(heads_check_s=600)
    async with replicas(settings) as pair:
        await until(lambda: all(one.hears_redis for one in pair), "both hear each other")
        yield pair


async def test_a_socket_gets_what_the_other_replica_consumed_over_redis(pair: Pair, publish: Publish) -> None:
    one, two = pair
    captain, other = user(), user()
    async with phone(one) as here, phone(two) as there:
        await here.enter(captain)
        await there.enter(other)
        # Many orders: both replicas own some of their partitions.
        await asyncio.gather(
            *(publish(withdrawn("filled", captain, other, order_id=order_id())) for _ in range(40))
        )
        for it in (here, there):
            assert [frame["offset"] for frame in await it.hear_upto(40)] == list(range(1, 41))
    assert one.metric("weelo_notifier_routed_total", direction="in") > 0
    assert two.metric("weelo_notifier_routed_total", direction="in") > 0
    assert one.metric("weelo_notifier_found_late_total") == two.metric("weelo_notifier_found_late_total") == 0


async def test_a_user_with_sockets_on_both_replicas_gets_the_same_stream_on_each(
    pair: Pair, publish: Publish
) -> None:
    captain = user()
    async with phone(pair[0]) as here, phone(pair[1]) as there:
        await here.enter(captain)
        await there.enter(captain)
        await asyncio.gather(*(publish(offers_made(captain, order_id=order_id())) for _ in range(30)))
        assert await here.hear_upto(30) == await there.hear_upto(30)


async def test_a_resume_on_another_replica_goes_on_where_the_first_ended(
    pair: Pair, publish: Publish
) -> None:
    captain = user()
    async with phone(pair[0]) as here:
        epoch = (await here.enter(captain))["epoch"]
        await publish(offers_made(captain, order_id=order_id()))
        await here.hear()
    async with phone(pair[1]) as there:
        await publish(offers_made(captain, order_id=order_id()))
        ready = await there.enter(captain, resume={"epoch": epoch, "offset": 1})
        assert ready["recovered"] is True
        assert (await there.hear())["offset"] == 2


async def test_with_redis_away_the_heads_check_still_delivers(here: Ground, publish: Publish) -> None:
    settings = here.settings(redis_url="redis://127.0.0.1:9/0", heads_check_s=0.2)
    async with replica(settings) as one, replica(settings) as two:
        captain, other = user(), user()
        async with phone(one) as it, phone(two) as there:
            await it.enter(captain)
            await there.enter(other)
            await asyncio.gather(
                *(publish(withdrawn("filled", captain, other, order_id=order_id())) for _ in range(40))
            )
            for phone_ in (it, there):
                assert [frame["offset"] for frame in await phone_.hear_upto(40)] == list(range(1, 41))
            before = late(one, two)
            # Alone: no frame behind it leads to it, so whoever did not consume it finds it by the check.
            await publish(withdrawn("filled", captain, other, order_id=order_id()))
            for phone_ in (it, there):
                assert [frame["offset"] for frame in await phone_.hear_upto(41)] == [41]
        assert late(one, two) > before


def late(*replicas: Replica) -> float:
    return sum(one.metric("weelo_notifier_found_late_total") for one in replicas)


# --- the client that readers copy ---


async def test_the_client_misses_and_repeats_nothing_while_its_replica_goes_down(
    here: Ground, publish: Publish
) -> None:
    captain = user()
    seen: list[Notification] = []
    async with replica(here.settings()) as stays, contextlib.AsyncExitStack() as running:
        leaves = await running.enter_async_context(replica(here.settings()))
        address = leaves.ws_url
        stream = NotificationStream(lambda: address, lambda: token(captain), backoff_base_s=0.01)

        async def read() -> None:
            async for message in stream:
                assert isinstance(message, Notification)
                seen.append(message)
                if message.offset == 60:
                    return

        reading = asyncio.create_task(read())
        await stream.ready.wait()
        for number in range(60):
            if number == 30:
                address = stays.ws_url  # as a load balancer does
                leaving = asyncio.create_task(running.aclose())
            await publish(withdrawn("filled", captain, order_id=order_id()))
        await leaving
        await asyncio.wait_for(reading, PATIENCE_S)
    assert [message.offset for message in seen] == list(range(1, 61))
    assert len({message.id for message in seen}) == 60
    assert stream.tally.close_codes == [1012]


async def test_the_client_says_reread_when_its_history_is_gone(pair: Pair, publish: Publish) -> None:
    captain = user()
    stream = NotificationStream(
        pair[0].ws_url, lambda: token(captain), position=Position("an epoch long gone", 5)
    )
    messages = aiter(stream)
    assert await anext(messages) == Reread()
    await publish(withdrawn("filled", captain, order_id=order_id()))
    first = await anext(messages)
    assert isinstance(first, Notification)
    assert first.offset == 1
    await messages.aclose()


async def test_the_client_does_not_come_back_with_a_token_that_was_refused(pair: Pair) -> None:
    stream = NotificationStream(pair[0].ws_url, lambda: token("d-1", lifetime_s=-60), backoff_base_s=0.01)
    with pytest.raises(Refused) as refused:
        await anext(aiter(stream))
    assert refused.value.code == 4401
