"""``make bench-e2e``: from a booking to the offer on the captain's socket, through all four services and real Kafka.

Bookings come at random moments at 50 and at 200 a second, in rounds, each of a new customer with his own token
and key. The time counts from when a booking was due, whether or not it could be sent then, to its first offer's frame
on a captain's socket. Nobody answers an offer, and between the rounds the customers cancel. In rows of their own life
goes on at the same time: a captain accepts after a moment's thought, the other offers are withdrawn, timers cancelled;
that is thrice the work. There is no peer: the reach is in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from bench.cpu import cpu_seconds, machine_cpu_seconds
from bench.e2e_crowd import Crowd, gather
from bench.e2e_phones import Journey, Plan, Round
from bench.e2e_stages import Published, Stage, first_published, stages
from bench.fanout_talker import Talker, talking
from bench.headquarters import Headquarters
from bench.report import FOLDER, Row, publish
from deploy.local.provision import SERVICES
from deploy.local.services import ServiceProcess
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings

CONNECTIONS = 256  # an open loop must not run out of them while a service is slow for a moment
WARM_UP = Round(rate=50, seconds=20, accepting=True)  # Kafka's JVM compiles, plans and caches are made
SETTLED_LOOKS, LOOK_S = 4, 0.5  # in a row, at the services' metrics, with nothing left to do
SETTLE_DEADLINE_S = 30.0
WAITING = ("weelo_consumer_lag{", "weelo_outbox_depth ")  # what is behind, by the metrics' names
SPARE_BOOKINGS = 1.1  # arrivals are random
SPARE_SOCKETS = 200
FRESH_EVERY_S = 20.0  # each captain's position; one older than 60 s is not asked
SLICES = 10  # in which the fleet's positions are sent
REACH_MS = {50.0: (25.0, 100.0), 200.0: (None, None)}  # p50, p99; at 200 a second they are an aim
NEVER_MS = 60_000.0  # an order that no captain heard of within the round took this


@dataclass(slots=True)
class Measured:
    """All rounds of one rate together."""

    rounds: list[list[float]] = field(default_factory=list)
    """Of each round: how long each order took, in ms."""
    journeys: dict[str, Journey] = field(default_factory=dict)
    late_ms: list[float] = field(default_factory=list)
    """How much later than due the phones sent a booking."""
    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    others_s: float = 0.0
    """CPU seconds of whatever else the machine did."""
    refused: int = 0
    unheard: int = 0
    accepted: int = 0

    @property
    def took_ms(self) -> list[float]:
        """How long each order took."""
        return [took for some in self.rounds for took in some]


class Arena:
    """Everything that runs, and the people."""

    def __init__(self, stack: LocalStack, crowd: Crowd) -> None:
        self._stack = stack
        self._crowd = crowd
        self._headquarters = Headquarters(stack)
        stack.migrate([name for name in SERVICES if name != "dispatcher"])
        asyncio.run(self._headquarters.register(crowd.fleet))
        asyncio.run(self._headquarters.send(crowd.fleet, np.arange(len(crowd.fleet))))
        env = {"WS_MAX_SOCKETS": str(len(crowd.fleet) + SPARE_SOCKETS)}
        self._services: list[ServiceProcess] = [stack.start_service(name, env) for name in SERVICES]
        for service in self._services:
            service.wait_ready()

    @contextlib.contextmanager
    def people(self) -> Iterator[Talker]:
        """The phones' process, with every captain's socket open; his position stays fresh meanwhile."""
        ports = {service.name: service.ports for service in self._services}
        plan = Plan(
            http_port=ports["order-api"].http,
            ws_port=ports["notifier"].ws or 0,
            connections=CONNECTIONS,
            captain_tokens=str(self._crowd.captain_tokens),
            customer_tokens=str(self._crowd.customer_tokens),
            bodies=str(self._crowd.bodies.resolve()),
        )
        stop = threading.Event()
        driving = threading.Thread(target=self._drive, args=[stop])
        driving.start()
        try:
            with talking([sys.executable, "-m", "bench.e2e_phones"]) as talker:
                answer = talker.ask(json.dumps(asdict(plan)))
                if answer != "open":
                    sys.exit(f"the phones say {answer!r}")
                yield talker
        finally:
            stop.set()
            driving.join()

    def round(self, people: Talker, plan: Round, into: Measured) -> None:
        """One round, added to what was measured at its rate; it begins once nothing is left of the last one."""
        self._settle()
        before, all_before = self._cpu(), machine_cpu_seconds()
        told = json.loads(people.ask(json.dumps(asdict(plan))))
        after, all_after = self._cpu(), machine_cpu_seconds()
        ours_s = sum(after.values()) - sum(before.values()) + told["cpu_s"]
        into.others_s += max(0.0, all_after - all_before - ours_s)
        for name, seconds in after.items():
            into.cpu_s[name] = into.cpu_s.get(name, 0.0) + seconds - before[name]
        into.cpu_s["phones"] = into.cpu_s.get("phones", 0.0) + told["cpu_s"]
        into.seconds += told["wall_s"]
        journeys = {order_id: Journey(**moments) for order_id, moments in told["journeys"].items()}
        into.journeys |= journeys
        into.late_ms += [(journey.sent - journey.due) * 1000 for journey in journeys.values()]
        into.rounds.append(
            [
                (journey.first_offer - journey.due) * 1000 if journey.first_offer else NEVER_MS
                for journey in journeys.values()
            ]
        )
        into.refused += sum(count for status, count in told["created"].items() if status != "201")
        into.unheard += sum(not journey.first_offer for journey in journeys.values())
        into.accepted += told["accepted"].get("200", 0)
        people.ask("cancel")
        accepted = f", accepted {told['accepted']}" if plan.accepting else ""
        print(
            f"  {plan.rate:.0f}/s: {_told(into.rounds[-1])}; created {told['created']}{accepted}; cores: ours "
            f"{ours_s / told['wall_s']:.2f}, others {(all_after - all_before - ours_s) / told['wall_s']:.2f}",
            flush=True,
        )

    def _settle(self) -> None:
        looks, give_up_at = 0, time.monotonic() + SETTLE_DEADLINE_S
        while looks < SETTLED_LOOKS:
            if time.monotonic() > give_up_at:
                sys.exit(f"the services are still behind after {SETTLE_DEADLINE_S:g} s")
            time.sleep(LOOK_S)
            looks = looks + 1 if not any(map(_waiting, self._services)) else 0

    def published(self) -> tuple[dict[str, Published], dict[str, Published]]:
        """What Kafka holds of all orders."""
        settings = KafkaSettings(kafka_bootstrap_servers=self._stack.servers.kafka_bootstrap)
        return asyncio.run(first_published(KafkaClients(settings, client_id="bench")))

    def _drive(self, stop: threading.Event) -> None:
        fleet = self._crowd.fleet
        slices = np.array_split(np.arange(len(fleet)), SLICES)
        turn = 0
        while not stop.wait(FRESH_EVERY_S / SLICES):
            asyncio.run(self._headquarters.send(fleet, slices[turn % SLICES]))
            turn += 1

    def _cpu(self) -> dict[str, float]:
        return {
            **{service.name: cpu_seconds(service.pid) for service in self._services},
            "PostgreSQL": cpu_seconds(self._stack.server("postgres").pid, with_children=True),
            "Redis": cpu_seconds(self._stack.server("redis").pid),
            "Kafka": cpu_seconds(self._stack.server("kafka").pid),
        }


def measure(arena: Arena, plans: Sequence[Round], rounds: int) -> list[Measured]:
    """All rounds, the lightest first, so that none is in the wake of a heavier one."""
    measured = [Measured() for _ in plans]
    with arena.people() as people:
        arena.round(people, WARM_UP, Measured())
        for plan, into in zip(plans, measured, strict=True):
            for _ in range(1 if plan.accepting else rounds):
                arena.round(people, plan, into)
    return measured


def rows_of(plan: Round, one: Measured, parts: Sequence[Stage], conditions: str) -> list[Row]:
    """The rows of a rate: the whole way, its parts, and the CPU of an order."""
    reach = (None, None) if plan.accepting else REACH_MS.get(plan.rate, (None, None))
    at = f"at {plan.rate:.0f}/s" + (", accepted" if plan.accepting else "")
    by_round = {q: " and ".join(f"{_quantile(some, q):.1f}" for some in one.rounds) for q in (0.5, 0.99)}
    rows = [
        Row(f"booking to the captain's socket {at}, p50", f"{by_round[0.5]} ms", "-", _quantile(one.took_ms, 0.5),
            "lower", reach[0], "ms", conditions),
        Row(f"booking to the captain's socket {at}, p99",
            f"{by_round[0.99]} ms, longest {max(one.took_ms):.0f} ms", "-", _quantile(one.took_ms, 0.99),
            "lower", reach[1], "ms", conditions),
    ]  # fmt: skip
    for part in parts:
        rows.append(
            Row(f"  {part.name} {at}", f"p99 {_quantile(part.took_ms, 0.99):.1f} ms, mean "
                f"{statistics.mean(part.took_ms):.1f} ms", "-", _quantile(part.took_ms, 0.5), "lower", None,
                "ms (p50)", conditions)
        )  # fmt: skip
    orders = len(one.journeys)
    rows.append(
        Row(f"CPU of an order {at}", ", ".join(f"{name} {used / orders * 1e3:.2f}" for name, used in one.cpu_s.items())
            + " ms", "-", sum(one.cpu_s.values()) / orders * 1e3, "lower", None, "ms of all together", conditions)
    )  # fmt: skip
    rows.append(
        Row(f"phones late {at}, p99", f"{one.cpu_s['phones'] / one.seconds:.0%} of a core", "-",
            _quantile(one.late_ms, 0.99), "lower", None, "ms after due", conditions)
    )  # fmt: skip
    return rows


def _waiting(service: ServiceProcess) -> float:
    """How many records and outbox rows a service has before it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.ports.http}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(WAITING))


def _quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def _told(took_ms: Sequence[float]) -> str:
    quantiles = ", ".join(f"p{q * 100:g} {_quantile(took_ms, q):.1f}" for q in (0.5, 0.9, 0.99))
    return f"{len(took_ms)} orders, {quantiles}, longest {max(took_ms):.1f} ms"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=list(REACH_MS), help="bookings a second")
    parser.add_argument(
        "--accepted-rates", type=float, nargs="*", default=[50.0], help="the same, where captains accept"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of each rate")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a round")
    parser.add_argument("--captains", type=int, default=5_000, help="each with a socket")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    plans = sorted(
        [
            *(Round(rate, options.seconds, accepting=False) for rate in options.rates),
            *(Round(rate, options.seconds, accepting=True) for rate in options.accepted_rates),
        ],
        key=lambda plan: (plan.rate, plan.accepting),
    )
    bookings = WARM_UP.rate * WARM_UP.seconds + sum(
        plan.rate * plan.seconds * (1 if plan.accepting else options.rounds) for plan in plans
    )
    with LocalStack(PROJECT / FOLDER / "e2e", None, "apache", env=os.environ) as stack:
        stack.start_servers()
        crowd = gather(
            FOLDER,
            stack.keys.jwt_private.read_text(),
            captains=options.captains,
            orders=int(bookings * SPARE_BOOKINGS),
        )
        arena = Arena(stack, crowd)
        measured = measure(arena, plans, options.rounds)
        created, offered = arena.published()
    rows: list[Row] = []
    for plan, one in zip(plans, measured, strict=True):
        life = (
            f"a captain accepts each half a second to one and a half after its offer ({one.accepted:,} did), and his "
            "trip outlasts the run"
            if plan.accepting
            else "nobody answers the offers, and the customers cancel between the rounds"
        )
        conditions = (
            f"{plan.rate:.0f} bookings a second at random moments for {len(one.rounds)} × {plan.seconds:g} s: "
            f"{len(one.journeys):,} orders of as many customers ({one.refused} refused, {one.unheard} that no captain "
            f"heard of); {life}; {options.captains:,} captains in eight cities with a socket each, their positions "
            f"sent to Kafka every {FRESH_EVERY_S:g} s; one process of each service, PostgreSQL (fsync on), Redis, "
            f"Apache Kafka and the phones share 2 cores, of which others took {one.others_s / one.seconds:.2f}; RS256"
        )
        rows += rows_of(plan, one, stages(one.journeys, created, offered), conditions)
    publish("e2e", rows)


if __name__ == "__main__":
    main()
