"""Reads the services' tables, each database in one snapshot, with the read-only role. It never writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from weelo_cli.connections import SERVICES, Connection, Surroundings
from weelo_cli.ledger.facts import AnswerRow, OrderRow, StreamRow, TruckRow

READ_DEADLINE_S = 60.0  # a whole table of a big run

SELECT_ORDERS = """
SELECT id::text, customer_id, status, searching, searching AND expires_at <= clock_timestamp() AS overdue,
       version, trucks_filled
FROM orders
"""
SELECT_TRUCKS = "SELECT id::text, order_id::text, status, captain_id FROM truck_requests"
SELECT_ANSWERS = "SELECT customer_id, key, status, order_id::text, body FROM idempotency_records"
SELECT_DISPATCHER_ORDERS = "SELECT order_id::text FROM orders"
SELECT_STREAMS = """
SELECT s.user_id, s.floor, s.head, count(n.stream_offset) AS kept,
       min(n.stream_offset) AS first, max(n.stream_offset) AS last
FROM streams s LEFT JOIN notifications n USING (user_id)
GROUP BY s.user_id, s.floor, s.head
"""
COUNT_OUTBOX = "SELECT count(*) FROM outbox"
COUNT_OVERDUE_ORDERS = "SELECT count(*) FROM orders WHERE searching AND expires_at <= clock_timestamp()"
# Expiry's tables are an outbox of their own: what is due, or on its way, has not been published for certain.
COUNT_DUE_TIMERS = """
SELECT (SELECT count(*) FROM timers WHERE state = 'pending' AND due_at <= clock_timestamp())
     + (SELECT coalesce(sum(cardinality(timer_ids)), 0) FROM firings)::bigint
"""


@dataclass(frozen=True, slots=True)
class OrderTables:
    """What order-api holds, at one moment."""

    orders: Mapping[str, OrderRow]
    trucks: list[TruckRow]
    answers: list[AnswerRow]


class Tables:
    """The four services' databases."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    async def waiting(self) -> dict[str, int]:
        """What is not published yet, or not ended yet, by where it waits."""
        counts: dict[str, int] = {}
        for service in SERVICES:
            async with self._snapshot(service) as connection:
                counts[f"the outbox of {service}"] = await connection.fetchval(COUNT_OUTBOX)
                if service == "expiry":
                    counts["the timers of expiry"] = await connection.fetchval(COUNT_DUE_TIMERS)
        return counts

    async def overdue_orders(self) -> int:
        """Orders whose search should have ended."""
        async with self._snapshot("order-api") as connection:
            count: int = await connection.fetchval(COUNT_OVERDUE_ORDERS)
        return count

    async def order_tables(self) -> OrderTables:
        """Orders, truck requests and kept answers."""
        async with self._snapshot("order-api") as connection:
            orders = [
                OrderRow(
                    id=row["id"],
                    customer_id=row["customer_id"],
                    status=row["status"],
                    searching=row["searching"],
                    overdue=row["overdue"],
                    version=row["version"],
                    trucks_filled=row["trucks_filled"],
                )
                for row in await connection.fetch(SELECT_ORDERS)
            ]
            trucks = [
                TruckRow(row["id"], row["order_id"], row["status"], row["captain_id"])
                for row in await connection.fetch(SELECT_TRUCKS)
            ]
            answers = [
                AnswerRow(
                    row["customer_id"],
                    row["key"],
                    row["status"],
                    row["order_id"],
                    answered_order_id(row["body"]),
                )
                for row in await connection.fetch(SELECT_ANSWERS)
            ]
        return OrderTables({order.id: order for order in orders}, trucks, answers)

    async def dispatcher_orders(self) -> frozenset[str]:
        """The orders that the dispatcher has heard of."""
        async with self._snapshot("dispatcher") as connection:
            return frozenset(row[0] for row in await connection.fetch(SELECT_DISPATCHER_ORDERS))

    async def streams(self) -> list[StreamRow]:
        """Every user's stream."""
        async with self._snapshot("notifier") as connection:
            return [StreamRow(**dict(row)) for row in await connection.fetch(SELECT_STREAMS)]

    def _snapshot(self, service: str) -> AbstractAsyncContextManager[Connection]:
        return self._surroundings.reading(service, deadline_s=READ_DEADLINE_S)


def answered_order_id(body: bytes) -> str | None:
    """The order that a kept answer names; None where it names none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    data = answer.get("data") if isinstance(answer, dict) else None
    order_id = data.get("orderId") if isinstance(data, dict) else None
    return order_id if isinstance(order_id, str) else None
