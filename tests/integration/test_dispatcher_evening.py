"""A busy evening on two dispatchers: races between orders for the same captains leave nothing crooked behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from deploy.local.stack import LocalStack
from tests.integration.dispatcher_orders import Order
from tests.integration.dispatcher_rig import Caller, Home, Rig, dispatcher, dispatcher_home

CAPTAINS = 15
ORDERS = 60
AT_ONCE = 12  # orders in flight

CROOKED = {
    "a live offer of an order whose search is over": """
        SELECT o.offer_id FROM offers o JOIN orders USING (order_id) WHERE o.status = 'live' AND NOT searching""",
    "a live offer of a captain who is on his way": """
        SELECT o.offer_id FROM offers o JOIN truck_requests r USING (captain_id)
         WHERE o.status = 'live' AND r.state = 'taken'""",
    "a captain with more than three live offers": """
        SELECT captain_id FROM offers WHERE status = 'live' GROUP BY captain_id HAVING count(*) > 3""",
    "a captain whose row says busy when he is not, or the other way round": """
        SELECT captain_id FROM captains c
         WHERE busy <> EXISTS (SELECT FROM truck_requests r WHERE r.captain_id = c.captain_id AND r.state = 'taken')""",
    "an order that nobody was searched for": """
        SELECT order_id FROM orders WHERE searching AND wave = 0""",
    "a parked event": "SELECT key FROM parked",
}


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


async def one_order(
    rig: Rig, order: Order, captains: dict[str, Caller], free: set[str], dice: random.Random
) -> None:
    """An order's life, as order-api would tell of it: won, declined, cancelled or expired."""
    await rig.publish(order.created())
    await rig.eventually(
        lambda: rig.rows("SELECT FROM match_rounds WHERE order_id = $1", order.order_id), bool
    )
    for _ in range(order.trucks):
        offers = await rig.offers(order)
        if not offers:
            break
        captain_id = dice.choice(sorted(offers))
        if dice.random() < 0.3:
            await captains[captain_id].decline(offers[captain_id])  # may have ended by now; both are fine
        elif captain_id in free:
            free.discard(captain_id)  # order-api lets nobody win twice
            await rig.publish(*order.assigned(captain_id, offers[captain_id]))
            if dice.random() < 0.5:
                await rig.publish(order.released(captain_id, searching=len(order.won) < order.trucks))
                free.add(captain_id)
    if len(order.won) < order.trucks:
        await rig.publish(order.cancelled() if dice.random() < 0.5 else order.expired())
    for captain_id in list(order.won.values()):
        await rig.publish(order.released(captain_id, searching=False))
        free.add(captain_id)


async def test_races_between_orders_for_the_same_captains_leave_nothing_crooked(home: Home) -> None:
    dice = random.Random(7)
    async with dispatcher(home, replicas=2) as rig:
        captains = {
            captain.user_id: captain
            for captain in [await rig.captain(100 * number) for number in range(CAPTAINS)]
        }
        free = set(captains)
        gate = asyncio.Semaphore(AT_ONCE)
        orders = [rig.order(trucks=dice.randint(1, 3)) for _ in range(ORDERS)]

        async def live(order: Order) -> None:
            async with gate:
                await one_order(rig, order, captains, free, dice)

        await asyncio.gather(*(live(order) for order in orders))
        await rig.consumed(sum(order.version for order in orders))
        for what, query in CROOKED.items():
            assert await rig.rows(query) == [], what
        for replica in rig.replicas:
            for outcome in ("parked", "dead"):
                assert rig.metric(f"weelo_consumer_{outcome}_total", replica, consumer="dispatcher") == 0
        versions = await rig.rows("SELECT order_id, version FROM orders")
        assert {row["order_id"]: row["version"] for row in versions} == {
            o.order_id: o.version for o in orders
        }
