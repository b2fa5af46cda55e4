"""Several dispatchers: they share the work by partitions, and one that goes leaves no order behind."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from deploy.local.stack import LocalStack
from tests.integration.dispatcher_rig import Home, Order, Rig, dispatcher, dispatcher_home, start
from weelo_common.events import TimerFired, TimerScheduled
from weelo_common.events.topics import TIMERS_COMMANDS

OFFERS_OF_AN_ORDER = """
SELECT order_id, captain_id, count(*) AS times FROM offers GROUP BY order_id, captain_id HAVING count(*) > 1
"""
OVER_THE_CAP = """
SELECT captain_id, count(*) FROM offers WHERE status = 'live' GROUP BY captain_id HAVING count(*) > 3
"""


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


async def next_timer(rig: Rig, order: Order, wave: int) -> TimerFired:
    """The timer of an order's wave, as expiry would fire it."""
    told = await rig.told(
        TIMERS_COMMANDS,
        order.order_id,
        lambda e: isinstance(e, TimerScheduled) and e.payload == {"wave": wave},
    )
    timer = told[-1].event
    assert isinstance(timer, TimerScheduled)
    return TimerFired(
        timer_key=timer.timer_key,
        version=timer.version,
        order_id=order.order_id,
        owner=timer.owner,
        due_at=timer.due_at,
        fired_at=timer.due_at,
        payload=timer.payload,
    )


async def test_two_replicas_share_the_orders_and_no_captain_gets_two_offers_of_one(home: Home) -> None:
    async with dispatcher(home, replicas=2) as rig:
        for number in range(8):
            await rig.captain(100 * number)
        orders = [rig.order() for _ in range(12)]
        await rig.publish(*(order.created() for order in orders))
        for order in orders:
            await rig.eventually(
                lambda order=order: rig.rows("SELECT FROM match_rounds WHERE order_id = $1", order.order_id),  # type: ignore[misc]
                bool,
            )
        assert await rig.rows(OFFERS_OF_AN_ORDER) == []
        assert await rig.rows(OVER_THE_CAP) == []
        made = await rig.rows("SELECT captain_id FROM offers WHERE vehicle_subtype = $1", rig.subtype)
        assert Counter(row["captain_id"] for row in made).most_common()[-1][1] == 3  # 8 captains × 3 offers


async def test_an_order_goes_on_with_its_waves_after_its_replica_is_gone_in_the_middle(home: Home) -> None:
    async with contextlib.AsyncExitStack() as second:
        async with dispatcher(home) as first:
            subtype = first.subtype
            captain = await first.captain(4_000)
            orders = [first.order(created_ago_s=20) for _ in range(3)]
            await first.publish(*(order.created() for order in orders))
            timers = [await next_timer(first, order, 2) for order in orders]
            heir = await start(second, home.settings())  # a rebalance in the middle of the waves
            await first.publish(timers[0], event_id=timers[0].event_id())
            assert (await first.live(orders[0], 1)).keys() == {captain.user_id}
        async with dispatcher(home) as rig:  # the first is gone; its heir, and this one, go on
            rig.subtype = subtype
            await rig.place_again(captain.user_id, 4_000)
            await rig.publish(timers[0], event_id=timers[0].event_id())  # a repeat
            for order, timer in zip(orders[1:], timers[1:], strict=True):
                await rig.publish(timer, event_id=timer.event_id())
                assert (await rig.live(order, 1)).keys() == {captain.user_id}
            rows = await rig.rows(
                "SELECT order_id, count(*) AS rounds FROM match_rounds WHERE order_id = ANY($1::text[]) "
                "GROUP BY order_id",
                [order.order_id for order in orders],
            )
            assert {row["order_id"]: row["rounds"] for row in rows} == {order.order_id: 2 for order in orders}
        assert heir.life.health.not_ready() == []


async def test_a_replica_that_starts_knows_the_fleet_before_it_takes_orders(home: Home) -> None:
    async with dispatcher(home) as rig:
        captain = await rig.captain(100)
        subtype = rig.subtype
    async with dispatcher(home) as later:
        later.subtype = subtype
        order = later.order()
        await later.publish(order.created())
        assert (await later.live(order, 1)).keys() == {captain.user_id}
