"""Events repeated, late and in any order, races for captains: the view is right, and nobody is booked twice.

What order-api tells of is consistent; in which order it is heard of is not. Each history is made up first, with what
must hold in the end, and then handed to two replicas at once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from deploy.local.stack import LocalStack
from dispatcher.candidates import MAX_OPEN_OFFERS
from tests.integration.dispatcher_orders import Order, fired
from tests.integration.dispatcher_rig import COUNT_LOCK_WAITS, Home, dispatcher_home, eventually
from tests.integration.dispatcher_workbench import (
    Handed,
    Workbench,
    at_the_same_time,
    delivery_of,
    workbench,
)
from weelo_common.delivery import PoisonMessage
from weelo_common.events import Event, OrderEvent, TimerScheduled, TruckAssigned
from weelo_common.ids import new_id

HISTORIES = 6  # in make test; some 4 s
MANY_HISTORIES = 150
STEPS = 45
AT_ONCE = 8
ROUNDS = 12  # of the race between a win and new orders
CROWD = 30  # orders that want the same captains in the same moment

LIVE_ON_AN_ENDED_SEARCH = (
    "SELECT offer_id FROM offers JOIN orders USING (order_id) WHERE offers.status = 'live' AND NOT searching"
)
LIVE_WHILE_DRIVING = """
SELECT offer_id FROM offers JOIN truck_requests USING (captain_id)
 WHERE offers.status = 'live' AND truck_requests.state = 'taken'
"""
SELECT_OPEN_OFFERS = "SELECT captain_id, count(*) FROM offers WHERE status = 'live' GROUP BY captain_id"
SELECT_BUSY = "SELECT captain_id FROM captains WHERE busy"
SELECT_HOLDERS = "SELECT captain_id FROM truck_requests WHERE state = 'taken'"
SELECT_ORDERS = "SELECT order_id, version, status, searching FROM orders"
SELECT_TOLD = "SELECT key, payload FROM outbox WHERE topic = 'captains.state.v1' ORDER BY id"
LOCK = "SELECT FROM captains WHERE captain_id = ANY($1::text[]) ORDER BY captain_id FOR NO KEY UPDATE"
FILL_CAP = """
WITH made AS (
    INSERT INTO orders (order_id, customer_id, version, status, searching)
    SELECT 'full-' || number, 'c', 1, 'active', true FROM generate_series(1, 3) AS number RETURNING order_id)
INSERT INTO offers (offer_id, order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype, vehicle_number, wave,
                    distance_m, price_per_truck, open_trucks, made_at, expires_at)
SELECT order_id || captain, order_id, captain, 't', 'TRUCK', 'S', 'DL1', 1, 1, 1, 1, now(), now() + interval '1 hour'
  FROM made, unnest($1::text[]) AS captain
"""
SELECT_TIMERS = "SELECT payload FROM outbox WHERE topic = 'timers.commands.v1' AND key = $1 ORDER BY id"


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def bench(home: Home) -> AsyncIterator[Workbench]:
    async with workbench(home) as bench:
        await bench.rows("TRUNCATE orders, captains, outbox CASCADE")
        yield bench


@dataclass
class History:
    """What happened, as order-api's rows allow it: nobody drives twice, no truck has two captains."""

    subtype: str
    captains: list[str]
    dice: Random
    orders: list[Order] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    @property
    def driving(self) -> set[str]:
        return {captain for order in self.orders for captain in order.won.values()}

    def step(self) -> None:
        """One thing more happens."""
        searching = [order for order in self.orders if order.order_id not in self.over]
        free = sorted(set(self.captains) - self.driving)
        held = [order for order in self.orders if order.won]
        choice = self.dice.random()
        if choice < 0.3 or not searching:
            order = Order(self.subtype, trucks=self.dice.randint(1, 3))
            self.orders.append(order)
            self.events.append(order.created())
        elif choice < 0.65 and free:
            order = self.dice.choice(searching)
            self.events += order.assigned(self.dice.choice(free), new_id())
            if len(order.won) == order.trucks:
                self.over.add(order.order_id)
        elif choice < 0.85 and held:
            order = self.dice.choice(held)
            captain = self.dice.choice(sorted(order.won.values()))
            self.events.append(order.released(captain, searching=order.order_id not in self.over))
        else:
            order = self.dice.choice(searching)
            self.over.add(order.order_id)
            self.events.append(order.cancelled() if self.dice.random() < 0.5 else order.expired())

    def in_disorder(self) -> list[Handed]:
        """Everything in any order, some of it twice under one id, some again under another."""
        handed = [Handed(event) for event in self.events]
        again = self.dice.sample(handed, len(handed) // 3)
        handed += again[::2] + [Handed(repeat.event) for repeat in again[1::2]]
        self.dice.shuffle(handed)
        return handed

    def newest(self) -> dict[str, tuple[int, str, bool]]:
        """Version, status and whether it searches, of each order."""
        found: dict[str, tuple[int, str, bool]] = {}
        for event in self.events:
            assert isinstance(event, OrderEvent)
            found[event.order_id] = (event.order_version, event.status, event.searching)
        return found


async def live_in_disorder(bench: Workbench, seed: int) -> None:
    await bench.rows("TRUNCATE orders, captains, outbox CASCADE")
    dice = Random(seed)
    history = History(bench.subtype, await bench.captains(6), dice)
    for _ in range(STEPS):
        history.step()
    await bench.hand_over(history.in_disorder(), dice, at_once=AT_ONCE)
    seen = {
        row["order_id"]: (row["version"], row["status"], row["searching"])
        for row in await bench.rows(SELECT_ORDERS)
    }
    assert seen == history.newest()
    assert sorted(row["captain_id"] for row in await bench.rows(SELECT_HOLDERS)) == sorted(history.driving)
    assert {row["captain_id"] for row in await bench.rows(SELECT_BUSY)} == history.driving
    await nothing_is_crooked(bench)
    told: dict[str, list[tuple[int, bool]]] = {}
    for row in await bench.rows(SELECT_TOLD):
        state = json.loads(row["payload"])
        told.setdefault(row["key"], []).append((state["version"], state["busy"]))
    for captain, states in told.items():
        versions = [version for version, _ in states]
        assert versions == sorted(set(versions)), "versions go up in the order of commits"
        assert states[-1][1] is (captain in history.driving)


async def nothing_is_crooked(bench: Workbench) -> None:
    assert await bench.rows(LIVE_ON_AN_ENDED_SEARCH) == []
    assert await bench.rows(LIVE_WHILE_DRIVING) == []
    assert all(row["count"] <= MAX_OPEN_OFFERS for row in await bench.rows(SELECT_OPEN_OFFERS))
    assert await bench.rows("SELECT FROM parked") == []
    outcomes = ("applied", "duplicate", "ignored", "parked", "dead")
    assert bench.count("consumed") == sum(bench.count(outcome) for outcome in outcomes)


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_repeated_late_and_reordered_events_leave_the_view_that_the_newest_tell(
    bench: Workbench, seed: int
) -> None:
    await live_in_disorder(bench, seed)
    assert bench.count("duplicate") > 0


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_repeated_late_and_reordered_events_of_many_histories_leave_the_view_that_the_newest_tell(
    bench: Workbench,
) -> None:
    for seed in range(HISTORIES, HISTORIES + MANY_HISTORIES):
        await live_in_disorder(bench, seed)


async def test_orders_that_want_the_same_captains_at_once_fill_each_captains_three_offers_and_no_more(
    bench: Workbench,
) -> None:
    captains = await bench.captains(4)
    orders = [Order(bench.subtype) for _ in range(CROWD)]
    await bench.hand_over([Handed(order.created()) for order in orders], Random(1), at_once=AT_ONCE)
    counts = {row["captain_id"]: row["count"] for row in await bench.rows(SELECT_OPEN_OFFERS)}
    assert counts == dict.fromkeys(captains, MAX_OPEN_OFFERS)


async def test_a_captain_who_wins_while_new_orders_are_matched_keeps_no_offer_and_is_replaced(
    bench: Workbench,
) -> None:
    dice = Random(3)
    for _ in range(ROUNDS):
        await bench.rows("TRUNCATE orders, captains, outbox CASCADE")
        captains = await bench.captains(14)  # enough that nobody is short for want of captains
        before = [Order(bench.subtype) for _ in range(2)]
        await bench.hand_over([Handed(order.created()) for order in before], dice, at_once=2)
        first = Order(bench.subtype, trucks=3)
        await bench.hand_over([Handed(first.created())], dice, at_once=1)
        winners = captains[:2]  # the nearest: everybody wants them
        won = [Handed(first.assigned(captain, new_id())[0]) for captain in winners]
        new = [Order(bench.subtype) for _ in range(2)]
        created = [Handed(order.created()) for order in new]
        await at_the_same_time(dice.choice(bench.hands).handle(handed) for handed in [*won, *created])
        await nothing_is_crooked(bench)
        assert {row["captain_id"] for row in await bench.rows(SELECT_BUSY)} == set(winners)
        live = await bench.rows("SELECT order_id FROM offers WHERE status = 'live'")
        counts = Counter(row["order_id"] for row in live)
        assert [counts[order.order_id] for order in [*before, *new]] == [5] * 4


async def test_an_order_whose_captains_are_held_by_others_waits_rather_than_settle_for_fewer(
    bench: Workbench,
) -> None:
    captains = await bench.captains(14)
    hand, pool, order = bench.hands[0], bench.hands[1].database, Order(bench.subtype)
    nearest, next_nearest = captains[:9], captains[9:]  # five offers and four to spare; and five more
    async with pool.transaction() as another:
        await another.execute(LOCK, next_nearest)
        async with pool.transaction() as first:
            await first.execute(LOCK, nearest)
            matching = asyncio.create_task(hand.handle(Handed(order.created())))
            await eventually(lambda: bench.rows(COUNT_LOCK_WAITS), lambda rows: rows[0]["count"] > 0)
            await first.execute(FILL_CAP, nearest)  # while it waits, they get all that they may have
        # It has looked farther by now, and found the others held.
        await eventually(lambda: hand.tries_again(matching), bool)
    await matching
    offered = await bench.rows("SELECT captain_id FROM offers WHERE order_id = $1", order.order_id)
    assert sorted(row["captain_id"] for row in offered) == sorted(next_nearest)


async def test_timers_that_come_late_twice_or_for_nothing_make_no_wave(bench: Workbench) -> None:
    await bench.captains(1)
    order = Order(bench.subtype, lifetime_s=600, created_ago_s=300)
    hand = bench.hands[0]
    await hand.handle(Handed(order.created()))
    timers = []
    for wave in (2, 3):
        commands = [json.loads(row["payload"]) for row in await bench.rows(SELECT_TIMERS, order.order_id)]
        timer = fired(TimerScheduled.model_validate(commands[-1]))
        assert timer.payload == {"wave": wave}
        timers.append(timer)
        await hand.handle(Handed(timer, timer.event_id()))
    await hand.handle(Handed(timers[1]))  # again, as a retried dead letter would be
    await hand.handle(Handed(timers[0]))  # an old one, a wave late
    await hand.handle(Handed(timers[1].model_copy(update={"version": 99})))
    await hand.handle(Handed(order.cancelled()))
    last = [json.loads(row["payload"]) for row in await bench.rows(SELECT_TIMERS, order.order_id)]
    scheduled = [command for command in last if "dueAt" in command][-1]
    await hand.handle(Handed(fired(TimerScheduled.model_validate(scheduled))))  # fired as it was cancelled
    unknown = timers[0].model_copy(update={"order_id": new_id(), "timer_key": f"dispatch-wave:{new_id()}"})
    await hand.handle(Handed(unknown))
    (row,) = await bench.rows("SELECT wave FROM orders WHERE order_id = $1", order.order_id)
    assert row == {"wave": 3}
    assert hand.count("ignored") == 5


async def test_a_truck_request_of_another_order_is_refused_and_changes_nothing(bench: Workbench) -> None:
    captain, stranger = await bench.captains(2)
    order, other = Order(bench.subtype), Order(bench.subtype)
    hand = bench.hands[0]
    await hand.handle(Handed(order.created()))
    await hand.handle(Handed(other.created()))
    await hand.handle(Handed(order.assigned(captain, new_id())[0]))
    event = other.assigned(stranger, new_id())[0]
    assert isinstance(event, TruckAssigned)
    forged = event.model_copy(update={"truck_request_id": order.truck_ids[0]})
    with pytest.raises(PoisonMessage, match=f"is of order {order.order_id}"):
        async with hand.database.transaction() as connection:
            await hand.orders.truck_assigned(connection, delivery_of(forged))
    assert [row["captain_id"] for row in await bench.rows(SELECT_HOLDERS)] == [captain]
