"""Follows all orders: a consumer of ``orders.events.v1`` that may be killed, doubled and rebalanced at any moment.

    python consumer.py --group my-team --database orders.db

It keeps the newest state of each order in a database (SQLite here; yours in earnest). What makes it safe:

1. The event's id and its effect are written in ONE transaction of that database, and the offset is committed to Kafka
   afterwards. A crash between the two brings the event again, and its id is known.
2. The offset that is committed is the one after the last event handled, never "whatever was fetched".
3. After a rebalance another member may own the partition. Then our commit is refused, or comes too late: both are
   harmless, because the next owner meets the same ids.
4. ``orderVersion`` decides which state is newer, so that an old event never undoes a newer one.

Needs ``aiokafka`` and ``cramjam`` (our batches are lz4). Nothing of this project.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, RebalanceInProgressError

TOPIC = "orders.events.v1"
POLL_MS = 500
COMMIT_DEADLINE_S = 5  # aiokafka itself would wait for ever for brokers that are away
RECONNECT_PAUSE_S = 2
LOCK_TIMEOUT_S = 10  # two members of the group may share one SQLite file

TABLES = """
CREATE TABLE IF NOT EXISTS handled (ce_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (
    order_id TEXT PRIMARY KEY, version INTEGER NOT NULL, status TEXT NOT NULL, trucks_filled INTEGER NOT NULL);
"""
REMEMBER = "INSERT INTO handled (ce_id) VALUES (?) ON CONFLICT DO NOTHING"
KEEP_NEWEST = """
INSERT INTO orders (order_id, version, status, trucks_filled) VALUES (?, ?, ?, ?)
ON CONFLICT (order_id) DO UPDATE
SET version = excluded.version, status = excluded.status, trucks_filled = excluded.trucks_filled
WHERE orders.version < excluded.version
"""


def handle(database: sqlite3.Connection, event_id: str, kind: str, value: bytes) -> bool:
    """One event, once: True where it was new. Its id and its effect commit together or not at all."""
    event: dict[str, Any] = json.loads(value)
    with database:
        if database.execute(REMEMBER, (event_id,)).rowcount == 0:
            return False  # a repeat: delivery is at least once
        if kind.startswith("weelo.order."):  # any of them, also one that is new to us
            database.execute(
                KEEP_NEWEST,
                (event["orderId"], event["orderVersion"], event["status"], event["trucksFilled"]),
            )
    return True


class SaysWhatIsOurs(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells of rebalances. A listener only tells: no work, no locks and no commits, or the whole group waits for it."""

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Whatever of these is still in hand may be in two hands from now on: the ids hold it."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """A new share."""
        print(f"assigned {len(assigned)} partitions", flush=True)


async def consume(bootstrap: str, group: str, database: sqlite3.Connection, stop: asyncio.Event) -> None:
    """One connection: until stopped, or until the brokers are away for too long."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,  # the default commits what was fetched, handled or not
        auto_offset_reset="earliest",  # the default skips what was there before the group
    )
    consumer.subscribe([TOPIC], listener=SaysWhatIsOurs())
    await consumer.start()
    try:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=POLL_MS)  # never cancel this call: let it time out
            for partition, records in batches.items():
                for record in records:
                    take(database, record)
                    if stop.is_set():
                        break
                await commit(consumer, partition, record.offset + 1)
    finally:
        await asyncio.wait_for(
            consumer.stop(), COMMIT_DEADLINE_S
        )  # says goodbye, so the others take over at once


def take(database: sqlite3.Connection, record: Any) -> None:
    """Handle a record, or say that it is none of ours; a record that cannot be read must not stop the rest."""
    headers = dict(record.headers)
    where = f"{record.partition}/{record.offset}"
    try:
        kind = headers["ce_type"].decode()
        is_new = handle(database, headers["ce_id"].decode(), kind, record.value)
    except sqlite3.OperationalError:
        raise  # the database is away, or locked: no fault of the record, which comes again
    except Exception as error:  # noqa: BLE001 - whatever somebody may have written
        # In earnest: put it where somebody looks at it. Never log the body: it holds addresses.
        print(f"unreadable {where}: {type(error).__name__}", file=sys.stderr, flush=True)
        return
    print(f"{'new' if is_new else 'repeat'} {where} {kind}", flush=True)


async def commit(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> None:
    """Say how far one partition is. That this fails is no harm: what comes again is known."""
    try:
        await asyncio.wait_for(consumer.commit({partition: offset}), COMMIT_DEADLINE_S)
    except (CommitFailedError, IllegalGenerationError, RebalanceInProgressError):
        print(f"partition {partition.partition} is another member's now", flush=True)
    except (KafkaError, TimeoutError) as error:
        print(f"not committed: {type(error).__name__}", file=sys.stderr, flush=True)


async def main() -> None:
    """Consume until SIGTERM or Ctrl-C, through any absence of the brokers."""
    parser = argparse.ArgumentParser(description="Keep the newest state of every order.")
    parser.add_argument("--bootstrap", default="127.0.0.1:18092", help="default: the local stack of make up")
    parser.add_argument("--group", default="example-python", help="your own: each group sees every event")
    parser.add_argument("--database", default="orders.db")
    options = parser.parse_args()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = sqlite3.connect(options.database, timeout=LOCK_TIMEOUT_S)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(TABLES)
    while not stop.is_set():
        try:
            await consume(options.bootstrap, options.group, database, stop)
        except (KafkaError, OSError, TimeoutError) as error:
            print(f"reconnects: {type(error).__name__}", file=sys.stderr, flush=True)
            await asyncio.sleep(RECONNECT_PAUSE_S)
    database.close()


if __name__ == "__main__":
    asyncio.run(main())
