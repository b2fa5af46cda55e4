"""The evening: who is there, when the acts play, when customers come, and when all is over.

It puts people, acts and chance together. It must never end before every search and trip has, or their time is
over: the ledger is read only when nothing moves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from time import monotonic
from typing import Any

import httpx

from tools.demo.captains import Captain, Decide, by_chance
from tools.demo.crew import Crew
from tools.demo.customers import GOODS, Customer, order_body
from tools.demo.listening import Listening
from tools.demo.phone import API, Addresses, Phone
from tools.demo.screen import Screen
from tools.demo.settings import DemoError, Scale
from tools.demo.stage import ACTS, Scene
from tools.demo.tally import Tally
from tools.demo.world import Vehicle, World
from weelo_common.geo import Coordinates
from weelo_common.ids import new_id

TRANSPORTERS = 12  # companies that own the trucks
REGISTERING_AT_ONCE = 8  # the services share two cores with the brokers
SETTLE_S = 1.0  # from the last position sent until every replica's index has it
ACT_PAUSE_S = 2.0  # between the starts of two acts, so that a watcher can follow
SHORTEST_TRAFFIC_S = 40.0  # however long the set-up took: the acts need so much
VISITS_DEADLINE_S = 60.0  # beyond the traffic: the last searches' life, and some
TRIPS_DEADLINE_S = 30.0  # the longest trip takes 12 s
# What customers do: a number is drawn from 0 to 1, and the first bound above it tells. The rest only wait.
TAPS_TWICE, SENDS_AGAIN, CANCELS, BOOKS_TWICE = 0.06, 0.18, 0.30, 0.36
CHANGES_MIND_S = (0.3, 5.0)
POLL_S = 0.2
QUIET_S = 1.0

MakeToken = Callable[[str, str], str]
"""Given role and id, a bearer token."""


class Evening:
    """One evening on a running stack: `run()` once."""

    def __init__(
        self,
        scale: Scale,
        addresses: Addresses,
        people_prefix: str,
        make_token: MakeToken,
        client: httpx.AsyncClient,
        world: World,
        random: Random,
        tally: Tally,
        screen: Screen,
    ) -> None:
        self._scale = scale
        self._addresses = addresses
        self._prefix = people_prefix
        self._make_token = make_token
        self._client = client
        self._world = world
        self._random = random
        self._tally = tally
        self._screen = screen
        self._began = 0.0
        self._crew = Crew()
        self._listening = Listening(addresses.socket, tally)
        self._registering = asyncio.Semaphore(REGISTERING_AT_ONCE)
        self._transporters: list[Phone] = []
        self._idle: deque[Customer] = deque()
        self._captains: list[Captain] = []

    async def run(self) -> None:
        """Set up, play, and wait until nothing moves.

        Raises:
            ExceptionGroup: of DemoError or Unanswered, where the services do not take the people of the evening; else
                a defect of the demo, or an answer that breaks the contract's shape.
        """
        self._began = monotonic()
        async with self._crew:
            await self._open_for_business()
            await asyncio.sleep(SETTLE_S)
            self._screen.phase = "the evening"
            async with asyncio.TaskGroup() as programme:
                programme.create_task(self._play_acts())
                programme.create_task(self._let_customers_in())
            self._screen.phase = "the last trips"
            await self._until_no_trips()

    async def customer(self, name: str) -> Customer:
        """A new customer who listens; for the acts and for the pool."""
        phone = self._phone("customer", f"c-{name}")
        customer = Customer(phone, self._addresses, self._tally, self._random)

        async def on_event(event: str, data: Mapping[str, Any]) -> None:
            customer.on_event(event, data)

        await self._listening.start(phone, on_event, self._crew)
        return customer

    async def captains(
        self, name: str, vehicle: Vehicle, places: Sequence[Coordinates], decide: Decide
    ) -> None:
        """Captains of an act, registered, listening, and staying where they are."""
        captains = [
            self._captain(f"{name}-{number}", vehicle, place, decide, stays=True)
            for number, place in enumerate(places, 1)
        ]
        async with asyncio.TaskGroup() as arrivals:
            for captain in captains:
                arrivals.create_task(self._engage(captain))
        for captain in captains:  # only now: the positions of an unregistered captain are refused
            self._crew.create_task(captain.drive())

    async def _open_for_business(self) -> None:
        ops = self._phone("ops", "ops")
        for number in range(1, TRANSPORTERS + 1):
            phone = self._phone("transporter", f"t-{number}")
            url = f"{self._addresses.dispatcher}{API}/transporters/{phone.person_id}"
            company = {"name": f"Transporter {number}", "active": True, "verified": True}
            answer = await ops.insist("PUT", url, company, self._random)
            if not answer.ok:
                raise DemoError(f"PUT {url} was answered {answer.status} {answer.code}")
            self._transporters.append(phone)
        self._tally.say(f"{TRANSPORTERS} transporters are registered")
        async with asyncio.TaskGroup() as arrivals:
            for number in range(1, self._scale.captains + 1):
                home = self._world.at_market(self._world.town())
                decide = by_chance(self._random)
                captain = self._captain(str(number), self._world.vehicle(), home, decide, stays=False)
                arrivals.create_task(self._engage(captain))
            for number in range(1, self._scale.customers + 1):
                arrivals.create_task(self._admit(str(number)))
        for captain in self._captains:  # only now: registering them is work enough for two cores
            self._crew.create_task(captain.drive())
        self._tally.say(
            f"{self._scale.captains} captains are on duty, {self._scale.customers} customers wait"
        )

    def _phone(self, role: str, name: str) -> Phone:
        person_id = f"{self._prefix}{name}"
        return Phone(self._client, person_id, self._make_token(role, person_id))

    def _captain(
        self, name: str, vehicle: Vehicle, home: Coordinates, decide: Decide, *, stays: bool
    ) -> Captain:
        captain = Captain(
            self._phone("captain", f"k-{name}"),
            self._addresses,
            vehicle,
            self._random.choice(self._transporters).person_id,
            home,
            decide,
            self._tally,
            self._world,
            self._random,
            stays=stays,
        )
        self._captains.append(captain)
        return captain

    async def _engage(self, captain: Captain) -> None:
        async def on_event(event: str, data: Mapping[str, Any]) -> None:
            await captain.on_event(event, data, self._crew)

        owner = next(phone for phone in self._transporters if phone.person_id == captain.transporter_id)
        async with self._registering:
            # The socket first: without `resume` an offer made before it is ready would not be sent.
            await self._listening.start(captain.phone, on_event, self._crew)
            await captain.register(owner)

    async def _admit(self, name: str) -> None:
        async with self._registering:
            self._idle.append(await self.customer(name))

    async def _play_acts(self) -> None:
        scene = Scene(self, self._world, self._tally)
        async with asyncio.TaskGroup() as stage:
            for act in ACTS:
                stage.create_task(act(scene))
                await asyncio.sleep(ACT_PAUSE_S)

    async def _let_customers_in(self) -> None:
        """Customers at random moments (a Poisson process), until the traffic ends; then their searches' ends."""
        ends_at = max(self._began + self._scale.seconds, monotonic() + SHORTEST_TRAFFIC_S)
        visits: set[asyncio.Task[None]] = set()
        while monotonic() < ends_at:
            await asyncio.sleep(self._random.expovariate(self._scale.orders_per_s))
            if self._idle:  # else all are waiting for their trucks already
                visit = self._crew.create_task(self._visit(self._idle.popleft()))
                visits.add(visit)
                visit.add_done_callback(visits.discard)
        self._screen.phase = "the last searches"
        if visits:
            await asyncio.wait(visits, timeout=VISITS_DEADLINE_S)
        if visits:
            self._tally.surprise(
                f"{len(visits)} customers still wait {VISITS_DEADLINE_S:.0f} s after the traffic"
            )

    async def _visit(self, customer: Customer) -> None:
        """One order of one customer, with what people do to apps."""
        trip, lines = self._world.trip(), self._world.requirements()
        body = order_body(trip, lines, self._random.choice(GOODS))
        mood, key = self._random.random(), new_id()
        if mood < TAPS_TWICE:
            taps = await customer.tap_at_once([body, body])
            created = next((answer for answer in taps if answer.status == 201), None)
        else:
            created = await customer.create(body, key)
        if created is not None and created.status == 201:
            order_id, life_s = created.data["orderId"], created.data["timeoutSeconds"]
            trucks = " and ".join(f"{count} {vehicle.vehicle_subtype}" for vehicle, count in lines)
            self._tally.say(
                f"{customer.phone.nickname} wants {trucks}: {trip.pickup.town.name} to {trip.drop.town.name},"
                f" {trip.distance_km:g} km"
            )
            if TAPS_TWICE <= mood < SENDS_AGAIN:
                await customer.retry(body, key, created)
            elif SENDS_AGAIN <= mood < CANCELS:
                await asyncio.sleep(self._random.uniform(*CHANGES_MIND_S))
                if await customer.cancel(order_id):
                    self._tally.say(f"{customer.phone.nickname} cancels order {order_id[-6:]}")
            elif CANCELS <= mood < BOOKS_TWICE:
                second = await customer.create(body)
                if second is not None and second.status == 201:  # the first search had ended by then
                    await customer.search_end(second.data["orderId"], life_s)
            await customer.search_end(order_id, life_s)
        self._idle.append(customer)

    async def _until_no_trips(self) -> None:
        """Wait until no captain was on a trip for a moment: a reply to the last accept may be on its way."""
        now = monotonic()
        deadline, quiet_since = now + TRIPS_DEADLINE_S, now
        while now - quiet_since < QUIET_S:
            if now > deadline:
                self._tally.surprise(f"trips still run {TRIPS_DEADLINE_S:.0f} s after the last search")
                return
            await asyncio.sleep(POLL_S)
            now = monotonic()
            if any(captain.busy for captain in self._captains):
                quiet_since = now
