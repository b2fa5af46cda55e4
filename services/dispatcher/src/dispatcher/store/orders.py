"""SQL for the view of orders: the orders and their truck requests."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import asyncpg

from dispatcher.domain import Line, OfferStatus, OrderView, SearchPlan, TruckRequest, TruckState
from weelo_common.clock import to_milliseconds
from weelo_common.events import OrderCreated, OrderEvent, Place
from weelo_common.postgres import Connection

_ORDER_COLUMNS = """order_id, customer_id, version, status, searching, pickup, drop_place, distance_km, created_at,
       expires_at, wave, timer_version, exhausted"""
_TRUCK_COLUMNS = """truck_request_id, order_id, vehicle_type, vehicle_subtype, price_per_truck, state, captain_id,
       version"""

# A new order, with its truck requests. Where the row is there already, nothing is done and no row comes back.
INSERT_CREATED = """
WITH created AS (
    INSERT INTO orders (order_id, customer_id, version, status, searching, pickup, drop_place, distance_km,
                        created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10)
    ON CONFLICT (order_id) DO NOTHING RETURNING order_id),
trucks AS (
    INSERT INTO truck_requests (truck_request_id, order_id, vehicle_type, vehicle_subtype, price_per_truck, state,
                                version)
    SELECT id, order_id, type, subtype, price, 'open', $3
      FROM created, unnest($11::text[], $12::text[], $13::text[], $14::int[]) AS t (id, type, subtype, price))
SELECT clock_timestamp() FROM created
"""
# An order whose creation comes after a later event: the plan is filled in, what is newer stays.
FILL_PLAN = """
UPDATE orders SET pickup = $2::jsonb, drop_place = $3::jsonb, distance_km = $4, created_at = $5, expires_at = $6,
       updated_at = clock_timestamp()
 WHERE order_id = $1
"""
FILL_TRUCKS = """
INSERT INTO truck_requests (truck_request_id, order_id, vehicle_type, vehicle_subtype, price_per_truck, state, version)
SELECT id, $1, type, subtype, price, 'open', $2
  FROM unnest($3::text[], $4::text[], $5::text[], $6::int[]) AS t (id, type, subtype, price)
ON CONFLICT (truck_request_id) DO UPDATE SET vehicle_type = excluded.vehicle_type,
       vehicle_subtype = excluded.vehicle_subtype, price_per_truck = excluded.price_per_truck
"""
ADD_ORDER = """
INSERT INTO orders (order_id, customer_id, version, status, searching) VALUES ($1, $2, 0, '', true)
ON CONFLICT (order_id) DO NOTHING
"""
LOCK_ORDERS = (
    f"SELECT {_ORDER_COLUMNS} FROM orders WHERE order_id = ANY($1::text[]) ORDER BY order_id FOR UPDATE"  # noqa: S608
)
SELECT_ORDER = f"SELECT {_ORDER_COLUMNS} FROM orders WHERE order_id = $1"  # noqa: S608
SAVE_ORDER = """
UPDATE orders SET version = $2, status = $3, searching = $4, wave = $5, timer_version = $6, exhausted = $7,
       updated_at = clock_timestamp()
 WHERE order_id = $1
"""
SELECT_TRUCK = f"SELECT {_TRUCK_COLUMNS} FROM truck_requests WHERE truck_request_id = $1"  # noqa: S608
SAVE_TRUCK = """
INSERT INTO truck_requests (truck_request_id, order_id, vehicle_type, vehicle_subtype, price_per_truck, state,
                            captain_id, version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (truck_request_id) DO UPDATE SET vehicle_type = excluded.vehicle_type,
       vehicle_subtype = excluded.vehicle_subtype, state = excluded.state, captain_id = excluded.captain_id,
       version = excluded.version
"""
# "Live" and "taken" are parameters: the indexes of captains, which hold nothing else, must not be taken for these.
SELECT_LINES = """
SELECT r.order_id, r.vehicle_type, r.vehicle_subtype, coalesce(max(r.price_per_truck), 0) AS price_per_truck,
       count(*) FILTER (WHERE r.state = 'open') AS open_trucks,
       (SELECT count(*) FROM offers o
         WHERE o.order_id = r.order_id AND o.vehicle_type = r.vehicle_type
           AND o.vehicle_subtype = r.vehicle_subtype AND o.status = $2) AS live_offers
  FROM truck_requests r
 WHERE r.order_id = ANY($1::text[]) AND r.vehicle_type IS NOT NULL
 GROUP BY r.order_id, r.vehicle_type, r.vehicle_subtype
 ORDER BY r.order_id, r.vehicle_type, r.vehicle_subtype
"""
SELECT_HOLDERS = """
SELECT r.truck_request_id, c.captain_id, c.name, c.phone, c.vehicle_type, c.vehicle_subtype, c.vehicle_number
  FROM truck_requests r
  JOIN LATERAL (SELECT * FROM captains WHERE captain_id = r.captain_id LIMIT 1) AS c ON true
 WHERE r.order_id = $1 AND r.state = $2
 ORDER BY r.truck_request_id
"""
# Longer than the topic keeps its events, so that a late repeat meets its row; never while a captain is on his way.
DELETE_OLD_ORDERS = """
DELETE FROM orders WHERE order_id = ANY(ARRAY(
    SELECT order_id FROM orders o
     WHERE seen_at < clock_timestamp() - $1 * interval '1 day'  -- has an index; what follows is the rule
       AND updated_at < clock_timestamp() - $1 * interval '1 day'
       AND NOT EXISTS (SELECT FROM truck_requests r WHERE r.order_id = o.order_id AND r.state = 'taken')
     ORDER BY seen_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING order_id
"""


async def insert_created(connection: Connection, event: OrderCreated) -> datetime | None:
    """Add an order with its truck requests; its row is then locked.

    Returns the database's time afterwards, in whole milliseconds; None where the order is known already.
    """
    trucks = _truck_columns(event)
    now: datetime | None = await connection.fetchval(
        INSERT_CREATED,
        event.order_id,
        event.customer_id,
        event.order_version,
        event.status,
        event.searching,
        _json(event.pickup),
        _json(event.drop),
        float(event.distance_km),
        event.occurred_at,
        event.expires_at,
        *trucks,
    )
    return None if now is None else to_milliseconds(now)


async def fill_created(connection: Connection, event: OrderCreated) -> None:
    """Fill in what only ``OrderCreated`` tells, on an order that the caller has locked."""
    await connection.execute(
        FILL_PLAN,
        event.order_id,
        _json(event.pickup),
        _json(event.drop),
        float(event.distance_km),
        event.occurred_at,
        event.expires_at,
    )
    await connection.execute(FILL_TRUCKS, event.order_id, event.order_version, *_truck_columns(event))


async def lock_order_of(
    connection: Connection, event: OrderEvent, others: Collection[str] = ()
) -> dict[str, OrderView]:
    """Lock the event's order and others, in sorted order; the event's has a row even where its creation is to come."""
    wanted = {event.order_id, *others}
    orders = await lock_orders(connection, wanted)
    if event.order_id not in orders:
        await connection.execute(ADD_ORDER, event.order_id, event.customer_id)
        orders = await lock_orders(connection, wanted)
    return orders


async def lock_orders(connection: Connection, order_ids: Collection[str]) -> dict[str, OrderView]:
    """Lock the rows, in sorted order, and return those that exist."""
    rows = await connection.fetch(LOCK_ORDERS, sorted(order_ids))
    return {row["order_id"]: _order(row) for row in rows}


async def get_order(connection: Connection, order_id: str) -> OrderView | None:
    """An order, not locked."""
    row = await connection.fetchrow(SELECT_ORDER, order_id)
    return None if row is None else _order(row)


async def save_order(connection: Connection, order: OrderView) -> None:
    """Write what changes of an order; the plan never does."""
    await connection.execute(
        SAVE_ORDER,
        order.order_id,
        order.version,
        order.status,
        order.searching,
        order.wave,
        order.timer_version,
        order.exhausted,
    )


async def get_truck(connection: Connection, truck_request_id: str) -> TruckRequest | None:
    """A truck request, or None where nothing told of it."""
    row = await connection.fetchrow(SELECT_TRUCK, truck_request_id)
    return None if row is None else TruckRequest(**(dict(row) | {"state": TruckState(row["state"])}))


async def save_truck(connection: Connection, truck: TruckRequest) -> None:
    """Write a truck request; its order's row is locked."""
    await connection.execute(
        SAVE_TRUCK,
        truck.truck_request_id,
        truck.order_id,
        truck.vehicle_type,
        truck.vehicle_subtype,
        truck.price_per_truck,
        truck.state.value,
        truck.captain_id,
        truck.version,
    )


async def lines_of(connection: Connection, order_ids: Collection[str]) -> dict[str, list[Line]]:
    """The requirement lines of orders, with their open trucks and live offers."""
    lines: dict[str, list[Line]] = {order_id: [] for order_id in order_ids}
    for row in await connection.fetch(SELECT_LINES, sorted(order_ids), OfferStatus.LIVE.value):
        values = dict(row)
        lines[values.pop("order_id")].append(Line(**values))
    return lines


async def holders_of(connection: Connection, order_id: str) -> list[dict[str, Any]]:
    """Captains who hold a truck request of the order, with name, phone and vehicle."""
    return [dict(row) for row in await connection.fetch(SELECT_HOLDERS, order_id, TruckState.TAKEN.value)]


async def delete_old_orders(connection: Connection, *, days: float, most: int) -> int:
    """Forget orders untouched for days, with all that hangs on them; returns how many."""
    return len(await connection.fetch(DELETE_OLD_ORDERS, days, most))


def _truck_columns(event: OrderCreated) -> tuple[list[str], list[str], list[str], list[int]]:
    trucks = event.truck_requests
    return (
        [truck.id for truck in trucks],
        [truck.vehicle_type for truck in trucks],
        [truck.vehicle_subtype for truck in trucks],
        [truck.price_per_truck for truck in trucks],
    )


def _order(row: asyncpg.Record) -> OrderView:
    plan: SearchPlan | None = None
    if row["pickup"] is not None:
        distance_km: float = row["distance_km"]
        plan = SearchPlan(
            pickup=Place.model_validate_json(row["pickup"]),
            drop=Place.model_validate_json(row["drop_place"]),
            distance_km=int(distance_km) if distance_km.is_integer() else distance_km,
            created_at=to_milliseconds(row["created_at"]),
            expires_at=to_milliseconds(row["expires_at"]),
        )
    return OrderView(
        order_id=row["order_id"],
        customer_id=row["customer_id"],
        version=row["version"],
        status=row["status"],
        searching=row["searching"],
        plan=plan,
        wave=row["wave"],
        timer_version=row["timer_version"],
        exhausted=row["exhausted"],
    )


def _json(place: Place) -> str:
    return place.model_dump_json(by_alias=True, exclude_none=True)
