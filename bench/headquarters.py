"""A dispatcher's PostgreSQL and Kafka, filled with a fleet, and processes with its index: what two benchmarks share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import numpy as np
from numpy.typing import NDArray

from bench.towns import CLASSES, Fleet
from deploy.local.stack import LocalStack
from dispatcher.captain_numbers import halves
from dispatcher.packed_positions import LAYOUT
from dispatcher.settings import Settings
from weelo_common.events.positions import DEGREES, FORMAT_VERSION
from weelo_common.events.topics import CAPTAINS_LOCATIONS, DISPATCHER
from weelo_common.kafka import KafkaClients

TRANSPORTERS = 20_000
RECORD_POSITIONS = 256  # as the dispatcher packs them
IN_FLIGHT = 200  # records sent and not yet acknowledged
PATIENCE_S = 120.0

CAPTAIN_COLUMNS = (
    "captain_id",
    "transporter_id",
    "name",
    "vehicle_type",
    "vehicle_subtype",
    "vehicle_number",
    "confirmed",
    "available",
    "busy",
)
INSERT_TRANSPORTERS = """
INSERT INTO transporters (transporter_id, name, active, verified)
SELECT 't-' || n, 'T', true, true FROM generate_series(0, $1 - 1) AS n
"""


class Headquarters:
    """The stores of one dispatcher."""

    def __init__(self, stack: LocalStack) -> None:
        self._dsn = stack.provision()[DISPATCHER]
        stack.create_topics()
        stack.migrate([DISPATCHER])
        self._values = {
            "postgres_dsn": self._dsn,
            "redis_url": stack.servers.redis_url,
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_producer_idempotence": stack.servers.kafka_idempotence,
            "jwt_public_key_file": str(stack.keys.jwt_public),
            "offer_token_private_key_file": str(stack.keys.offer_private),
            "offer_token_key_id": stack.keys.offer_key_id,
            "http_port": 0,
        }
        self._kafka = KafkaClients(Settings.model_validate(self._values), client_id="bench")

    async def register(self, fleet: Fleet) -> None:
        """Make the fleet the captains of the database; those who are not free are busy."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute("TRUNCATE captains, transporters")
            await connection.execute(INSERT_TRANSPORTERS, TRANSPORTERS)
            records = (
                (captain_id, f"t-{at % TRANSPORTERS}", "C", *CLASSES[number][:2], "DL1", True, True, not free)
                for at, (captain_id, number, free) in enumerate(
                    zip(fleet.captain_ids, fleet.classes.tolist(), fleet.free.tolist(), strict=True)
                )
            )
            await connection.copy_records_to_table("captains", records=records, columns=CAPTAIN_COLUMNS)
            await connection.execute("ANALYZE captains, transporters")
        finally:
            await connection.close()

    async def send(self, fleet: Fleet, order: NDArray[np.int64]) -> None:
        """Publish the place of every captain, in some order, in packed records."""
        packed = np.empty(len(order), LAYOUT)
        packed["captain"] = halves(fleet.fingerprints.tobytes())[order]
        packed["latitude"] = np.rint(fleet.latitudes[order] * DEGREES)
        packed["longitude"] = np.rint(fleet.longitudes[order] * DEGREES)
        packed["recordedAt"] = time.time_ns() // 1_000_000
        producer = await self._kafka.start_producer()
        topic = self._kafka.topic_name(CAPTAINS_LOCATIONS)
        try:
            acknowledged = []
            for start in range(0, len(order), RECORD_POSITIONS):
                value = bytes([FORMAT_VERSION]) + packed[start : start + RECORD_POSITIONS].tobytes()
                acknowledged.append(await producer.send(topic, value))
                if len(acknowledged) == IN_FLIGHT:
                    await _all(acknowledged)
                    acknowledged = []
            await _all(acknowledged)
        finally:
            await self._kafka.stop_producer(producer)

    def index_process(self, rounds: int = 0, positions: int = 0) -> IndexProcess:
        """Start a process with an index; see ``bench.index_process``."""
        return IndexProcess(
            [
                sys.executable,
                "-m",
                "bench.index_process",
                json.dumps(self._values),
                str(rounds),
                str(positions),
            ]
        )


class IndexProcess:
    """One process with an index."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def told(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the process with the index ended: see above")
        facts: dict[str, Any] = json.loads(line)
        return facts

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the process still for a while: what is sent meanwhile is there at once afterwards."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> IndexProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


async def _all(acknowledged: Sequence[Any]) -> None:
    await asyncio.wait_for(asyncio.gather(*acknowledged), PATIENCE_S)
