"""The people of the end-to-end benchmark, in one process: customers who book, captains whose sockets are open.

Bookings are due at random moments that wait for nobody, and every time counts from when one was due, so a slow answer
hides nothing. Where captains accept, the first with an offer who is not on a trip does, after a moment's thought; his
trip outlasts the run. Run as ``python -m bench.e2e_phones`` with a plan as JSON on stdin's first line; it says ``open``
once all sockets are, and answers each further line: a round, as JSON, with what came of it; ``cancel`` with how many
orders their customers have cancelled. It must never be what is slow: one loop over epoll, requests put together
beforehand, and a wait with a finer clock than epoll's milliseconds.
"""

from __future__ import annotations

import gc
import heapq
import io
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from bench.fanout_phones import Plan as SocketPlan
from bench.fanout_phones import open_all
from notifier.file_limit import raise_file_limit

CANCELS_AT_ONCE = 8
THOUGHT_S = (0.5, 1.5)  # from an offer to the tap on it
PATIENCE_S = 5.0  # after the last booking; an order that nobody has heard of by then found no captain
READ_BYTES = 256 * 1024
PING, PONG = 0x89, 0x8A  # first bytes of frames
MASKED = 0x80  # and a mask of zeros
ORDER_ID = re.compile(rb'"orderId":"([^"]+)"')

Answered = Callable[[str, bytes, float], None]
"""Takes a status, a body, and when it came."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the services are, and files with a line for each captain and each order."""

    http_port: int
    ws_port: int
    connections: int
    captain_tokens: str
    customer_tokens: str
    bodies: str


@dataclass(frozen=True, slots=True)
class Round:
    """So many bookings a second, for so long; whether captains accept, or nobody answers an offer."""

    rate: float
    seconds: float
    accepting: bool


@dataclass(slots=True)
class Journey:
    """One order's moments, in seconds of the wall clock; 0 for what never came."""

    due: float
    sent: float = 0.0
    answered: float = 0.0
    first_offer: float = 0.0
    last_offer: float = 0.0
    offers: int = 0


@dataclass(slots=True)
class Told:
    """What came of a round. ``cpu_s`` is this process's own, over ``wall_s``."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    created: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    journeys: dict[str, Journey] = field(default_factory=dict)
    """By order id; orders that were not created are missing."""


class HttpConnections:
    """A fixed set of connections, one request in flight on each; what finds none waits its turn."""

    def __init__(self, port: int, count: int, poll: select.epoll) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        self._by_descriptor = {one.fileno(): one for one in self._sockets}
        self._idle = list(self._by_descriptor)
        self._waiting: deque[tuple[bytes, Answered]] = deque()
        self._under_way: dict[int, Answered] = {}
        self._read: dict[int, bytes] = dict.fromkeys(self._by_descriptor, b"")
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(one.fileno(), select.EPOLLIN)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._by_descriptor

    @property
    def busy(self) -> bool:
        return bool(self._under_way or self._waiting)

    def send(self, request: bytes, answered: Answered) -> None:
        """Send a request, now or as soon as a connection is free."""
        if not self._idle:
            self._waiting.append((request, answered))
            return
        descriptor = self._idle.pop()
        self._under_way[descriptor] = answered
        self._by_descriptor[descriptor].sendall(request)  # a kilobyte: the kernel takes it whole

    def readable(self, descriptor: int, now: float) -> None:
        """Take what came on a connection.

        Raises:
            ConnectionError: the service closed it.
        """
        some = os.read(descriptor, READ_BYTES)
        if not some:
            raise ConnectionError("order-api closed a connection")
        data = self._read[descriptor] + some
        head_end = data.find(b"\r\n\r\n")
        if head_end >= 0:
            head = data[:head_end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
            if len(data) >= head_end + 4 + length:
                self._read[descriptor] = b""
                self._idle.append(descriptor)
                answered = self._under_way.pop(descriptor)
                answered(data[9:12].decode(), data[head_end + 4 :], now)
                if self._waiting:
                    self.send(*self._waiting.popleft())
                return
        self._read[descriptor] = data


class People:
    """All of them, and the one loop that serves them."""

    def __init__(self, plan: Plan) -> None:
        self._poll = select.epoll()  # the first descriptor of all: select() takes only small ones
        self._http = HttpConnections(plan.http_port, plan.connections, self._poll)
        self._captain_tokens = Path(plan.captain_tokens).read_text().split()
        self._customer_tokens = Path(plan.customer_tokens).read_text().split()
        self._bookings = _bookings(plan, self._customer_tokens)
        sockets = open_all(
            SocketPlan(plan.ws_port, len(self._captain_tokens), tokens_file=plan.captain_tokens)
        )
        self._sockets = {one.fileno(): (number, one) for number, one in enumerate(sockets)}
        self._unread = {descriptor: bytearray() for descriptor in self._sockets}
        for descriptor in self._sockets:
            self._poll.register(descriptor, select.EPOLLIN)
        self._random = random.Random(1)
        self._next_booking = 0
        self._on_trip: set[int] = set()
        self._told = Told()
        self._heard: dict[str, Journey] = {}
        """Orders whose offers came before the answer, by order id."""
        self._offers: dict[str, list[tuple[int, str]]] = {}
        """By order id: captains who could accept, with their tokens, until one of them does."""
        self._taken: set[str] = set()
        self._open: dict[str, int] = {}
        """Orders that nobody has accepted or cancelled, with their booking's number."""
        self._accepting = True
        self._unheard = 0  # orders of this round that no captain has heard of
        self._thinking: list[tuple[float, str]] = []
        self._to_wall_s = time.time() - time.perf_counter()

    def round(self, plan: Round) -> Told:
        """Carry a round out."""
        self._accepting = plan.accepting
        self._told, self._heard, self._thinking, self._offers, self._unheard = Told(), {}, [], {}, 0
        began, cpu_began = time.perf_counter(), time.process_time()
        due = began + self._random.expovariate(plan.rate)
        end = began + plan.seconds
        while due < end:
            now = self._turn(min(due, self._next_thought()))
            while due <= now and due < end:
                self._book(due)
                due += self._random.expovariate(plan.rate)
        while (self._http.busy or self._thinking or self._unheard) and time.perf_counter() < end + PATIENCE_S:
            self._turn(min(end + PATIENCE_S, self._next_thought()))
        self._told.wall_s = time.perf_counter() - began
        self._told.cpu_s = time.process_time() - cpu_began
        return self._told

    def cancel(self) -> int:
        """Have the customers cancel what nobody accepted, some at a time; returns how many orders that were."""
        left = list(self._open.items())
        count = len(left)
        self._open.clear()
        self._accepting = False
        give_up_at = time.perf_counter() + PATIENCE_S + count / CANCELS_AT_ONCE

        def next_one(*_: object) -> None:
            if left:
                order_id, number = left.pop()
                path = f"/api/v1/orders/{order_id}/cancel"
                self._http.send(_request(path, self._customer_tokens[number], b"{}"), next_one)

        for _ in range(CANCELS_AT_ONCE):
            next_one()
        while self._http.busy and time.perf_counter() < give_up_at:
            self._turn(time.perf_counter() + PATIENCE_S)
        return count

    def idle(self, stdin: int) -> None:
        """Answer pings until there is a line on stdin."""
        self._poll.register(stdin, select.EPOLLIN)
        try:
            while not self._drain(stdin):
                pass
        finally:
            self._poll.unregister(stdin)

    def _drain(self, stdin: int) -> bool:
        ready = [descriptor for descriptor, _ in self._poll.poll()]
        for descriptor in ready:
            if descriptor != stdin:
                self._take(descriptor, time.perf_counter())
        return stdin in ready

    def _turn(self, until: float) -> float:
        """Wait for something to read, or for the moment; take what came; returns the time."""
        # epoll counts in milliseconds; select on epoll's own descriptor in microseconds.
        select.select([self._poll.fileno()], [], [], max(0.0, until - time.perf_counter()))
        for descriptor, _ in self._poll.poll(0, 1 << 16):
            self._take(descriptor, time.perf_counter())
        now = time.perf_counter()
        while self._thinking and self._thinking[0][0] <= now:
            self._accept(heapq.heappop(self._thinking)[1])
        return now

    def _next_thought(self) -> float:
        return self._thinking[0][0] if self._thinking else float("inf")

    def _take(self, descriptor: int, now: float) -> None:
        if descriptor in self._http:
            self._http.readable(descriptor, now)
        else:
            self._take_frames(descriptor, now)

    # --- customers ---

    def _book(self, due: float) -> None:
        number = self._next_booking
        request = self._bookings[number]
        self._next_booking += 1
        self._unheard += 1
        journey = Journey(due + self._to_wall_s, sent=time.perf_counter() + self._to_wall_s)

        def answered(status: str, body: bytes, at: float) -> None:
            created = self._told.created
            created[status] = created.get(status, 0) + 1
            found = ORDER_ID.search(body)
            if status != "201" or found is None:
                return
            journey.answered = at + self._to_wall_s
            order_id = found[1].decode()
            heard = self._heard.pop(order_id, None)
            if heard is not None:
                journey.first_offer, journey.last_offer = heard.first_offer, heard.last_offer
                journey.offers = heard.offers
            self._told.journeys[order_id] = journey
            self._open[order_id] = number

        self._http.send(request, answered)

    # --- captains ---

    def _take_frames(self, descriptor: int, now: float) -> None:
        captain, one = self._sockets[descriptor]
        some = one.recv(READ_BYTES)
        if not some:
            raise ConnectionError(
                f"the notifier closed a captain's socket: {bytes(self._unread[descriptor])!r}"
            )
        unread = self._unread[descriptor]
        unread += some
        while len(unread) >= 2:
            short = unread[1]
            if short == 126 and len(unread) < 4:
                return
            start, length = (4, int.from_bytes(unread[2:4], "big")) if short == 126 else (2, short)
            if len(unread) < start + length:
                return
            if unread[0] == PING:
                one.sendall(bytes((PONG, MASKED | length, 0, 0, 0, 0)) + unread[start : start + length])
            elif b'"event":"new_broadcast"' in unread:
                self._offered(captain, orjson.loads(bytes(unread[start : start + length])), now)
            del unread[: start + length]

    def _offered(self, captain: int, frame: dict[str, object], now: float) -> None:
        if frame.get("event") != "new_broadcast":
            return
        data = frame["data"]
        assert isinstance(data, dict)  # noqa: S101 - the contract's frame
        order_id: str = data["orderId"]
        at = now + self._to_wall_s
        journey = self._told.journeys.get(order_id)
        if journey is None:
            journey = self._heard.setdefault(order_id, Journey(0.0))
        journey.first_offer = journey.first_offer or at
        journey.last_offer = at
        journey.offers += 1
        self._unheard -= journey.offers == 1
        if order_id in self._taken or not self._accepting:
            return
        if order_id not in self._offers:
            self._offers[order_id] = []
            heapq.heappush(self._thinking, (now + self._random.uniform(*THOUGHT_S), order_id))
        self._offers[order_id].append((captain, data["offerToken"]))

    def _accept(self, order_id: str) -> None:
        """The first who is not on a trip takes it; where all are, whoever is asked next may."""
        for captain, token in self._offers.pop(order_id):
            if captain in self._on_trip:
                continue
            self._on_trip.add(captain)
            self._taken.add(order_id)
            self._open.pop(order_id, None)
            body = json.dumps({"offerToken": token}).encode()
            path = f"/api/v1/orders/{order_id}/accept"
            self._http.send(_request(path, self._captain_tokens[captain], body), self._accepted)
            return
        self._told.accepted["nobody was free"] = self._told.accepted.get("nobody was free", 0) + 1

    def _accepted(self, status: str, body: bytes, at: float) -> None:
        accepted = self._told.accepted
        accepted[status] = accepted.get(status, 0) + 1


def _bookings(plan: Plan, tokens: list[str]) -> list[bytes]:
    bodies = Path(plan.bodies).read_bytes().splitlines()
    return [
        _request("/api/v1/orders", token, body, f"X-Idempotency-Key: e2e-{number}\r\n")
        for number, (token, body) in enumerate(zip(tokens, bodies, strict=True))
    ]


def _request(path: str, token: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Connect everybody, then carry out one round for each line."""
    commands = io.FileIO(sys.stdin.fileno(), closefd=False)  # unbuffered: what is not read yet, epoll sees
    plan = Plan(**json.loads(commands.readline()))
    raise_file_limit(len(Path(plan.captain_tokens).read_text().split()) + plan.connections)
    people = People(plan)
    gc.freeze()
    gc.disable()  # a pause of its own would count as the services'
    print("open", flush=True)
    while True:
        people.idle(sys.stdin.fileno())
        line = commands.readline().strip()
        if not line:
            return
        if line == b"cancel":
            print(people.cancel(), flush=True)
        else:
            print(json.dumps(asdict(people.round(Round(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
