"""The examples of other teams, run as they stand against the running system."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from aiokafka.structs import ConsumerRecord

from deploy.local.settings import PROJECT
from tests.contract.others import needs_example_node, needs_kcat
from tests.e2e.city import City, Customer, new_subtype, order_body
from tests.integration.events_rig import until
from weelo_common.events.topics import ORDERS_EVENTS

EXAMPLES = PROJECT / "examples"
PATIENCE_S = 40.0  # a member that was killed is missed only after its session, some 10 s


@dataclass
class Program:
    """A running example and the lines it has printed."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    printed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            async with self.printed:
                self.lines.append(raw.decode().rstrip())
                self.printed.notify_all()

    async def prints(self, condition: Callable[[list[str]], bool], what: str) -> None:
        async with asyncio.timeout(PATIENCE_S), self.printed:
            try:
                await self.printed.wait_for(lambda: condition(self.lines))
            except asyncio.CancelledError:
                raise AssertionError(f"never printed: {what}; the last lines: {self.lines[-5:]}") from None


@contextlib.asynccontextmanager
async def running(*command: str, cwd: Path = PROJECT) -> AsyncIterator[Program]:
    """A program that is asked to stop at the end, and must then end well, unless it was killed."""
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=asyncio.subprocess.PIPE)
    program = Program(process)
    reading = asyncio.create_task(program.read())
    try:
        yield program
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


async def make_and_cancel(city: City, count: int) -> list[str]:
    """So many orders, each made and cancelled: two events each."""

    async def one(customer: Customer) -> str:
        created = await customer.create(order_body(new_subtype()))
        order_id: str = created.data["orderId"]
        assert (await customer.cancel(order_id)).ok
        return order_id

    return list(await asyncio.gather(*(one(city.customer()) for _ in range(count))))


async def repeat(city: City, order_id: str) -> None:
    """Send all events of an order once more, byte for byte, as at-least-once delivery may."""
    kafka = city.kafka()
    found = await city.order_events(order_id, 2)
    producer = await kafka.start_producer()
    for record in found:
        sent: ConsumerRecord = await producer.send_and_wait(
            kafka.topic_name(ORDERS_EVENTS), record.value, key=record.key, headers=list(record.headers)
        )
        assert sent.partition == record.partition
    await kafka.stop_producer(producer)


def states(database: Path, order_ids: Iterable[str]) -> list[tuple[int, str]]:
    """The version and status that the Python example keeps of these orders."""
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        rows = {
            order_id: (version, status)
            for order_id, version, status in connection.execute(
                "SELECT order_id, version, status FROM orders"
            )
        }
    return [rows.get(order_id, (0, "unknown")) for order_id in order_ids]


async def keeps(database: Path, order_ids: Iterable[str], wanted: tuple[int, str]) -> None:
    known = list(order_ids)
    await until(lambda: set(states(database, known)) == {wanted}, f"{wanted} of {known}", PATIENCE_S)


async def test_the_python_consumer_is_right_through_a_rebalance_a_kill_and_repeats(
    city: City, tmp_path: Path
) -> None:
    database = tmp_path / "orders.db"
    command = (
        sys.executable,
        str(EXAMPLES / "python" / "consumer.py"),
        "--bootstrap",
        city.env["KAFKA_BOOTSTRAP_SERVERS"],
        "--group",
        f"example-{uuid4().hex[:8]}",
        "--database",
        str(database),
    )
    first_orders = await make_and_cancel(city, 3)
    async with running(*command) as first:
        await first.prints(bool, "anything")  # its tables are there
        await keeps(database, first_orders, (2, "cancelled"))  # from the beginning, though it came later
        async with running(*command) as second:
            await second.prints(lambda lines: any(line.startswith("assigned") for line in lines), "its share")
            while not any(line.startswith("new") for line in second.lines):  # until some are in its share
                second_orders = await make_and_cancel(city, 12)
                await keeps(database, second_orders, (2, "cancelled"))
            second.process.kill()
            await second.process.wait()
        await repeat(city, first_orders[0])
        third_orders = await make_and_cancel(city, 12)
        await keeps(database, third_orders, (2, "cancelled"))
        await first.prints(
            lambda lines: sum(line.startswith("repeat") for line in lines) >= 2, "both repeats, known as such"
        )
    ids = [line.split()[1] for line in first.lines if line.startswith("new")]
    assert len(ids) == len(set(ids))
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (handled,) = connection.execute("SELECT count(*) FROM handled").fetchone()
        new = sum(line.startswith("new") for line in (*first.lines, *second.lines))
    # One may have been handled and not yet printed when its program was killed.
    assert new <= handled <= new + 1


@needs_example_node
async def test_the_node_consumer_reads_every_change_in_order_and_knows_repeats(city: City) -> None:
    bootstrap = city.env["KAFKA_BOOTSTRAP_SERVERS"]
    (order_id,) = await make_and_cancel(city, 1)

    def seen(lines: list[str]) -> list[tuple[int, str, bool]]:
        told = [json.loads(line) for line in lines]
        return [
            (one["orderVersion"], one["status"], one["repeat"]) for one in told if one["orderId"] == order_id
        ]

    command = ("node", "consumer.mjs", bootstrap, f"example-{uuid4().hex[:8]}")
    async with running(*command, cwd=EXAMPLES / "node") as program:
        await program.prints(lambda lines: len(seen(lines)) == 2, "both events")
        await repeat(city, order_id)
        await program.prints(lambda lines: len(seen(lines)) == 4, "both repeats")
    assert seen(program.lines) == [
        (1, "active", False),
        (2, "cancelled", False),
        (1, "active", True),
        (2, "cancelled", True),
    ]


@needs_kcat
async def test_the_shell_line_shows_every_event(city: City) -> None:
    (order_id,) = await make_and_cancel(city, 1)
    await city.order_events(order_id, 2)  # it prints what is there by then
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", str(EXAMPLES / "shell" / "orders.sh"), city.env["KAFKA_BOOTSTRAP_SERVERS"]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    bodies = [json.loads(record["payload"]) for record in records if record["key"] == order_id]
    assert [body["orderVersion"] for body in bodies] == [1, 2]
