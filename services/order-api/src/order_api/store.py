"""The SQL of orders and truck requests that exist. New ones come by ``new_orders``.

Every change goes: ``lock_order`` (a statement of its own), ``load_order`` (which reads after the lock was granted),
a decision of the domain, ``save_order``. Nothing here decides, and nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from order_api.model import Order, TruckRequest
from order_api.order_rows import order_of, truck_of
from weelo_common.postgres import Connection

RUNNING_INDEX = "truck_requests_one_running_per_captain"

# A lock that had to wait grants the newest row, but judges by the statement's own start; so reading comes next.
# NO KEY: as exclusive among commands as FOR UPDATE, yet rows that only refer to the order do not wait for it.
LOCK_ORDER = "SELECT FROM orders WHERE id = $1 FOR NO KEY UPDATE"
SELECT_ORDER = """
SELECT *, date_trunc('milliseconds', clock_timestamp()) AS database_now FROM orders WHERE id = $1
"""
SELECT_TRUCKS = (
    "SELECT * FROM truck_requests WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, request_number"
)
SELECT_ORDER_OF_TRUCK = "SELECT order_id FROM truck_requests WHERE id = $1"
SELECT_CAPTAIN_IS_BUSY = """
SELECT EXISTS (SELECT FROM truck_requests
                WHERE captain_id = $1 AND status IN ('assigned', 'in_progress') AND order_id <> $2)
"""
SELECT_SEARCHING_ORDER = """
SELECT id, status, created_at, expires_at <= clock_timestamp() AS overdue
  FROM orders WHERE customer_id = $1 AND searching
"""
# It never waits for a lock, so it needs no sorted order among ids and can take the longest overdue first. Its index is
# for orders without a search_end, which is the same as searching: no look for a customer's order is to be led there.
LOCK_OVERDUE = """
SELECT id FROM orders WHERE search_end IS NULL AND expires_at <= clock_timestamp()
 ORDER BY expires_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""
COUNT_ORDERS = """
SELECT count(*) FROM orders WHERE customer_id = $1 AND ($2::text IS NULL OR status = $2)
"""
SELECT_ORDERS = """
SELECT * FROM orders WHERE customer_id = $1 AND ($2::text IS NULL OR status = $2)
 ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4
"""
SELECT_TRUCKS_OF_CAPTAIN = """
SELECT * FROM truck_requests WHERE captain_id = $1 AND ($2::text IS NULL OR status = $2)
 ORDER BY assigned_at DESC, id DESC LIMIT $3
"""
UPDATE_ORDER = """
UPDATE orders SET status = $3, searching = $4, search_end = $5, trucks_filled = $6, version = $7, timer_version = $8,
                  updated_at = $9, cancelled_at = $10, cancel_kind = $11, cancel_text = $12
 WHERE id = $1 AND version = $2
RETURNING id
"""
UPDATE_TRUCKS = """
UPDATE truck_requests AS truck
   SET status = new.status, captain_id = new.captain_id, transporter_id = new.transporter_id,
       vehicle_number = new.vehicle_number, offer_id = new.offer_id, assigned_at = new.assigned_at,
       released_captain_id = new.released_captain_id, release_reason = new.release_reason,
       updated_at = new.updated_at
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[],
              $9::text[], $10::timestamptz[])
       AS new (id, status, captain_id, transporter_id, vehicle_number, offer_id, assigned_at, released_captain_id,
               release_reason, updated_at)
 WHERE truck.id = new.id
"""


class OrderChangedUnlocked(Exception):
    """An order's row changed between its load and its save: a defect, because whoever saves holds its lock."""


class CaptainHasRunningTruck(Exception):
    """The unique index of running truck requests refused; the transaction is broken off."""


@dataclass(frozen=True, slots=True)
class SearchingOrder:
    """A customer's one order that still searches, or did until nobody noticed that its time is over."""

    id: str
    status: str
    created_at: datetime
    overdue: bool


@dataclass(frozen=True, slots=True)
class OrderPage:
    """One page of a customer's orders, newest first, and how many there are in all."""

    orders: tuple[Order, ...]
    total: int


async def lock_order(connection: Connection, order_id: str) -> bool:
    """Lock the order's row until the transaction ends; False where there is none."""
    return await connection.fetchrow(LOCK_ORDER, order_id) is not None


async def load_order(connection: Connection, order_id: str) -> tuple[Order, datetime] | None:
    """The order as it stands, and the database's time (whole ms) at which it was read."""
    row = await connection.fetchrow(SELECT_ORDER, order_id)
    if row is None:
        return None
    trucks = await connection.fetch(SELECT_TRUCKS, [order_id])
    return order_of(row, trucks), row["database_now"]


async def order_of_truck(connection: Connection, truck_id: str) -> str | None:
    """The id of the order that a truck request belongs to; that never changes."""
    found = await connection.fetchval(SELECT_ORDER_OF_TRUCK, truck_id)
    return None if found is None else str(found)


async def captain_is_busy(connection: Connection, captain_id: str, other_than_order: str) -> bool:
    """Whether the captain holds a running truck request of another order."""
    return bool(await connection.fetchval(SELECT_CAPTAIN_IS_BUSY, captain_id, other_than_order))


async def searching_order(connection: Connection, customer_id: str) -> SearchingOrder | None:
    """The customer's order whose search has not ended."""
    row = await connection.fetchrow(SELECT_SEARCHING_ORDER, customer_id)
    if row is None:
        return None
    return SearchingOrder(str(row["id"]), row["status"], row["created_at"], row["overdue"])


async def lock_overdue_orders(connection: Connection, limit: int) -> list[str]:
    """Lock up to ``limit`` orders whose search should have ended and that nobody holds; their ids."""
    return [str(row["id"]) for row in await connection.fetch(LOCK_OVERDUE, limit)]


async def orders_of_customer(
    connection: Connection, customer_id: str, *, status: str | None, limit: int, offset: int
) -> OrderPage:
    """A page of the customer's orders; ``status`` None means all."""
    total: int = await connection.fetchval(COUNT_ORDERS, customer_id, status)
    rows = await connection.fetch(SELECT_ORDERS, customer_id, status, limit, offset)
    trucks: dict[str, list[asyncpg.Record]] = {}
    for truck in await connection.fetch(SELECT_TRUCKS, [row["id"] for row in rows]):
        trucks.setdefault(str(truck["order_id"]), []).append(truck)
    return OrderPage(tuple(order_of(row, trucks.get(str(row["id"]), [])) for row in rows), total)


async def trucks_of_captain(
    connection: Connection, captain_id: str, *, status: str | None, limit: int
) -> list[tuple[str, TruckRequest]]:
    """The captain's truck requests with their order ids, the latest first."""
    rows = await connection.fetch(SELECT_TRUCKS_OF_CAPTAIN, captain_id, status, limit)
    return [(str(row["order_id"]), truck_of(row)) for row in rows]


async def save_order(connection: Connection, before: Order, after: Order) -> None:
    """Write what changed. The caller has locked the row since before it loaded ``before``.

    Raises:
        CaptainHasRunningTruck: the captain won elsewhere in the meantime.
        OrderChangedUnlocked: the row is not at ``before.version``.
    """
    cancellation = after.cancellation
    saved = await connection.fetchval(
        UPDATE_ORDER,
        after.id,
        before.version,
        after.status.value,
        after.searching,
        after.search_end.value if after.search_end else None,
        after.trucks_filled,
        after.version,
        after.timer_version,
        after.updated_at,
        cancellation.at if cancellation else None,
        cancellation.kind.value if cancellation else None,
        cancellation.text if cancellation else None,
    )
    if saved is None:
        raise OrderChangedUnlocked(after.id)
    await _save_trucks(
        connection, [truck for truck, old in zip(after.trucks, before.trucks, strict=True) if truck != old]
    )


async def _save_trucks(connection: Connection, changed: Sequence[TruckRequest]) -> None:
    if not changed:
        return
    try:
        await connection.execute(
            UPDATE_TRUCKS,
            [truck.id for truck in changed],
            [truck.status.value for truck in changed],
            [truck.captain_id for truck in changed],
            [truck.transporter_id for truck in changed],
            [truck.vehicle_number for truck in changed],
            [truck.offer_id for truck in changed],
            [truck.assigned_at for truck in changed],
            [truck.released_captain_id for truck in changed],
            [truck.release_reason for truck in changed],
            [truck.updated_at for truck in changed],
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != RUNNING_INDEX:
            raise
        raise CaptainHasRunningTruck from None
