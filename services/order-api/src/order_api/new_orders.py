"""The SQL that makes orders: the order, its truck requests, the answer kept for retries and the events, all or nothing.

Any number of orders go in one statement. Nothing here decides, and nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from order_api.model import Order, TruckRequest
from weelo_common.outbox import OutboxColumns
from weelo_common.postgres import Connection

NO_EVENTS: OutboxColumns = ([], [], [], [], [])
SEARCHING_INDEX = "orders_one_searching_per_customer"
KEY_INDEX = "idempotency_records_pkey"
NOTHING_WRITTEN = "INSERT 0 0"

# unnest() gives its rows in the order of the arrays. What is the same for every new order stands in the statement, what
# is the same for a group comes once: each element of an array costs PostgreSQL and the service near half a microsecond.
# ``met`` looks for what an index would refuse: an error would undo the same, but with a line in PostgreSQL's own log.
# LATERAL with LIMIT: one look into each index for each order, whatever the planner thinks of an empty table.
INSERT_ORDERS = """
WITH made AS (
    SELECT * FROM unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::jsonb[], $10::float8[],
                         $11::text[], $12::float8[], $13::bigint[], $14::integer[], $15::text[], $16::bytea[],
                         $17::smallint[], $18::bytea[])
           AS made (id, customer_id, customer_name, customer_phone, pickup, drop_place, distance_km, goods_type,
                    cargo_weight_kg, total_amount, total_trucks, key, fingerprint, answer_status, body)
), met AS (
    SELECT FROM made, LATERAL (SELECT FROM orders WHERE customer_id = made.customer_id AND searching LIMIT 1) AS his
    UNION ALL
    SELECT FROM made, LATERAL (SELECT FROM idempotency_records
                                WHERE customer_id = made.customer_id AND endpoint = $3 AND key = made.key
                                LIMIT 1) AS kept
), new_orders AS (
    INSERT INTO orders (id, customer_id, customer_name, customer_phone, pickup, drop_place, distance_km, goods_type,
                        cargo_weight_kg, total_amount, total_trucks, status, searching, version, timer_version,
                        expires_at, created_at, updated_at)
    SELECT id, customer_id, customer_name, customer_phone, pickup, drop_place, distance_km, goods_type,
           cargo_weight_kg, total_amount, total_trucks, 'active', true, 1, 1, $2::timestamptz, $1::timestamptz, $1
      FROM made WHERE NOT EXISTS (SELECT FROM met)
), kept_answers AS (
    INSERT INTO idempotency_records (customer_id, endpoint, key, fingerprint, status, body, order_id, created_at)
    SELECT customer_id, $3::text, key, fingerprint, answer_status, body, id, $1 FROM made
     WHERE key IS NOT NULL AND NOT EXISTS (SELECT FROM met)
), new_events AS (
    INSERT INTO outbox (topic, key, event_id, headers, payload)
    SELECT * FROM unnest($19::text[], $20::text[], $21::text[], $22::bytea[], $23::bytea[])
     WHERE NOT EXISTS (SELECT FROM met)
)
INSERT INTO truck_requests (id, order_id, request_number, vehicle_type, vehicle_subtype, price_per_truck, status,
                            created_at, updated_at)
SELECT id, order_id, request_number, vehicle_type, vehicle_subtype, price, 'searching', $1, $1
  FROM unnest($24::uuid[], $25::uuid[], $26::integer[], $27::text[], $28::text[], $29::integer[])
       AS truck (id, order_id, request_number, vehicle_type, vehicle_subtype, price)
 WHERE NOT EXISTS (SELECT FROM met)
"""


class CreateLost(Exception):
    """A customer has a searching order, or an answer under this key: nothing was written."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer of a create under its idempotency key. ``fingerprint`` has 32 bytes."""

    key: str
    fingerprint: bytes
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class MadeOrder:
    """A new order, as ``domain.create`` makes it, with what is written together with it."""

    order: Order
    answer: KeptAnswer | None
    events: OutboxColumns = NO_EVENTS


async def insert_orders(connection: Connection, made: Sequence[MadeOrder], *, endpoint: str) -> None:
    """Write new orders with their truck requests, kept answers and events: one statement, all of them or none.

    All were made at one time and with one lifetime; ``endpoint`` is what their keys belong to.

    Nobody else knows the keys of these events before the commit, so their rows need not wait for the orders' rows. The
    customers go in sorted order, so that two such statements never wait for each other in a circle.

    Raises:
        CreateLost: one of them could not be.
    """
    if not made:
        return
    made = sorted(made, key=lambda one: one.order.customer_id)
    (times,) = {(one.order.created_at, one.order.expires_at) for one in made}
    try:
        written: str = await connection.execute(
            INSERT_ORDERS,
            *times,
            endpoint,
            *zip(*(_order_values(one.order, one.answer) for one in made), strict=True),
            *([value for one in made for value in one.events[column]] for column in range(5)),
            *zip(
                *(_truck_values(one.order, truck) for one in made for truck in one.order.trucks), strict=True
            ),
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name not in (SEARCHING_INDEX, KEY_INDEX):
            raise
        raise CreateLost from None  # it came between the look and the writing
    if written == NOTHING_WRITTEN:
        raise CreateLost


def _order_values(order: Order, kept: KeptAnswer | None) -> tuple[object, ...]:
    return (
        order.id,
        order.customer_id,
        order.customer_name,
        order.customer_phone,
        order.pickup.model_dump_json(exclude_none=True),
        order.drop.model_dump_json(exclude_none=True),
        float(order.distance_km),
        order.goods_type,
        None if order.cargo_weight_kg is None else float(order.cargo_weight_kg),
        order.total_amount,
        order.total_trucks,
        *((kept.key, kept.fingerprint, kept.status, kept.body) if kept else (None, None, None, None)),
    )


def _truck_values(order: Order, truck: TruckRequest) -> tuple[object, ...]:
    return (
        truck.id,
        order.id,
        truck.request_number,
        truck.vehicle_type,
        truck.vehicle_subtype,
        truck.price_per_truck,
    )
