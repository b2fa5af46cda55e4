"""From an order to its offers, and what becomes of them, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import asyncpg
import pytest

from deploy.local.stack import LocalStack
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home
from weelo_common.events import (
    CaptainState,
    DispatchExhausted,
    OfferDeclined,
    OffersMade,
    OffersWithdrawn,
    TimerCancelled,
    TimerScheduled,
    timer_key,
)
from weelo_common.events.topics import CAPTAINS_STATE, DISPATCH_OFFERS, TIMERS_COMMANDS
from weelo_common.ids import new_id
from weelo_common.offer_tokens import OfferTokenVerifier


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def test_the_nearest_free_captains_get_the_first_offers(rig: Rig) -> None:
    captains = [await rig.captain(north_m) for north_m in (1900, 100, 300, 500, 700, 900)]
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 5)
    assert captains[0].user_id not in offers
    (made,) = (
        e.event
        for e in await rig.told(DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, OffersMade))
        if isinstance(e.event, OffersMade)
    )
    assert (made.wave, made.radius_m, made.distance_km) == (1, 2000, 25)
    assert [offer.captain_id for offer in made.offers] == [captain.user_id for captain in captains[1:]]
    assert [round(offer.pickup_distance_m, -1) for offer in made.offers] == [100, 300, 500, 700, 900]
    claims = OfferTokenVerifier(rig.home.stack.keys.offer_jwks.read_text()).verify(made.offers[0].offer_token)
    assert (claims.captain_id, claims.order_id) == (captains[1].user_id, order.order_id)
    (shown,) = await captains[1].offers()
    assert shown["offerId"] == offers[captains[1].user_id]
    assert shown["offerToken"] == made.offers[0].offer_token
    (timer,) = (
        e.event
        for e in await rig.told(TIMERS_COMMANDS, order.order_id, lambda e: isinstance(e, TimerScheduled))
    )
    assert isinstance(timer, TimerScheduled)
    assert (timer.owner, timer.version, timer.payload) == ("dispatcher", 1, {"wave": 2})
    assert timer.timer_key == timer_key("dispatch-wave", order.order_id)


async def test_a_token_ends_with_its_order_rounded_up_to_the_second(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order(lifetime_s=45.5)
    created = order.created()
    await rig.publish(created)
    await rig.live(order, 1)
    (shown,) = await captain.offers()
    claims = OfferTokenVerifier(rig.home.stack.keys.offer_jwks.read_text()).verify(shown["offerToken"])
    assert timedelta(0) <= claims.expires_at - created.expires_at < timedelta(seconds=1)


async def test_no_two_offers_of_an_order_to_one_captain_can_be_written(rig: Rig) -> None:
    await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    await rig.live(order, 1)
    with pytest.raises(asyncpg.UniqueViolationError, match="one_offer_of_an_order_to_a_captain"):
        await rig.rows(
            """
            INSERT INTO offers (offer_id, order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype,
                                vehicle_number, wave, distance_m, price_per_truck, open_trucks, made_at, expires_at)
            SELECT 'another', order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype,
                   vehicle_number, wave, distance_m, price_per_truck, open_trucks, made_at, expires_at
              FROM offers WHERE order_id = $1""",
            order.order_id,
        )


async def test_a_repeat_of_the_creation_makes_no_second_offer(rig: Rig) -> None:
    await rig.captain(100)
    order = rig.order()
    created = order.created()
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    event_id = new_id()
    await rig.publish(created, event_id=event_id)
    await rig.publish(created, event_id=event_id)  # the same event again
    await rig.publish(created)  # the same news under another id, as a retried dead letter would be
    await rig.consumed(int(before) + 3)
    assert len(await rig.offers(order)) == 1
    assert rig.metric("weelo_consumer_duplicate_total", consumer="dispatcher") == 1
    assert len(await rig.rows("SELECT FROM match_rounds WHERE order_id = $1", order.order_id)) == 1


async def test_a_decline_brings_a_replacement_at_once(rig: Rig) -> None:
    captains = [await rig.captain(north_m) for north_m in (100, 200, 300, 400, 500, 600)]
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 5)
    first, last = captains[0], captains[-1]
    answer = await first.decline(offers[first.user_id])
    assert answer.json()["data"] == {"offerId": offers[first.user_id], "status": "declined"}
    assert last.user_id in await rig.offers(order)
    again = await first.decline(offers[first.user_id], "OTHER")
    assert (again.status_code, again.json()) == (200, answer.json())
    told = [
        e.event
        for e in await rig.told(
            DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, OffersMade) and len(e.offers) == 1
        )
    ]
    assert [type(event) for event in told] == [OffersMade, OfferDeclined, OffersMade]
    assert isinstance(told[2], OffersMade)
    assert (told[2].wave, told[2].radius_m) == (1, 2000)


async def test_who_changes_his_vehicle_declines_what_he_was_offered_with_the_old_one(rig: Rig) -> None:
    captains = [await rig.captain(north_m) for north_m in (100, 200, 300, 400, 500, 600)]
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 5)
    first, last = captains[0], captains[-1]
    me = {"transporterId": "t-good", "name": "Test", "vehicleType": "TRUCK", "vehicleNumber": "DL1AB1234"}
    same = await first.call("PUT", "/captains/me", me | {"vehicleSubtype": rig.subtype, "name": "Renamed"})
    assert same.status_code == 200
    assert await rig.offers(order) == offers
    other = await first.call("PUT", "/captains/me", me | {"vehicleSubtype": f"{rig.subtype}_B"})
    assert other.status_code == 200
    assert (await rig.offers(order)).keys() == {captain.user_id for captain in captains[1:]}
    assert await first.offers() == []
    told = await rig.told(
        DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, OffersMade) and len(e.offers) == 1
    )
    _, declined, made = (envelope.event for envelope in told)
    assert isinstance(declined, OfferDeclined)
    assert (declined.offer_id, declined.reason) == (offers[first.user_id], "VEHICLE_NOT_SUITABLE")
    assert isinstance(made, OffersMade)
    assert [offer.captain_id for offer in made.offers] == [last.user_id]


async def test_somebody_elses_offer_cannot_be_declined_and_a_dead_one_is_expired(rig: Rig) -> None:
    captain, stranger = await rig.captain(100), await rig.captain(90_000)
    order = rig.order()
    await rig.publish(order.created())
    offer_id = (await rig.live(order, 1))[captain.user_id]
    refused = await stranger.decline(offer_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "NOT_FOUND")
    await rig.publish(order.cancelled())
    await rig.live(order, 0)
    late = await captain.decline(offer_id)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "OFFER_EXPIRED")


async def test_the_winner_is_busy_and_loses_his_other_offers_which_are_replaced(rig: Rig) -> None:
    near = [await rig.captain(north_m) for north_m in (100, 200, 300, 400, 500)]
    first, second = rig.order(), rig.order()
    await rig.publish(first.created(), second.created())
    offers, others = await rig.live(first, 5), await rig.live(second, 5)
    spare = await rig.captain(600)
    winner = near[0]
    await rig.publish(*first.assigned(winner.user_id, offers[winner.user_id]))
    await rig.live(first, 0)
    replaced = await rig.eventually(lambda: rig.offers(second), lambda live: spare.user_id in live)
    assert winner.user_id not in replaced
    assert len(replaced) == 5
    assert (await rig.offers(first, "accepted")).keys() == {winner.user_id}
    assert await rig.offers(second, "withdrawn") == {winner.user_id: others[winner.user_id]}
    gone = [
        e.event
        for e in await rig.told(
            DISPATCH_OFFERS,
            second.order_id,
            lambda e: isinstance(e, OffersMade) and e.offers[0].captain_id == spare.user_id,
        )
        if isinstance(e.event, OffersWithdrawn)
    ]
    assert [(e.reason, [o.captain_id for o in e.offers]) for e in gone] == [("busy", [winner.user_id])]
    me = (await winner.call("GET", "/captains/me")).json()["data"]["captain"]
    assert (me["busy"], me["receivesOffers"], me["noOffersBecause"]) == (True, False, ["busy"])
    states = await rig.told(CAPTAINS_STATE, winner.user_id, lambda e: isinstance(e, CaptainState) and e.busy)
    versions = [e.event.version for e in states if isinstance(e.event, CaptainState)]
    assert versions == sorted(set(versions))


async def test_a_line_without_open_trucks_loses_its_offers_as_filled_and_the_timer_is_cancelled(
    rig: Rig,
) -> None:
    captains = [await rig.captain(north_m) for north_m in (100, 200, 300)]
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 3)
    await rig.publish(*order.assigned(captains[0].user_id, offers[captains[0].user_id]))
    await rig.live(order, 0)
    (gone,) = (
        e.event
        for e in await rig.told(DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, OffersWithdrawn))
        if isinstance(e.event, OffersWithdrawn)
    )
    assert (gone.reason, len(gone.offers)) == ("filled", 2)
    cancelled = await rig.told(TIMERS_COMMANDS, order.order_id, lambda e: isinstance(e, TimerCancelled))
    assert [getattr(e.event, "version", None) for e in cancelled] == [1, 1]


async def test_a_release_while_searching_is_refilled_and_the_captain_is_free_again(rig: Rig) -> None:
    captains = [await rig.captain(north_m) for north_m in (100, 200)]
    order = rig.order(trucks=2)
    await rig.publish(order.created())
    offers = await rig.live(order, 2)
    await rig.publish(*order.assigned(captains[0].user_id, offers[captains[0].user_id]))
    await rig.live(order, 1)
    late = await rig.captain(300)
    await rig.publish(order.released(captains[0].user_id, searching=True))
    assert (await rig.live(order, 2)).keys() == {captains[1].user_id, late.user_id}
    me = (await captains[0].call("GET", "/captains/me")).json()["data"]["captain"]
    assert (me["busy"], me["receivesOffers"]) == (False, True)


async def test_a_release_that_overtakes_its_assignment_leaves_the_captain_free(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    offer_id = (await rig.live(order, 1))[captain.user_id]
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    assigned, filled = order.assigned(captain.user_id, offer_id)
    released = order.released(captain.user_id, searching=False)
    await rig.publish(released, assigned, filled)
    await rig.consumed(int(before) + 3)
    me = (await captain.call("GET", "/captains/me")).json()["data"]["captain"]
    assert me["busy"] is False
    (row,) = await rig.rows("SELECT version, searching FROM orders WHERE order_id = $1", order.order_id)
    assert row == {"version": released.order_version, "searching": False}
    assert await rig.offers(order) == {}


async def test_an_order_whose_end_came_before_its_creation_makes_no_offers(rig: Rig) -> None:
    await rig.captain(100)
    order = rig.order()
    created, cancelled = order.created(), order.cancelled()
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    await rig.publish(cancelled, created)
    await rig.consumed(int(before) + 2)
    (row,) = await rig.rows(
        "SELECT version, status, searching, wave, pickup IS NOT NULL AS whole FROM orders WHERE order_id = $1",
        order.order_id,
    )
    assert row == {"version": 2, "status": "cancelled", "searching": False, "wave": 0, "whole": True}


async def test_an_order_read_after_its_end_makes_no_offers(rig: Rig) -> None:
    await rig.captain(100)
    order = rig.order(lifetime_s=30, created_ago_s=31)
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    await rig.publish(order.created())
    await rig.consumed(int(before) + 1)
    assert await rig.rows("SELECT FROM offers WHERE order_id = $1", order.order_id) == []
    assert len(await rig.rows("SELECT FROM orders WHERE order_id = $1", order.order_id)) == 1


async def test_offers_end_as_expired_with_their_order(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    await rig.live(order, 1)
    await rig.publish(order.expired())
    await rig.live(order, 0)
    assert (await rig.offers(order, "expired")).keys() == {captain.user_id}


async def test_waves_widen_and_the_last_one_that_finds_nobody_says_so(rig: Rig) -> None:
    far = await rig.captain(12_000)
    # So old that every wave is due, and with time left for all of them.
    order = rig.order(lifetime_s=600, created_ago_s=500)
    await rig.publish(order.created())
    for wave in range(2, 7):
        fired = await rig.timer(order, wave)
        assert fired.version == wave - 1
        await rig.publish(fired, event_id=fired.event_id())
        if wave == 4:
            offer_id = (await rig.live(order, 1))[far.user_id]
            assert (await far.decline(offer_id)).status_code == 200
    told = [
        e.event
        for e in await rig.told(DISPATCH_OFFERS, order.order_id, lambda e: isinstance(e, DispatchExhausted))
    ]
    made = [event for event in told if isinstance(event, OffersMade)]
    assert [(event.wave, event.radius_m, len(event.offers)) for event in made] == [
        (1, 2000, 0),
        (2, 5000, 0),
        (3, 10000, 0),
        (4, 25000, 1),
        (5, 50000, 0),
        (6, 50000, 0),
    ]
    assert isinstance(told[-1], DispatchExhausted)
    assert told[-1].waves == 6


async def test_a_captain_holds_three_open_offers_at_most(rig: Rig) -> None:
    captain = await rig.captain(100)
    orders = [rig.order() for _ in range(5)]
    before = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher")
    await rig.publish(*(order.created() for order in orders))
    await rig.consumed(int(before) + 5)
    assert len(await captain.offers()) == 3


async def test_a_customer_sees_who_comes_and_where_they_are_but_only_of_his_order(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 1)
    await rig.publish(*order.assigned(captain.user_id, offers[captain.user_id]))
    path = f"/dispatch/orders/{order.order_id}/captains"
    customer = rig.caller("customer", order.customer_id)

    async def shown() -> list[dict[str, object]]:
        captains: list[dict[str, object]] = (await customer.call("GET", path)).json()["data"]["captains"]
        return captains

    (seen,) = await rig.eventually(shown, lambda captains: len(captains) == 1)
    assert (seen["captainId"], seen["name"], seen["vehicleNumber"]) == (captain.user_id, "Test", "DL1AB1234")
    assert isinstance(seen["lastPosition"], dict)
    assert abs(seen["lastPosition"]["latitude"] - 28.6148) < 0.001
    assert (await rig.caller("customer").call("GET", path)).status_code == 404
