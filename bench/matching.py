"""``make bench-matching``: the nearest 20 free captains within 5 km, among 100,000 and among a million.

Beside the index run Redis GEOSEARCH (one key per class, free captains only), Redis PING, and PostgreSQL's
nearest-neighbour search over GiST (one partial index per class, free captains only), each asked the same questions in
turns. Between the rounds the captains drive, so that no index is freshly sorted. Answers are compared with brute
force. The last rows are the restart of a dispatcher's index from a full PostgreSQL and Kafka, and its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import redis.asyncio
from numpy.typing import NDArray

from bench.headquarters import RECORD_POSITIONS, TRANSPORTERS, Headquarters
from bench.matching_peers import PostgresGeo, RedisGeo
from bench.report import FOLDER, Row, publish
from bench.towns import CITIES, CLASSES, FREE, Fleet, Question, Towns
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack
from dispatcher.captain_numbers import halves
from dispatcher.live_fleet import CaptainColumns, LiveFleet
from dispatcher.packed_positions import PositionColumns
from weelo_common.geo import great_circle_m

MILLION = 1_000_000
K = 20
RADIUS_M = 5_000
MOVING, DRIVEN_M = 0.5, 60.0  # of the captains, and how far, between two rounds: some seven seconds in a city
POSITIONS_AT_ONCE = 8_192
NOW_MS = 1_800_000_000_000
BRUTE_FORCE_OF = 200  # questions in each size
TURN = 500  # questions that one is asked before the next
COLD = (
    300  # questions of a round that are asked one by one in turns: each finds the caches full of others' data
)

Ask = Callable[[Question], Sequence[str]]


class Index:
    """The dispatcher's own, as ``handlers/matching.py`` asks it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._halves = halves(fleet.fingerprints.tobytes())
        self._index = LiveFleet()
        self._now_ms = NOW_MS
        for start in range(0, len(fleet), 20_000):
            self._index.load(_page(fleet, slice(start, start + 20_000)))

    def take(self, order: NDArray[np.int64]) -> float:
        """Take the place of every captain, in some order; returns positions a second."""
        self._now_ms += 7_000
        began = time.perf_counter()
        for start in range(0, len(order), POSITIONS_AT_ONCE):
            at = order[start : start + POSITIONS_AT_ONCE]
            times = np.full(len(at), self._now_ms)
            self._index.apply_positions(
                PositionColumns(
                    self._halves[at],
                    self._fleet.latitudes[at],
                    self._fleet.longitudes[at],
                    times,
                    times,
                    np.zeros(len(at), np.int64),
                )
            )
        return len(order) / (time.perf_counter() - began)

    def ask(self, question: Question) -> Sequence[str]:
        number, latitude, longitude = question
        vehicle_type, vehicle_subtype, _ = CLASSES[number]
        proposal = self._index.propose(
            vehicle_type,
            vehicle_subtype,
            latitude,
            longitude,
            k=K,
            not_free=0,
            radius_m=RADIUS_M,
            now_ms=self._now_ms,
        )
        return [near.captain_id for near in proposal.near]


def _page(fleet: Fleet, part: slice) -> CaptainColumns:
    ids = fleet.captain_ids[part]
    vehicles = [CLASSES[number] for number in fleet.classes[part]]
    return CaptainColumns(
        captain_ids=ids,
        versions=[1] * len(ids),
        vehicle_types=[vehicle_type for vehicle_type, _, _ in vehicles],
        vehicle_subtypes=[subtype for _, subtype, _ in vehicles],
        free=fleet.free[part].tolist(),
        idle_since_ms=[0] * len(ids),
    )


def brute_force(fleet: Fleet, question: Question) -> list[tuple[int, str]]:
    """The answer by looking at everybody: whole metres and id, nearest first, those farther than the k-th left out."""
    number, latitude, longitude = question
    # A box of some 6 km on each side, so that the exact formula is asked of few.
    near = np.flatnonzero(
        fleet.free
        & (fleet.classes == number)
        & (np.abs(fleet.latitudes - latitude) < 0.06)
        & (np.abs(fleet.longitudes - longitude) < 0.08)
    )
    ranked = sorted(
        (int(distance), fleet.captain_ids[at])
        for at in near.tolist()
        if (
            distance := great_circle_m(
                latitude, longitude, float(fleet.latitudes[at]), float(fleet.longitudes[at])
            )
        )
        <= RADIUS_M
    )
    return [one for one in ranked if len(ranked) <= K or one[0] <= ranked[K - 1][0]]


def recall(fleet: Fleet, questions: Sequence[Question], ask: Ask) -> float:
    """The share of the nearest that are in the answers; of those at the k-th's whole metre any will do."""
    wanted = got = 0
    for question in questions:
        truth = {captain_id: metres for metres, captain_id in brute_force(fleet, question)}
        answer = list(ask(question))
        metres = [truth.get(captain_id) for captain_id in answer]
        wanted += min(K, len(truth))
        if metres == sorted(truth.values())[:K]:
            got += len(answer)
    return got / wanted


def timed(questions: Sequence[Question], asks: dict[str, Ask], *, turn: int) -> dict[str, list[float]]:
    """Microseconds of each question, asked of all, so many questions of one before the next."""
    took: dict[str, list[float]] = {name: [] for name in asks}
    clock = time.perf_counter
    for start in range(0, len(questions), turn):
        for name, ask in asks.items():
            for question in questions[start : start + turn]:
                began = clock()
                ask(question)
                took[name].append((clock() - began) * 1e6)
    return took


def shown(took: Sequence[float]) -> str:
    p50, p99 = np.percentile(took, [50, 99])
    return f"p50 {p50:,.0f}, p99 {p99:,.0f} us"


def _async_pings(url: str, count: int) -> list[float]:
    """Microseconds of each PING by the client that the services use."""

    async def ping() -> list[float]:
        client = redis.asyncio.Redis.from_url(url)
        took = []
        try:
            for _ in range(count):
                began = time.perf_counter()
                await client.ping()
                took.append((time.perf_counter() - began) * 1e6)
        finally:
            await client.aclose()
        return took[count // 10 :]

    return asyncio.run(ping())


def measure(
    fleet: Fleet, towns: Towns, redis_url: str, postgres: PostgresGeo | None, options: argparse.Namespace
) -> list[Row]:
    """All rounds with one fleet; returns its rows."""
    size = f"{len(fleet):,} captains"
    index, geo = Index(fleet), RedisGeo(redis_url, k=K, radius_m=RADIUS_M)
    gc.collect()
    gc.freeze()  # as the service does with what is there after the start
    took: dict[str, list[float]] = {}
    for number in range(options.rounds):
        if number:
            towns.drive(fleet, moving=MOVING, metres=DRIVEN_M)
        index.take(towns.order(len(fleet)))
        geo.fill(fleet)
        questions = towns.questions(options.questions)
        asks: dict[str, Ask] = {"ours": index.ask, "geosearch": geo.ask, "ping": geo.ping}
        if number == 0 and postgres is not None:
            postgres.fill(fleet)  # it is not filled again: that takes it minutes
            asks["gist"] = postgres.ask
        timed(questions[: options.questions // 10], asks, turn=TURN)
        now = timed(questions, asks, turn=TURN)
        took.setdefault("cold", []).extend(timed(questions[:COLD], asks, turn=1)["ours"])
        for name, values in now.items():
            took.setdefault(name, []).extend(values)
        print(f"  {size}, round {number + 1}: " + "; ".join(f"{n} {shown(v)}" for n, v in now.items()))
    took["async ping"] = _async_pings(redis_url, options.questions)
    some = questions[:BRUTE_FORCE_OF]
    found = recall(fleet, some, index.ask)
    p50, p99 = np.percentile([geo.within(question) for question in some], [50, 99])
    conditions = (
        f"{size} in the {CITIES} largest cities of India, {FREE:.0%} free, {len(CLASSES)} classes; 5 km hold "
        f"{p50:,.0f} free ones of the class (p99 {p99:,.0f}); all positions taken anew before each round, half of the "
        f"captains {DRIVEN_M:.0f} m on; {options.rounds} rounds of {options.questions:,} questions in turns, nothing "
        f"else on 2 cores; Redis by redis-py with hiredis, PostgreSQL by asyncpg; load average {os.getloadavg()[0]:.1f}"
    )
    print(f"  {size}: recall against brute force {found:.4f}")

    def ratio(name: str, at: float) -> float:
        return float(np.percentile(took[name], at) / np.percentile(took["ours"], at))

    ours = shown(took["ours"])
    million = len(fleet) >= MILLION
    rows = [
        Row(f"nearest {K} in 5 km, p99, {size}", ours, "GEOSEARCH " + shown(took["geosearch"]),
            ratio("geosearch", 99), "higher", 60.0 if million else None, "times GEOSEARCH", conditions),
        Row(f"the same, p50, {size}", ours, "GEOSEARCH " + shown(took["geosearch"]), ratio("geosearch", 50),
            "higher", None, "times GEOSEARCH", conditions),
        Row(f"the same, each question after other work, p99, {size}", shown(took["cold"]),
            "GEOSEARCH " + shown(took["geosearch"]),
            float(np.percentile(took["geosearch"], 99) / np.percentile(took["cold"], 99)), "higher", None,
            "times GEOSEARCH", conditions),
        Row(f"p99 beside the p99 of a PING, {size}", ours, "PING, asyncio " + shown(took["async ping"]),
            1 / ratio("async ping", 99), "lower", None, "of a PING", conditions),
        Row(f"the same, synchronous client, {size}", ours, "PING " + shown(took["ping"]), 1 / ratio("ping", 99),
            "lower", None, "of a PING", conditions),
        Row(f"recall of {len(some)} questions, {size}", found, "brute force", found, "higher", 1.0, "", conditions),
    ]  # fmt: skip
    if "gist" in took:
        rows.append(
            Row(f"nearest {K} in 5 km, p99, {size}", ours, "GiST " + shown(took["gist"]), ratio("gist", 99),
                "higher", None, "times PostgreSQL", conditions)
        )  # fmt: skip
    return rows


async def restart(headquarters: Headquarters, fleet: Fleet, towns: Towns) -> list[Row]:
    """A new process with the index, from a full PostgreSQL and the positions of the last minute."""
    size = f"{len(fleet):,} captains"
    await headquarters.register(fleet)
    await headquarters.send(fleet, towns.order(len(fleet)))
    with headquarters.index_process() as process:
        facts = process.told()
    if facts["placed"] != len(fleet):
        raise SystemExit(f"of {len(fleet)} captains only {facts['placed']} are in the index")
    conditions = (
        f"{size} in PostgreSQL, of {TRANSPORTERS:,} transporters, and a position of each in Kafka, "
        f"{RECORD_POSITIONS} a record; from the start of the load to the first order that may be consumed, "
        f"{facts['cpu_s']:.1f} s of it CPU of the process; PostgreSQL and Kafka on the same 2 cores; "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    return [
        Row(f"restart with {size}", f"{facts['seconds']:.2f} s", "-", facts["seconds"], "lower",
            10.0 if len(fleet) >= MILLION else None, "s", conditions),
        Row(f"memory with {size}", f"{facts['bytes'] / 2**20:,.0f} MiB", "-", facts["bytes"] / len(fleet), "lower",
            None, "bytes a captain", conditions),
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, MILLION])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=1_500, help="of a round")
    parser.add_argument("--no-gist", action="store_true", help="leave PostgreSQL's own search out")
    parser.add_argument("--no-restart", action="store_true", help="leave the restart out")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        headquarters = None if options.no_restart else Headquarters(stack)
        for size in options.sizes:
            towns = Towns(seed=size)
            fleet = towns.fleet(size)
            if headquarters is not None:
                rows += asyncio.run(restart(headquarters, fleet, towns))
            postgres = (
                None
                if options.no_gist
                else PostgresGeo(stack.servers.postgres_admin_dsn, k=K, radius_m=RADIUS_M)
            )
            try:
                rows = measure(fleet, towns, stack.servers.redis_url, postgres, options) + rows
            finally:
                if postgres is not None:
                    postgres.close()
    publish("matching", rows)


if __name__ == "__main__":
    main()
