"""Writes orders' events into an outbox at a steady rate, and a byte to stdout after each commit.

``bench.relay`` runs it as a process of its own, so that the CPU it measures is the relay's alone, and wakes the relay
at each byte, as a commit in the same process would.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime

import asyncpg
import uvloop

from weelo_common.events import OrderFullyFilled, TimerScheduled
from weelo_common.events.topics import ORDER_API
from weelo_common.ids import new_id
from weelo_common.outbox import INSERT_EVENTS, Outbox

COMMIT_PAUSE_S = (
    0.002  # between two commits: each has some ten orders at 3,000 a second, as intake's groups have
)


def event_of(order_id: str, now: datetime) -> OrderFullyFilled:
    """A small event of an order."""
    return OrderFullyFilled(
        order_id=order_id,
        order_version=1,
        customer_id="c-1",
        status="fully_filled",
        searching=False,
        trucks_filled=1,
        total_trucks=1,
        occurred_at=now,
    )


def timer_of(order_id: str, now: datetime) -> TimerScheduled:
    """The timer that is written with each new order."""
    return TimerScheduled(
        timer_key=f"order-expiry:{order_id}", owner=ORDER_API, version=1, due_at=now, order_id=order_id
    )


async def write(dsn: str, rate: float, seconds: float) -> None:
    """``rate`` orders a second, two events each."""
    outbox = Outbox(ORDER_API)
    connection = await asyncpg.connect(dsn)
    try:
        began = time.perf_counter()
        written = 0
        while (passed := time.perf_counter() - began) < seconds:
            due = int(passed * rate)
            if due > written:
                now = datetime.now(UTC)
                orders = [new_id() for _ in range(due - written)]
                events = [make(order, now) for order in orders for make in (event_of, timer_of)]
                await connection.execute(INSERT_EVENTS, *outbox.columns(events, at=now))
                written = due
                sys.stdout.buffer.write(b".")
                sys.stdout.buffer.flush()
            await asyncio.sleep(COMMIT_PAUSE_S)
    finally:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(write(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
