"""Dispatch at odd moments: early and repeated timers, lines that fill one by one, offers made while a captain wins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.local.stack import LocalStack
from dispatcher.main import build
from tests.integration.dispatcher_orders import Order
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home
from weelo_common.events import OffersWithdrawn, RequestedTruck, TimerScheduled
from weelo_common.events.topics import DISPATCH_OFFERS, TIMERS_COMMANDS
from weelo_common.lifecycle import running

LONGER_THAN_A_JOIN_S = 3.0  # of a consumer that is alone in its group
SELECT_ROUNDS = "SELECT wave, at FROM match_rounds WHERE order_id = $1 ORDER BY round"


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def test_a_wave_whose_timer_comes_a_little_early_waits_for_its_time(rig: Rig) -> None:
    order = rig.order(created_ago_s=9)  # the second wave is due in a second
    created = order.created()
    await rig.publish(created)
    timer = await rig.timer(order, 2)
    await rig.publish(timer)
    rounds = await rig.eventually(
        lambda: rig.rows(SELECT_ROUNDS, order.order_id), lambda found: len(found) == 2
    )
    assert rounds[1]["wave"] == 2
    assert rounds[1]["at"] >= created.occurred_at + timedelta(seconds=10)


async def test_a_wave_whose_timer_comes_far_too_early_is_scheduled_again_for_its_time_by_that_clock(
    rig: Rig,
) -> None:
    order = rig.order(lifetime_s=600)  # the second wave is due in 100 s
    await rig.publish(order.created())
    timer = await rig.timer(order, 2)
    await rig.publish(timer)  # fired now by a clock that says it is due
    told = await rig.told(
        TIMERS_COMMANDS, order.order_id, lambda e: isinstance(e, TimerScheduled) and e.version == 2
    )
    again = told[-1].event
    assert isinstance(again, TimerScheduled)
    assert again.payload == {"wave": 2}
    assert timedelta(seconds=50) < again.due_at - timer.due_at <= timedelta(seconds=100)
    assert [row["wave"] for row in await rig.rows(SELECT_ROUNDS, order.order_id)] == [1]


async def test_a_timer_that_fired_before_makes_no_second_wave(rig: Rig) -> None:
    order = rig.order(created_ago_s=20)
    await rig.publish(order.created())
    timer = await rig.timer(order, 2)
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    await rig.publish(timer, event_id="first")
    await rig.publish(timer, event_id="again, as a retried dead letter would be")
    await rig.consumed(int(before) + 2)
    assert [row["wave"] for row in await rig.rows(SELECT_ROUNDS, order.order_id)] == [1, 2]


async def test_of_two_lines_the_one_that_is_full_loses_its_offers_and_the_other_keeps_them(rig: Rig) -> None:
    others = replace(rig, subtype=f"{rig.subtype}_B")
    near = [await rig.captain(north_m) for north_m in (100, 200)]
    other = await others.captain(100)
    order = rig.order(trucks=2)
    trucks = tuple(
        RequestedTruck(id=truck, vehicle_type="TRUCK", vehicle_subtype=subtype, price_per_truck=500)
        for truck, subtype in zip(order.truck_ids, (rig.subtype, others.subtype), strict=True)
    )
    await rig.publish(order.created().model_copy(update={"truck_requests": trucks}))
    offers = await rig.live(order, 3)
    await rig.publish(*order.assigned(near[0].user_id, offers[near[0].user_id]))
    assert (await rig.live(order, 1)).keys() == {other.user_id}
    told = await rig.told(DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, OffersWithdrawn))
    gone = told[-1].event
    assert isinstance(gone, OffersWithdrawn)
    assert (gone.reason, [offer.captain_id for offer in gone.offers]) == ("filled", [near[1].user_id])


async def test_an_offer_that_a_captain_gets_while_he_wins_elsewhere_is_withdrawn_as_well(rig: Rig) -> None:
    captain = await rig.captain(100)
    won, other = rig.order(), rig.order()
    await rig.publish(won.created(), other.created())
    offer_id = (await rig.live(won, 1))[captain.user_id]
    await rig.live(other, 1)
    status = "UPDATE offers SET status = $1 WHERE order_id = $2"
    await rig.rows(status, "declined", other.order_id)
    async with rig.database.transaction() as connection:  # as the other order's wave holds him
        await connection.execute(
            "SELECT FROM captains WHERE captain_id = $1 FOR NO KEY UPDATE", captain.user_id
        )
        await rig.publish(*won.assigned(captain.user_id, offer_id))
        await rig.lock_wait()  # the winner's event has looked for his other offers, and saw none
        await connection.execute(status, "live", other.order_id)
    gone = await rig.told(DISPATCH_OFFERS, other.order_id, lambda e: isinstance(e, OffersWithdrawn))
    assert isinstance(gone[-1].event, OffersWithdrawn)
    assert gone[-1].event.reason == "busy"
    assert await rig.offers(other) == {}


async def test_an_offer_that_a_captain_gets_while_he_changes_his_vehicle_is_declined_as_well(
    rig: Rig,
) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    await rig.live(order, 1)
    status = "UPDATE offers SET status = $1 WHERE order_id = $2"
    await rig.rows(status, "withdrawn", order.order_id)
    me = {"transporterId": "t-good", "name": "Test", "vehicleType": "TRUCK", "vehicleSubtype": rig.subtype}
    async with rig.database.transaction() as connection:  # as a wave holds him that offers him the order
        await connection.execute(
            "SELECT FROM captains WHERE captain_id = $1 FOR NO KEY UPDATE", captain.user_id
        )
        changing = asyncio.create_task(captain.call("PUT", "/captains/me", me | {"vehicleNumber": "DL2"}))
        await rig.lock_wait()  # the change has looked for his offers, and saw none
        await connection.execute(status, "live", order.order_id)
    assert (await changing).status_code == 200
    assert await rig.offers(order, "declined") != {}
    assert await rig.offers(order) == {}


async def test_no_order_is_matched_before_the_fleet_is_in_memory(home: Home) -> None:
    async with dispatcher(home) as first:
        captain, subtype = await first.captain(100), first.subtype
    async with dispatcher(home, replicas=0) as outside, contextlib.AsyncExitStack() as replicas:
        order = Order(subtype)
        await outside.publish(order.created())
        async with outside.database.transaction() as connection:
            await connection.execute("LOCK TABLE captains IN ACCESS EXCLUSIVE MODE")  # no captain can be read
            await replicas.enter_async_context(running(build, home.settings()))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LONGER_THAN_A_JOIN_S):
                    await outside.eventually(lambda: outside.rows(SELECT_ROUNDS, order.order_id), bool)
        assert (await outside.live(order, 1)).keys() == {captain.user_id}
        assert [row["wave"] for row in await outside.rows(SELECT_ROUNDS, order.order_id)] == [1]
