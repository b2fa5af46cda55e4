"""A dispatcher's index in a process of its own, for the benchmarks: what the service starts, and nothing beside it.

    python -m bench.index_process SETTINGS_AS_JSON ROUNDS POSITIONS

It loads from PostgreSQL and the topics and says in one JSON line how long that took; then it says, in one line for each
round, what it cost to take so many more positions from Kafka.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from dispatcher.follower import Follower
from dispatcher.live_fleet import LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.settings import Settings
from weelo_common.clock import SystemClock
from weelo_common.consumer import ConsumerMetrics
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Database

LOOK_EVERY_S = 0.005


def resident_bytes() -> int:
    """The memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def follow(settings: Settings, rounds: int, positions: int) -> None:
    """Load and follow, as the service does."""
    registry = CollectorRegistry()
    fleet = LiveFleet()
    kafka = KafkaClients(settings, client_id="bench")
    async with Database.open(settings, application_name="bench") as database:
        async with database.connection():  # connecting is no part of the load
            pass
        follower = Follower(
            fleet,
            database,
            kafka,
            settings,
            SystemClock(),
            ConsumerMetrics(registry),
            DispatcherMetrics(registry),
        )
        stop = asyncio.Event()
        gc.collect()
        memory, began, cpu = resident_bytes(), time.perf_counter(), time.process_time()
        running = asyncio.create_task(follower.run(stop))
        await follower.caught_up.wait()
        took, used = time.perf_counter() - began, time.process_time() - cpu
        gc.collect()
        say(
            seconds=took,
            cpu_s=used,
            captains=len(fleet),
            placed=fleet.placed,
            bytes=resident_bytes() - memory,
        )

        def seen() -> float:
            return sum(
                registry.get_sample_value("weelo_dispatcher_positions_total", {"outcome": outcome}) or 0.0
                for outcome in ("indexed", "ignored")
            )

        for _ in range(rounds):
            before, cpu = seen(), time.process_time()
            while seen() < before + positions:
                await asyncio.wait([running], timeout=LOOK_EVERY_S)
            say(cpu_s=time.process_time() - cpu, positions=seen() - before)
        stop.set()
        await running


def main() -> None:
    """Read the arguments and follow."""
    import uvloop

    settings = Settings.model_validate_json(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(follow(settings, int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
