"""Captains: they drive, send positions, get offers on their phones, and say yes, no or nothing.

How a captain makes up his mind is given to him (`Decide`), so that the scripted acts of the evening decide
for certain and the others by chance. A captain must never take a second trip while he is on one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from random import Random
from time import perf_counter
from typing import Any

from tools.demo.crew import Crew
from tools.demo.phone import API, Addresses, Answer, Phone, Unanswered
from tools.demo.settings import DemoError
from tools.demo.tally import Tally
from tools.demo.world import Vehicle, World, bearing_degrees, step_towards
from weelo_common.clock import SystemClock, format_time
from weelo_common.geo import Coordinates

POSITION_PERIOD_S = 10.0  # between two calls with positions; a sixth of what keeps him fresh
POSITIONS_A_CALL = 4  # phones save their battery by sending several at once
SPEED_MPS = 8.0  # in the traffic of an evening
TIME_LAPSE = 30  # one second of the demo is half a minute on the road
WANDER_M = 700.0  # how far he goes around his stand while he waits for work
MOST_OPEN_OFFERS = 8  # the system gives 3; more would be a defect, and a bound all the same
PAST_TRIPS = 32  # remembered, so that a late frame does not begin one again

FETCH_S = (1.5, 3.5)  # from the win to the pickup
DRIVE_S = (3.0, 7.0)  # from the pickup to the drop
BREAKDOWN_SHARE = 0.04  # of trips that end before they start: the captain gives the truck request back
DECLINE_REASONS = ("NOT_AVAILABLE", "VEHICLE_NOT_SUITABLE", "DISTANCE_TOO_FAR", "OTHER")

ACCEPT_LOST = frozenset({"ORDER_CANCELLED", "ORDER_EXPIRED", "CAPTAIN_BUSY"})  # fair answers to a late yes


class Decision(Enum):
    """What a captain does with an offer."""

    ACCEPT = "accept"
    DECLINE = "decline"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Broadcast:
    """An offer as it stands on the phone."""

    offer_id: str
    offer_token: str
    order_id: str
    pickup: Coordinates
    drop: Coordinates

    @classmethod
    def from_frame(cls, data: Mapping[str, Any]) -> Broadcast:
        return cls(
            offer_id=data["offerId"],
            offer_token=data["offerToken"],
            order_id=data["orderId"],
            pickup=Coordinates.model_validate(data["pickup"]),
            drop=Coordinates.model_validate(data["drop"]),
        )


Decide = Callable[[str, Broadcast], Awaitable[Decision]]
"""Given the captain's id and the offer: waits as long as he thinks, then says what he does."""


class Captain:
    """One captain for the whole evening. `run()` until cancelled; `register()` before it."""

    def __init__(
        self,
        phone: Phone,
        addresses: Addresses,
        vehicle: Vehicle,
        transporter_id: str,
        home: Coordinates,
        decide: Decide,
        tally: Tally,
        world: World,
        random: Random,
        *,
        stays: bool = False,
    ) -> None:
        self.phone = phone
        self.vehicle = vehicle
        self.transporter_id = transporter_id
        self._at = home
        self._stand = home  # where he waits for work: after a trip, wherever it ended
        self._stays = stays  # scripted captains come back to where their act needs them
        self._target = home
        self._addresses = addresses
        self._decide = decide
        self._tally = tally
        self._world = world
        self._random = random
        self._clock = SystemClock()
        self._thinking: dict[str, asyncio.Task[None]] = {}
        self._truck_request: str | None = None
        self._trip: asyncio.Task[None] | None = None
        self._past: deque[str] = deque(maxlen=PAST_TRIPS)

    @property
    def person_id(self) -> str:
        return self.phone.person_id

    @property
    def busy(self) -> bool:
        """Whether he is on a trip."""
        return self._truck_request is not None

    async def register(self, transporter: Phone) -> None:
        """Tell the dispatcher who he is, have his membership confirmed, go on duty, send a first position.

        Raises:
            DemoError: the dispatcher refused; nothing of the demo works then.
            Unanswered: no answer came, even to repeats.
        """
        base = f"{self._addresses.dispatcher}{API}"
        me = {
            "transporterId": self.transporter_id,
            "name": f"Captain {self.person_id}",
            "vehicleType": self.vehicle.vehicle_type,
            "vehicleSubtype": self.vehicle.vehicle_subtype,
            "vehicleNumber": self._world.plate(),
        }
        confirm = f"{base}/transporters/{self.transporter_id}/captains/{self.person_id}"
        for phone, method, url, body in (
            (self.phone, "PUT", f"{base}/captains/me", me),
            (transporter, "PUT", confirm, {"confirmed": True}),
            (self.phone, "PUT", f"{base}/captains/me/availability", {"available": True}),
            (self.phone, "POST", f"{base}/captains/me/locations", self._positions()),
        ):
            answer = await phone.insist(method, url, body, self._random)
            if not answer.ok:
                raise DemoError(f"{method} {url} was answered {answer.status} {answer.code}")

    async def drive(self) -> None:
        """Send positions for ever; a call that fails is left out, as a phone without network would."""
        url = f"{self._addresses.dispatcher}{API}/captains/me/locations"
        await asyncio.sleep(self._random.uniform(0, POSITION_PERIOD_S))  # not all in the same moment
        while True:
            try:
                answer = await self.phone.call("POST", url, self._positions())
            except Unanswered as error:
                self._tally.surprise(str(error))
            else:
                if answer.status == 202:
                    self._tally.positions += POSITIONS_A_CALL
                else:
                    self._tally.surprise(f"positions were answered {answer.status} {answer.code}")
            await asyncio.sleep(POSITION_PERIOD_S)

    async def on_event(self, name: str, data: Mapping[str, Any], work: Crew) -> None:
        """A frame on his socket. What takes time goes on in `work`."""
        if name == "new_broadcast":
            offer = Broadcast.from_frame(data)
            self._tally.offer_on_a_phone(offer.order_id, perf_counter())
            if not self.busy and len(self._thinking) < MOST_OPEN_OFFERS:
                task = work.create_task(self._answer(offer, work))
                self._thinking[offer.offer_id] = task
                task.add_done_callback(lambda _: self._thinking.pop(offer.offer_id, None))
        elif name == "broadcast_dismissed":
            task_or_none = self._thinking.pop(data["offerId"], None)
            if task_or_none is not None:
                task_or_none.cancel()
        elif name == "trip_assigned":
            self._take(
                data["truckRequestId"],
                Coordinates.model_validate(data["pickup"]),
                Coordinates.model_validate(data["drop"]),
                work,
            )
        elif (
            name == "trip_cancelled"
            and self._trip is not None
            and data["truckRequestId"] == self._truck_request
        ):
            self._trip.cancel()

    async def _answer(self, offer: Broadcast, work: Crew) -> None:
        decision = await self._decide(self.person_id, offer)
        # From here on a dismissal changes nothing: the thumb is on the button.
        self._thinking.pop(offer.offer_id, None)
        try:
            if decision is Decision.ACCEPT and not self.busy:
                await self._accept(offer, work)
            elif decision is Decision.DECLINE:
                await self._decline(offer)
        except Unanswered as error:
            self._tally.surprise(str(error))

    async def _accept(self, offer: Broadcast, work: Crew) -> None:
        url = f"{self._addresses.order_api}{API}/orders/{offer.order_id}/accept"
        answer = await self.phone.insist("POST", url, {"offerToken": offer.offer_token}, self._random)
        if answer.status == 200:
            self._tally.accept.add(answer.seconds)
            self._take(answer.data["truckRequest"]["id"], offer.pickup, offer.drop, work)
        elif answer.code == "TRUCK_REQUEST_TAKEN":
            self._tally.offers.lost_races += 1
            self._tally.say(f"{self.phone.nickname} was a moment too late for order {offer.order_id[-6:]}")
        elif answer.code not in ACCEPT_LOST:
            self._tally.surprise(f"accept was answered {answer.status} {answer.code}")

    async def _decline(self, offer: Broadcast) -> None:
        url = f"{self._addresses.dispatcher}{API}/offers/{offer.offer_id}/decline"
        reason = self._random.choice(DECLINE_REASONS)
        answer = await self.phone.insist("POST", url, {"reason": reason}, self._random)
        if answer.status != 200 and answer.code != "OFFER_EXPIRED":
            self._tally.surprise(f"decline was answered {answer.status} {answer.code}")

    def _take(self, truck_request_id: str, pickup: Coordinates, drop: Coordinates, work: Crew) -> None:
        """Begin a trip; the reply to the accept and the frame both tell of it, the first counts."""
        if self._truck_request is not None:
            if self._truck_request != truck_request_id:
                self._tally.surprise(f"{self.person_id} was given a second trip while on one")
            return
        if truck_request_id in self._past:
            return
        self._truck_request = truck_request_id
        self._tally.busy_captains += 1
        self._trip = work.create_task(self._travel(truck_request_id, pickup, drop))
        self._trip.add_done_callback(self._trip_over)

    def _trip_over(self, _: asyncio.Task[None]) -> None:
        # A callback and not a `finally`: a task that is cancelled before its first step never enters one.
        if self._truck_request is not None:
            self._past.append(self._truck_request)
        self._truck_request = None
        self._trip = None
        self._tally.busy_captains -= 1
        if not self._stays:
            self._stand = self._at
        self._target = self._stand

    async def _travel(self, truck_request_id: str, pickup: Coordinates, drop: Coordinates) -> None:
        url = f"{self._addresses.order_api}{API}/truck-requests/{truck_request_id}"
        try:
            self._target = pickup
            await asyncio.sleep(self._random.uniform(*FETCH_S))
            if not self._stays and self._random.random() < BREAKDOWN_SHARE:
                await self.phone.insist("POST", f"{url}/release", {"reason": "breakdown"}, self._random)
                self._tally.say(f"{self.phone.nickname} broke down and gave his trip back")
                return
            started = await self.phone.insist("POST", f"{url}/start", {}, self._random)
            if not self._goes_on(started, "start"):
                return
            self._target = drop
            await asyncio.sleep(self._random.uniform(*DRIVE_S))
            completed = await self.phone.insist("POST", f"{url}/complete", {}, self._random)
            if self._goes_on(completed, "complete"):
                self._tally.completed_trips += 1
        except Unanswered as error:
            self._tally.surprise(str(error))

    def _goes_on(self, answer: Answer, step: str) -> bool:
        # The customer may have cancelled in the same moment: that is no surprise.
        if not answer.ok and answer.code != "INVALID_TRANSITION":
            self._tally.surprise(f"{step} was answered {answer.status} {answer.code}")
        return answer.ok

    def _positions(self) -> dict[str, Any]:
        """Where he was in the last moments; each call moves him on."""
        locations = []
        step = timedelta(seconds=POSITION_PERIOD_S / POSITIONS_A_CALL)
        now = self._clock.now()
        for ago in reversed(range(POSITIONS_A_CALL)):
            if self._at == self._target and not self.busy and not self._stays:
                self._target = self._world.near(self._stand, WANDER_M)
            before = self._at
            metres = SPEED_MPS * TIME_LAPSE * POSITION_PERIOD_S / POSITIONS_A_CALL
            self._at = step_towards(before, self._target, metres)
            locations.append(
                {
                    "latitude": self._at.latitude,
                    "longitude": self._at.longitude,
                    "recordedAt": format_time(now - ago * step),
                    "accuracyM": 12,
                    "headingDeg": bearing_degrees(before, self._at),
                    "speedMps": 0 if self._at == before else SPEED_MPS,
                }
            )
        return {"locations": locations}


def by_chance(random: Random) -> Decide:
    """How an ordinary captain decides: after some seconds, mostly yes."""

    async def decide(captain_id: str, offer: Broadcast) -> Decision:
        await asyncio.sleep(random.uniform(0.4, 4.0))
        return random.choices((Decision.ACCEPT, Decision.DECLINE, Decision.IGNORE), (60, 22, 18))[0]

    return decide
