"""Traffic that no error stops: customers who insist with the same key, captains who say yes, no or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

from tests.e2e.city import Captain, City, Customer, new_subtype, order_body
from tests.integration.events_rig import until
from tools.demo.phone import API, Answer, Phone, Unanswered
from tools.weelo_client.notifications import Notification

CUSTOMERS = 10
CAPTAINS = 12
PATIENCE_S = 30.0  # of a person whose service was killed
PAUSE_S = 0.2  # before the same call again


@dataclass(frozen=True, slots=True)
class Refused:
    """One 503: the replica that gave it, when (on the monotonic clock), and how long it took."""

    replica_url: str
    at: float
    seconds: float


@dataclass
class Traffic:
    """People at work on one city, and what they were answered."""

    city: City
    random: Random
    subtype: str = field(default_factory=new_subtype)
    answers: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)
    """Calls that got no whole answer, by what cut them off."""
    patience_s: float = PATIENCE_S
    """How long a person insists; longer where more than one thing is broken at a time."""
    people: set[str] = field(default_factory=set)
    """The captains, whose sockets are open."""
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def slowest_503_s(self) -> float:
        """Of all; 0 where there was none."""
        return max((one.seconds for one in self.refused), default=0.0)

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Traffic inside, none afterwards: each customer ends the order in hand."""
        async with contextlib.AsyncExitStack() as sockets, asyncio.TaskGroup() as work:
            captains = [
                await sockets.enter_async_context(self.city.captain(self.subtype)) for _ in range(CAPTAINS)
            ]
            self.people.update(captain.person_id for captain in captains)
            positions = work.create_task(self._drive(captains))
            deciding = [work.create_task(self._captain(captain)) for captain in captains]
            customers = [work.create_task(self._customer(self.city.customer())) for _ in range(CUSTOMERS)]
            yield
            self._closing.set()
            await asyncio.wait(customers)
            for task in (positions, *deciding):
                task.cancel()

    async def reached(self, what: str, count: int) -> None:
        """Wait until so many of one kind of answer were given."""
        await until(
            lambda: self.answers[what] >= count, f"{count} × {what}: {self.answers}", self.patience_s * 2
        )

    async def _insist(
        self,
        phone: Phone,
        method: str,
        service: str,
        path: str,
        body: Mapping[str, Any],
        key: str | None = None,
    ) -> Answer:
        async with asyncio.timeout(self.patience_s):
            while True:
                url = self.city.url(service, path)
                with self._unanswered():
                    answer = await phone.call(method, url, body, idempotency_key=key)
                    self._note(answer, url)
                    if answer.status != 503 and answer.code != "CONCURRENT_REQUEST":
                        return answer
                self.answers["again"] += 1
                await asyncio.sleep(self.random.uniform(PAUSE_S / 2, PAUSE_S))

    async def _customer(self, customer: Customer) -> None:
        while not self._closing.is_set():
            body = order_body(self.subtype, trucks=self.random.choice([1, 1, 2]))
            key = str(uuid4())
            created = await self._insist(customer.phone, "POST", "order-api", "/orders", body, key)
            self._expect(created, 201)
            order_id = created.data["orderId"]
            self.city.created.add(order_id)
            self.answers["created"] += 1
            if self.random.random() < 0.3:
                again = await self._insist(customer.phone, "POST", "order-api", "/orders", body, key)
                if again.body != created.body:
                    self.surprises.append(f"a retry of {order_id} had another body")
            if self.random.random() < 0.3:
                path = f"/orders/{order_id}/cancel"
                self._expect(
                    await self._insist(customer.phone, "POST", "order-api", path, {}),
                    200,
                    "ORDER_NOT_CANCELLABLE",
                )
            await self._search_end(customer, order_id)

    async def _search_end(self, customer: Customer, order_id: str) -> None:
        async with asyncio.timeout(self.patience_s):
            while True:
                url = self.city.url("order-api", f"/orders/{order_id}")
                with self._unanswered():
                    read = await customer.phone.call("GET", url)
                    self._note(read, url)
                    if read.ok and not read.data["order"]["searching"]:
                        self.answers[read.data["order"]["status"]] += 1
                        return
                await asyncio.sleep(PAUSE_S)

    async def _drive(self, captains: list[Captain]) -> None:
        while True:
            for captain in captains:
                with contextlib.suppress(Unanswered, AssertionError):  # the next one counts as well
                    await captain.send_position()
            await asyncio.sleep(2)

    async def _captain(self, captain: Captain) -> None:
        seen = 0
        while True:
            async with captain.inbox.arrived:
                await captain.inbox.arrived.wait_for(lambda: len(captain.inbox.frames) > seen)  # noqa: B023
            frames, seen = captain.inbox.frames[seen:], len(captain.inbox.frames)
            for frame in frames:
                if frame.event == "new_broadcast":
                    await self._decide(captain, frame)

    async def _decide(self, captain: Captain, frame: Notification) -> None:
        choice = self.random.random()
        if choice < 0.6:
            order_id = frame.data["orderId"]
            body = {"offerToken": frame.data["offerToken"]}
            won = await self._insist(captain.phone, "POST", "order-api", f"/orders/{order_id}/accept", body)
            self._expect(won, 200, "ORDER_CANCELLED", "ORDER_EXPIRED", "TRUCK_REQUEST_TAKEN", "CAPTAIN_BUSY")
            if won.ok:
                self.answers["won"] += 1
                truck_id = won.data["truckRequest"]["id"]
                for step in ("start", "complete"):
                    path = f"/truck-requests/{truck_id}/{step}"
                    done = await self._insist(captain.phone, "POST", "order-api", path, {})
                    self._expect(done, 200, "INVALID_TRANSITION")
        elif choice < 0.8:
            path = f"/offers/{frame.data['offerId']}/decline"
            declined = await self._insist(
                captain.phone, "POST", "dispatcher", path, {"reason": "NOT_AVAILABLE"}
            )
            self._expect(declined, 200, "OFFER_EXPIRED")

    @contextlib.contextmanager
    def _unanswered(self) -> Iterator[None]:
        """A call that may get no answer."""
        try:
            yield
        except Unanswered as error:
            self.unanswered[str(error).rpartition(" ")[2]] += 1

    def _note(self, answer: Answer, url: str) -> None:
        """What the contract promises of any answer, whatever is broken behind it."""
        if answer.status == 503:
            self.refused.append(Refused(url.partition(API)[0], time.monotonic(), answer.seconds))
            self.answers["503"] += 1
        if answer.status == 500 or answer.code == "NOT_AN_ENVELOPE":
            self.surprises.append(f"{answer.status} {answer.body[:200]!r}")

    def _expect(self, answer: Answer, status: int, *codes: str) -> None:
        if answer.status != status and answer.code not in codes:
            self.surprises.append(f"{answer.status} {answer.code} {answer.body[:200]!r}")
