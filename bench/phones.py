"""The load of the intake benchmark: many customers, each with his own token, over a fixed set of connections.

A process of its own, so that it costs the service nothing but CPU, and lean: raw sockets, requests put together
before the clock starts. Run as ``python -m bench.phones`` with a plan as JSON on stdin; prints a result as JSON.
It must never send one customer twice in a run: he would have a searching order.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

BODY = json.dumps(
    {
        "pickup": {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"},
        "drop": {"latitude": 28.6139, "longitude": 77.2090, "address": "Delhi"},
        "distanceKm": 25,
        "vehicleRequirements": [
            {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "quantity": 1, "pricePerTruck": 500}
        ],
    },
    separators=(",", ":"),
).encode()
TICK_S = 0.001  # between two looks of the open loop; what was due meanwhile counts from when it was due
ANSWER_PATIENCE_S = 10.0  # after the last request; what is unanswered then counts as failed


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. ``rate`` 0 is a closed loop: each connection sends as soon as it has its answer.

    With a rate (requests a second, all connections together) arrivals are random and wait for nobody: a latency
    counts from when the request was due. ``tokens_file`` has one token a line, from which ``skip`` are left out.
    """

    ports: list[int]
    connections: int
    seconds: float
    rate: float
    tokens_file: str
    skip: int
    run: str


@dataclass(slots=True)
class Result:
    """What came back. Latencies in ms over all answers; ``seconds`` from the first request to the last answer."""

    sent: int
    created: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float
    statuses: dict[str, int]


class Load:
    """Hands requests to connections and takes the answers."""

    def __init__(self, plan: Plan, requests: list[bytes]) -> None:
        self._requests = requests
        self._closed_loop = plan.rate == 0
        self.next = 0
        self.open = True
        self.in_flight = 0
        self.latencies_s: list[float] = []
        self.statuses: dict[str, int] = {}
        self.idle: list[Phone] = []
        self.due: list[float] = []  # open loop: due requests that wait for a free connection
        self.done = asyncio.Event()
        self.last_answer = 0.0

    def take(self) -> bytes | None:
        """The next customer's request; None once there are no more."""
        if self.next >= len(self._requests):
            self.open = False
            return None
        request = self._requests[self.next]
        self.next += 1
        self.in_flight += 1
        return request

    def answered(self, phone: Phone, status: str, since: float) -> None:
        now = time.perf_counter()
        self.latencies_s.append(now - since)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.in_flight -= 1
        self.last_answer = now
        if self._closed_loop and self.open:
            phone.send(now)
        elif self.due:
            phone.send(self.due.pop(0))
        else:
            self.idle.append(phone)
        if not self.open and self.in_flight == 0 and not self.due:
            self.done.set()

    def arrive(self, due: float) -> None:
        """A request of the open loop."""
        if self.idle:
            self.idle.pop().send(due)
        else:
            self.due.append(due)


class Phone(asyncio.Protocol):
    """One connection; one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._since = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._load.idle.append(self)

    def send(self, since: float) -> None:
        request = self._load.take()
        if request is None:
            if self._load.in_flight == 0:
                self._load.done.set()
            return
        self._since = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.find(b"content-length:") + 15
        length = int(head[at : head.find(b"\r", at) if head.find(b"\r", at) > 0 else None])
        if len(self._buffer) < head_end + 4 + length:
            return
        status = self._buffer[9:12].decode()
        self._buffer = b""
        self._load.answered(self, status, self._since)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.statuses["lost"] = self._load.statuses.get("lost", 0) + 1


def requests_of(plan: Plan) -> list[bytes]:
    """One whole HTTP request for each token."""
    with Path(plan.tokens_file).open() as lines:
        tokens = [line.strip() for line in lines][plan.skip :]
    return [
        (
            f"POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"X-Idempotency-Key: {plan.run}-{number}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n"
        ).encode()
        + BODY
        for number, token in enumerate(tokens)
    ]


async def run(plan: Plan) -> Result:
    """Carry the plan out."""
    load = Load(plan, requests_of(plan))
    loop = asyncio.get_running_loop()
    for number in range(plan.connections):
        port = plan.ports[number % len(plan.ports)]
        await loop.create_connection(lambda: Phone(load), "127.0.0.1", port)
    cpu_before = time.process_time()
    began = time.perf_counter()
    if plan.rate == 0:
        phones, load.idle = load.idle, []
        for phone in phones:
            phone.send(time.perf_counter())
        await _until(load, began + plan.seconds)
    else:
        due = began
        while load.open and due < began + plan.seconds:
            now = time.perf_counter()
            while due <= now:
                load.arrive(due)
                due += random.expovariate(plan.rate)
            # Never less than a tick: it would spin, and take a tenth of the machine from the service.
            await asyncio.sleep(max(due - time.perf_counter(), TICK_S))
    load.open = False
    if load.in_flight or load.due:
        await _until(load, time.perf_counter() + ANSWER_PATIENCE_S)
    latencies = sorted(load.latencies_s) or [0.0]
    created = load.statuses.get("201", 0)
    return Result(
        sent=load.next,
        created=created,
        failed=load.next - created,
        seconds=max(load.last_answer - began, 1e-9),
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1000,
        max_ms=latencies[-1] * 1000,
        cpu_s=time.process_time() - cpu_before,
        statuses=load.statuses,
    )


async def _until(load: Load, moment: float) -> None:
    try:
        async with asyncio.timeout(moment - time.perf_counter()):
            await load.done.wait()
    except TimeoutError:
        load.open = False


def main() -> None:
    """Read the plan, run it, print the result."""
    import uvloop

    plan = Plan(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(run(plan)))))


if __name__ == "__main__":
    main()
