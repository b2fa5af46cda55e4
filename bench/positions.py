"""``make bench-positions``: packed positions from Kafka into the index, beside variadic GEOADD of the same positions.

Both are measured by the CPU time of the one process that takes them, because that is what a core costs: the process
with the index, its Kafka client included, and the Redis server, whose commands come ready-made from elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.cpu import cpu_seconds
from bench.headquarters import RECORD_POSITIONS, Headquarters
from bench.report import FOLDER, Row, publish, spread
from bench.towns import CLASSES, Fleet, Towns
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack

MILLION = 1_000_000
MOVING, DRIVEN_M = 0.5, 60.0  # of the captains, and how far, between two rounds: some seven seconds in a city
PIPELINED = 64  # commands on their way to Redis
PATIENCE_S = 60.0


class GeoAdd:
    """A connection to Redis that sends what is ready-made."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection(
            (parts.hostname or "127.0.0.1", parts.port or 6379), PATIENCE_S
        )
        self._ask([_command(b"FLUSHALL"), _command(b"CONFIG", b"SET", b"maxmemory", b"0")])

    def add(self, fleet: Fleet, order: NDArray[np.int64]) -> None:
        """GEOADD of every captain to the key of his class, as many a command as positions in a record."""
        commands = list(self._commands(fleet, order))
        for start in range(0, len(commands), PIPELINED):
            self._ask(commands[start : start + PIPELINED])

    def close(self) -> None:
        self._socket.close()

    def _commands(self, fleet: Fleet, order: NDArray[np.int64]) -> Iterator[bytes]:
        for number in range(len(CLASSES)):
            who = order[fleet.classes[order] == number]
            for start in range(0, len(who), RECORD_POSITIONS):
                words = [b"GEOADD", b"class:%d" % number]
                for at in who[start : start + RECORD_POSITIONS].tolist():
                    words += (
                        b"%.7f" % fleet.longitudes[at],
                        b"%.7f" % fleet.latitudes[at],
                        fleet.captain_ids[at].encode(),
                    )
                yield _command(*words)

    def _ask(self, commands: list[bytes]) -> None:
        self._socket.sendall(b"".join(commands))
        answers = 0
        while answers < len(commands):
            got = self._socket.recv(65536)
            if not got or b"-" in got:
                raise SystemExit(f"Redis said {got!r}")
            answers += got.count(b"\n")


def _command(*words: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def measure(
    stack: LocalStack, headquarters: Headquarters, size: int, options: argparse.Namespace
) -> list[Row]:
    """All rounds with one fleet; returns its rows."""
    towns = Towns(seed=size)
    fleet = towns.fleet(size)
    redis = GeoAdd(stack.servers.redis_url)
    redis_pid = stack.server("redis").pid
    asyncio.run(headquarters.register(fleet))
    redis.add(fleet, towns.order(size))
    ours: list[float] = []
    theirs: list[float] = []
    passes = max(1, MILLION // size)  # /proc counts CPU time in hundredths of a second
    with headquarters.index_process(rounds=options.rounds + 1, positions=passes * size) as process:
        process.told()
        for number in range(options.rounds + 1):
            their_cpu_s = 0.0
            for _ in range(passes):
                towns.drive(fleet, moving=MOVING, metres=DRIVEN_M)
                order = towns.order(size)
                before = cpu_seconds(redis_pid)
                redis.add(fleet, order)
                their_cpu_s += cpu_seconds(redis_pid) - before
                with process.paused():  # packing and sending are no part of it, and would take its caches
                    asyncio.run(headquarters.send(fleet, order))
            our_cpu_s = process.told()["cpu_s"]
            if number == 0:
                continue  # the first places of all captains: everything is new
            ours.append(passes * size / our_cpu_s)
            theirs.append(passes * size / their_cpu_s)
            print(
                f"  {size:,} captains, round {number}: {ours[-1]:,.0f}/s a core, GEOADD {theirs[-1]:,.0f}/s"
            )
    redis.close()
    conditions = (
        f"{size:,} captains, a million positions a round, in random order; half of them {DRIVEN_M:.0f} m on since "
        f"the last, the others waver by 3 m; {RECORD_POSITIONS} positions a Kafka record, as many members a GEOADD to "
        f"the class's key; rounds in turns, median of {options.rounds}; load average {os.getloadavg()[0]:.1f}"
    )
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return [
        Row(f"from Kafka into the index, {size:,} captains", spread(ours) + "/s a core",
            spread(theirs) + "/s a core of Redis", ratio, "higher",
            2.0 if size >= MILLION else None, "times GEOADD", conditions)
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, MILLION])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        headquarters = Headquarters(stack)
        for size in options.sizes:
            rows = measure(stack, headquarters, size, options) + rows
    publish("positions", rows)


if __name__ == "__main__":
    main()
