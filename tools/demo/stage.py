"""Scripted acts: each shows one promise of the system, and happens for certain rather than by chance.

Every act has customers, captains and a kind of truck of its own, so that no chance meeting disturbs it. An act
must never wait without a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tools.demo.captains import Broadcast, Decide, Decision
from tools.demo.customers import Customer, order_body
from tools.demo.phone import Answer
from tools.demo.tally import Tally
from tools.demo.world import Stop, Vehicle, World, offset
from weelo_common.geo import Coordinates
from weelo_common.ids import new_id

NEAR_M = 400.0  # captains of an act wait this near to its pickup: inside the first wave's 2 km
RACERS = 5  # as many as one wave asks for one truck
MEET_S = 6.0  # racers wait for one another at most this long; about two waves
TWIN_ROUNDS = 12  # of two taps: the first nearly always meets; 24 creates stay under 30 a minute
RACES = 3
TAPS = 3  # of an impatient thumb
ASKED_AT_ONCE = 5  # captains, for an order of one truck
DECLINE_AFTER_S = 1.0
SECOND_AND_THIRD_WAVE_M = (3_500.0, 8_000.0)  # beyond the first wave's 2 km, and the second's 5 km


class Cast(Protocol):
    """Whoever engages people for an act; they live until the evening's end."""

    async def customer(self, name: str) -> Customer: ...

    async def captains(
        self, name: str, vehicle: Vehicle, places: Sequence[Coordinates], decide: Decide
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Scene:
    """What an act has at hand."""

    cast: Cast
    world: World
    tally: Tally


Act = Callable[[Scene], Coroutine[Any, Any, None]]


class Meeting:
    """Captains who answer in the same instant: each waits until all are there, or `MEET_S` is over."""

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._there: dict[str, set[str]] = {}
        self._complete: dict[str, asyncio.Event] = {}

    async def decide(self, captain_id: str, offer: Broadcast) -> Decision:
        """Accept, together with the others who were offered this order."""
        there = self._there.setdefault(offer.order_id, set())
        complete = self._complete.setdefault(offer.order_id, asyncio.Event())
        there.add(captain_id)
        if len(there) >= self._parties:
            complete.set()
        try:
            await asyncio.wait_for(complete.wait(), MEET_S)
        except TimeoutError:
            complete.set()  # whoever is there goes, all in this instant
        return Decision.ACCEPT


async def one_key_one_order(scene: Scene) -> None:
    """Rapid taps with one key, then two retries: one order, the same bytes each time."""
    customer = await scene.cast.customer("retry")
    body, key = order_body(scene.world.trip(), scene.world.requirements()), new_id()
    answers = await asyncio.gather(*(customer.create(body, key) for _ in range(TAPS)))
    first = answers[0]
    if first is None or first.status != 201:
        return
    scene.tally.say(f"{customer.phone.nickname} sends order {_short(first)} again and gets the same answer")
    if any(answer is None or answer.body != first.body for answer in answers):
        scene.tally.surprise(f"{TAPS} rapid taps with one key got different answers")
    await customer.retry(body, key, first)
    await customer.retry(body, key, first)
    await _until_over(customer, first)


async def two_at_once(scene: Scene) -> None:
    """Two creates in one instant: one order, and a 409 for the other. Repeated until they really met."""
    customer = await scene.cast.customer("twins")
    for _ in range(TWIN_ROUNDS):
        bodies = [order_body(scene.world.trip(), scene.world.requirements()) for _ in range(2)]
        answers = await customer.tap_at_once(bodies)
        for answer in answers:
            if answer.status == 201 and await customer.cancel(answer.data["orderId"]):
                await _until_over(customer, answer)
        if any(answer.code == "CONCURRENT_REQUEST" for answer in answers):
            scene.tally.say(f"{customer.phone.nickname} pressed on two phones at once: one order, one 409")
            return


async def second_while_active(scene: Scene) -> None:
    """A second order while the first is searching: 409 with the first one's id; after a cancel it goes."""
    customer = await scene.cast.customer("second")
    nobody = Vehicle("TRUCK", "DEMO_SECOND", 400, 20, share=0)
    first = await customer.create(order_body(scene.world.trip(), [(nobody, 1)]))
    if first is None or first.status != 201:
        return
    second = await customer.create(order_body(scene.world.trip(), [(nobody, 1)]))
    if second is not None and second.data.get("activeOrderId") != first.data["orderId"]:
        scene.tally.surprise(f"a second order was answered {second.status} {second.code}")
    scene.tally.say(
        f"{customer.phone.nickname} may not search twice; cancels {_short(first)} and books at once"
    )
    await customer.cancel(first.data["orderId"])
    third = await customer.create(order_body(scene.world.trip(), [(nobody, 1)]))
    if third is None or third.status != 201:
        scene.tally.surprise("a create right after a cancel was refused")
        return
    await customer.cancel(third.data["orderId"])


async def race_for_one_truck(scene: Scene) -> None:
    """Many captains accept one truck in the same instant: one wins, the others get a 409."""
    vehicle = Vehicle("TRAILER", "DEMO_RACE", 2_500, 60, share=0)
    meeting = Meeting(RACERS)
    pickup = scene.world.stop()
    # One more than race at a time: the winner of one race may still drive when the next begins.
    await _post(scene, "racer", vehicle, pickup, RACERS + RACES, meeting.decide)
    customer = await scene.cast.customer("race")
    for _ in range(RACES):
        first = await customer.create(order_body(scene.world.trip(pickup), [(vehicle, 1)]))
        if first is None or first.status != 201:
            return
        scene.tally.say(f"{RACERS} captains race for the one truck of order {_short(first)}")
        await _until_over(customer, first)


async def two_captains_two_trucks(scene: Scene) -> None:
    """Two captains accept two trucks in the same instant: both win."""
    vehicle = Vehicle("TRUCK", "DEMO_PAIR", 900, 30, share=0)
    meeting = Meeting(2)
    pickup = scene.world.stop()
    await _post(scene, "pair", vehicle, pickup, 2, meeting.decide)
    story = "two captains say yes to the two trucks of order {order} at once"
    await _order(scene, "pair", vehicle, 2, pickup, story)


async def one_says_no(scene: Scene) -> None:
    """One captain more than a wave asks: the first who is asked declines, and the one left out is asked at once."""
    vehicle = Vehicle("TRUCK", "DEMO_DECLINE", 800, 28, share=0)
    asked: list[str] = []

    async def decide(captain_id: str, offer: Broadcast) -> Decision:
        asked.append(captain_id)
        if len(asked) == 1:
            await asyncio.sleep(DECLINE_AFTER_S)  # all five of the wave are asked by then
            return Decision.DECLINE
        return Decision.ACCEPT if len(asked) > ASKED_AT_ONCE else Decision.IGNORE

    pickup = scene.world.stop()
    await _post(scene, "choosy", vehicle, pickup, ASKED_AT_ONCE + 1, decide)
    story = "a captain declines order {order}, and another one is asked at once"
    await _order(scene, "declined", vehicle, 1, pickup, story)


async def waves_reach_farther(scene: Scene) -> None:
    """Nobody near: the second wave finds a captain who declines, the third, farther out, the one who comes."""
    vehicle = Vehicle("TRUCK", "DEMO_FAR", 1_500, 40, share=0)

    async def decide(captain_id: str, offer: Broadcast) -> Decision:
        return Decision.DECLINE if captain_id.endswith("far-1") else Decision.ACCEPT

    pickup = scene.world.stop()
    places = [offset(pickup.point, metres, 0.0) for metres in SECOND_AND_THIRD_WAVE_M]
    await scene.cast.captains("far", vehicle, places, decide)
    story = "nobody is near order {order}: the waves reach farther until somebody comes"
    await _order(scene, "patient", vehicle, 1, pickup, story)


async def cancelled_with_offers_out(scene: Scene) -> None:
    """The customer cancels while captains still think: their offers are withdrawn."""
    vehicle = Vehicle("TRUCK", "DEMO_CANCEL", 800, 28, share=0)
    offered = asyncio.Event()

    async def decide(captain_id: str, offer: Broadcast) -> Decision:
        offered.set()
        return Decision.IGNORE

    pickup = scene.world.stop()
    await _post(scene, "thinker", vehicle, pickup, 3, decide)
    customer = await scene.cast.customer("cancel")
    first = await customer.create(order_body(scene.world.trip(pickup), [(vehicle, 1)]))
    if first is None or first.status != 201:
        return
    try:
        await asyncio.wait_for(offered.wait(), first.data["timeoutSeconds"] / 2)
    except TimeoutError:
        scene.tally.surprise("no captain was offered the order that was to be cancelled")
    scene.tally.say(f"{customer.phone.nickname} cancels order {_short(first)} while captains still think")
    if await customer.cancel(first.data["orderId"]):
        await _until_over(customer, first)


async def nobody_near(scene: Scene) -> None:
    """A kind of truck that nobody drives: the search ends by time."""
    vehicle = Vehicle("TANKER", "DEMO_NOBODY", 3_000, 70, share=0)
    story = "nobody drives what order {order} needs: its search ends by time"
    await _order(scene, "alone", vehicle, 1, None, story)


async def too_few_captains(scene: Scene) -> None:
    """Three trucks wanted, two captains there: partially filled when the time is over."""
    vehicle = Vehicle("TRUCK", "DEMO_FEW", 1_000, 32, share=0)

    async def decide(captain_id: str, offer: Broadcast) -> Decision:
        return Decision.ACCEPT

    pickup = scene.world.stop()
    await _post(scene, "few", vehicle, pickup, 2, decide)
    await _order(scene, "few", vehicle, 3, pickup, "order {order} wants three trucks where two are")


ACTS: tuple[Act, ...] = (
    one_key_one_order,
    two_at_once,
    second_while_active,
    race_for_one_truck,
    two_captains_two_trucks,
    one_says_no,
    waves_reach_farther,
    cancelled_with_offers_out,
    nobody_near,
    too_few_captains,
)


async def _post(
    scene: Scene, name: str, vehicle: Vehicle, pickup: Stop, how_many: int, decide: Decide
) -> None:
    """Captains who wait around the pickup."""
    places = [scene.world.near(pickup.point, NEAR_M) for _ in range(how_many)]
    await scene.cast.captains(name, vehicle, places, decide)


async def _order(
    scene: Scene, who: str, vehicle: Vehicle, trucks: int, pickup: Stop | None, story: str
) -> None:
    """A customer orders; once that is made its story is told, and it is over when the order is."""
    customer = await scene.cast.customer(who)
    first = await customer.create(order_body(scene.world.trip(pickup), [(vehicle, trucks)]))
    if first is not None and first.status == 201:
        scene.tally.say(story.format(order=_short(first)))
        await _until_over(customer, first)


async def _until_over(customer: Customer, created: Answer) -> None:
    await customer.search_end(created.data["orderId"], created.data["timeoutSeconds"])


def _short(answer: Answer) -> str:
    return str(answer.data["orderId"])[-6:]
