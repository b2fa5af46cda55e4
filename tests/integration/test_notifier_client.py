"""The client that readers copy: its pauses, its tokens, and when it gives up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from services.notifier.tests.events import withdrawn

from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    NOBODY,
    PATIENCE_S,
    Ground,
    Publish,
    Replica,
    order_id,
    phone,
    replica,
    token,
    until,
    user,
)
from tools.weelo_client.notifications import Notification, NotificationStream, Position, Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    async with replica(here.settings(ws_max_per_user=1)) as notifier:
        yield notifier


class Dice(random.Random):
    """Notes the range of every throw, and always throws the least."""

    def __init__(self) -> None:
        super().__init__()
        self.ceilings: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        self.ceilings.append(b)
        return 0.0


async def test_the_pause_before_each_try_is_drawn_from_a_range_that_doubles_up_to_its_cap() -> None:
    dice = Dice()
    enough = asyncio.Event()

    def address() -> str:
        if len(dice.ceilings) == 8:
            enough.set()
        return NOBODY

    stream = NotificationStream(address, lambda: "token", backoff_base_s=0.2, backoff_cap_s=5.0, rng=dice)
    listening = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(enough.wait(), PATIENCE_S)
    listening.cancel()
    await asyncio.wait([listening])
    assert dice.ceilings[:8] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


async def test_a_ready_makes_the_range_small_again(notifier: Replica) -> None:
    dice = Dice()
    addresses = iter([NOBODY, NOBODY, notifier.ws_url, NOBODY])
    captain = user()
    stream = NotificationStream(lambda: next(addresses, notifier.ws_url), lambda: token(captain), rng=dice)
    listening = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
    assert stream.connection is not None
    stream.connection.transport.abort()
    await until(lambda: len(dice.ceilings) >= 4, "two more tries")
    listening.cancel()
    await asyncio.wait([listening])
    assert dice.ceilings[:4] == [0.2, 0.4, 0.2, 0.4]


async def test_it_fetches_a_new_token_when_the_old_one_ends_and_misses_nothing(
    notifier: Replica, publish: Publish
) -> None:
    captain = user()
    fetched: list[str] = []

    async def fetch() -> str:
        await asyncio.sleep(0)  # as over a network
        fetched.append(token(captain, lifetime_s=1 if not fetched else 600))
        return fetched[-1]

    stream = NotificationStream(notifier.ws_url, fetch, backoff_base_s=0.01)
    messages = aiter(stream)
    first = asyncio.ensure_future(anext(messages))
    await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        await publish(withdrawn("filled", captain, order_id=order_id()))
        heard = await first
        second = asyncio.ensure_future(anext(messages))
        await until(lambda: len(fetched) == 2, "another token")
        await publish(withdrawn("filled", captain, order_id=order_id()))
        after = await second
    await messages.aclose()
    assert isinstance(heard, Notification)
    assert isinstance(after, Notification)
    assert (heard.offset, after.offset) == (1, 2)
    assert stream.tally.close_codes == [4408]


async def test_a_refused_token_is_replaced_once_there_is_another(notifier: Replica) -> None:
    captain = user()
    tokens = iter([token(captain, lifetime_s=-60), token(captain)])
    stream = NotificationStream(notifier.ws_url, lambda: next(tokens), backoff_base_s=0.01)
    listening = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
    listening.cancel()
    await asyncio.wait([listening])
    assert stream.tally.close_codes[0] == 4401


async def test_a_source_of_tokens_that_is_away_is_asked_again(notifier: Replica) -> None:
    captain = user()
    answers: Iterator[Any] = iter([OSError("away"), TimeoutError(), token(captain)])

    async def fetch() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    stream = NotificationStream(notifier.ws_url, fetch, backoff_base_s=0.01)
    listening = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
    listening.cancel()
    await asyncio.wait([listening])


async def test_who_was_pushed_out_by_another_socket_does_not_push_back(notifier: Replica) -> None:
    captain = user()
    stream = NotificationStream(notifier.ws_url, lambda: token(captain), backoff_base_s=0.01)
    listening = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
    async with phone(notifier) as other:
        await other.enter(captain)
        with pytest.raises(Refused) as refused:
            await asyncio.wait_for(listening, PATIENCE_S)
        await other.say({"type": "ping"})
        assert (await other.hear())["type"] == "pong"
    assert refused.value.code == 4409


async def test_a_position_that_was_kept_is_where_a_new_client_goes_on(
    notifier: Replica, publish: Publish
) -> None:
    captain = user()
    async with phone(notifier) as it:
        epoch = (await it.enter(captain))["epoch"]
        await publish(*(withdrawn("filled", captain, order_id=order_id()) for _ in range(3)))
        await it.hear_upto(3)
    stream = NotificationStream(notifier.ws_url, lambda: token(captain), position=Position(epoch, 1))
    messages = aiter(stream)
    async with asyncio.timeout(PATIENCE_S):
        heard = [await anext(messages) for _ in range(2)]
    await messages.aclose()
    assert [message.offset for message in heard if isinstance(message, Notification)] == [2, 3]
    assert stream.position == Position(epoch, 3)
