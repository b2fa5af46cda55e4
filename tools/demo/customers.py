"""Customers: they book, tap twice, lose replies, change their minds, and wait.

Each has at most one search at a time, as the system demands; the ways they break that rule are the ones people
really have. A customer must never judge by HTTP alone that a search ended: the frame on his socket tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from time import perf_counter
from typing import Any

from tools.demo.phone import API, Addresses, Answer, Phone, Unanswered
from tools.demo.tally import Tally
from tools.demo.world import Stop, Trip, Vehicle
from weelo_common.ids import new_id

GOODS = ("furniture", "cement", "vegetables", "steel rods", "textiles", "electronics", "tiles")
TWIN_TRIES = 5  # of a retry whose first try is still in flight
FRAME_GRACE_S = 5.0  # after the order's time: the timer, the event and the push are through long before
TOO_LATE_TO_CANCEL = "ORDER_NOT_CANCELLABLE"


def order_body(trip: Trip, lines: Sequence[tuple[Vehicle, int]], goods: str | None = None) -> dict[str, Any]:
    """The body of `POST /orders` for a trip and the trucks wanted."""
    body: dict[str, Any] = {
        "pickup": _place(trip.pickup),
        "drop": _place(trip.drop),
        "distanceKm": trip.distance_km,
        "vehicleRequirements": [
            {
                "vehicleType": vehicle.vehicle_type,
                "vehicleSubtype": vehicle.vehicle_subtype,
                "quantity": quantity,
                "pricePerTruck": vehicle.price(trip.distance_km),
            }
            for vehicle, quantity in lines
        ],
    }
    if goods is not None:
        body["goodsType"] = goods
    return body


def _place(stop: Stop) -> dict[str, Any]:
    return {
        "latitude": stop.point.latitude,
        "longitude": stop.point.longitude,
        "address": stop.address,
        "city": stop.town.name,
        "state": stop.town.state,
    }


class Customer:
    """One customer for the whole evening."""

    def __init__(self, phone: Phone, addresses: Addresses, tally: Tally, random: Random) -> None:
        self.phone = phone
        self._orders = f"{addresses.order_api}{API}/orders"
        self._tally = tally
        self._random = random
        self._ended: dict[str, asyncio.Event] = {}

    @property
    def person_id(self) -> str:
        return self.phone.person_id

    def on_event(self, name: str, data: Mapping[str, Any]) -> None:
        """A frame on the socket: remembers that a search has ended."""
        if name in ("order_fully_filled", "order_cancelled", "order_expired"):
            self._search(data["orderId"]).set()

    async def try_create(self, body: Mapping[str, Any], key: str) -> Answer:
        """One `POST /orders`, counted by its answer.

        Raises:
            Unanswered: no whole answer came.
        """
        sent_at = perf_counter()
        answer = await self.phone.call("POST", self._orders, body, idempotency_key=key)
        if answer.status == 201 and answer.replayed:
            self._tally.replayed(answer.data["orderId"])
        elif answer.status == 201:
            self._tally.created(answer.data["orderId"], sent_at, answer.seconds)
        elif answer.code == "CONCURRENT_REQUEST":
            self._tally.orders.concurrent_rejected += 1
        elif answer.code == "ACTIVE_ORDER_EXISTS":
            self._tally.orders.active_rejected += 1
        else:
            self._tally.surprise(f"create was answered {answer.status} {answer.code}")
        return answer

    async def create(self, body: Mapping[str, Any], key: str | None = None) -> Answer | None:
        """Book as an honest app does: the same key until there is an answer. None where none came."""
        key = key or new_id()
        for attempt in range(TWIN_TRIES):
            try:
                answer = await self.try_create(body, key)
            except Unanswered as error:
                self._tally.say(f"{self.phone.nickname} lost a reply: {error}")
                answer = None
            if answer is not None and answer.code not in ("CONCURRENT_REQUEST", "SERVICE_UNAVAILABLE"):
                return answer
            await asyncio.sleep(self._random.uniform(0.2, 0.5) * (attempt + 1))
        self._tally.surprise(f"{self.person_id} got no answer to {TWIN_TRIES} tries")
        return None

    async def retry(self, body: Mapping[str, Any], key: str, first: Answer) -> None:
        """The same key again: the same bytes must come back."""
        again = await self.create(body, key)
        if again is None:
            return
        if (again.status, again.replayed, again.body) != (201, True, first.body):
            self._tally.surprise(f"a retry was answered {again.status} {again.code}, or with other bytes")

    async def tap_at_once(self, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Several creates in the same instant, each with a key of its own; the answers that came."""
        tries = [self.try_create(body, new_id()) for body in bodies]
        results = await asyncio.gather(*tries, return_exceptions=True)
        answers = []
        for result in results:
            if isinstance(result, Answer):
                answers.append(result)
            elif isinstance(result, Unanswered):
                self._tally.surprise(str(result))
            else:
                raise result
        await self._check_one_search([answer for answer in answers if answer.status == 201])
        return answers

    async def _check_one_search(self, won: Sequence[Answer]) -> None:
        """On a slow machine the first order may be filled before the second request is read; only both searching is
        wrong."""
        searching = 0
        for answer in won if len(won) > 1 else ():
            try:
                read = await self.phone.call("GET", f"{self._orders}/{answer.data['orderId']}")
            except Unanswered as error:
                self._tally.surprise(str(error))
                return
            searching += bool(read.ok and read.data["order"]["searching"])
        if searching > 1:
            self._tally.surprise(f"{self.person_id} has {searching} orders that search at once")

    async def cancel(self, order_id: str) -> bool:
        """Cancel; whether the order is cancelled now. It may have ended in the same moment."""
        url = f"{self._orders}/{order_id}/cancel"
        try:
            answer = await self.phone.insist("POST", url, {"reason": "changed my mind"}, self._random)
        except Unanswered as error:
            self._tally.surprise(str(error))
            return False
        if not answer.ok and answer.code != TOO_LATE_TO_CANCEL:
            self._tally.surprise(f"cancel was answered {answer.status} {answer.code}")
        return answer.ok

    async def search_end(self, order_id: str, at_most_s: float) -> bool:
        """Wait until the search has ended; False, and a surprise, where no frame said so in time."""
        try:
            await asyncio.wait_for(self._search(order_id).wait(), at_most_s + FRAME_GRACE_S)
        except TimeoutError:
            self._tally.surprise(f"no frame told {self.person_id} that order {order_id} ended")
            return False
        finally:
            self._ended.pop(order_id, None)
        return True

    def _search(self, order_id: str) -> asyncio.Event:
        # Made by whoever comes first: the frame may be faster than the reply to the POST.
        return self._ended.setdefault(order_id, asyncio.Event())
