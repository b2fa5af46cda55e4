"""SQL for the rounds of a search: offers are written in one statement with what was considered for them.

So an explanation costs no round trip of its own. It is read by people, and kept for days.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from dispatcher.domain import Offer, OrderView
from weelo_common.postgres import Connection

# Rounds of an order are numbered wave by wave, so many numbers a wave. What comes when they are used up is counted on
# the last one: an order whose captains all decline must not grow without end, and its next wave has its own numbers.
INSERT_ROUND = """
WITH made AS (
    INSERT INTO offers (order_id, wave, made_at, expires_at, offer_id, captain_id, transporter_id, vehicle_type,
                        vehicle_subtype, vehicle_number, distance_m, price_per_truck, open_trucks)
    SELECT $1, $2::int, $5::timestamptz, $8::timestamptz, *
      FROM unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int[],
                  $16::int[], $17::int[]))
INSERT INTO match_rounds (order_id, round, wave, cause, radius_m, at, report)
SELECT $1, $2::int * $7::int + least(count(*), $7::int - 1), $2::int, $3, $4, $5::timestamptz, $6::jsonb
  FROM match_rounds WHERE order_id = $1 AND wave = $2::int
ON CONFLICT (order_id, round) DO UPDATE SET left_out = match_rounds.left_out + 1
"""
SELECT_ROUNDS = """
SELECT wave, cause, radius_m, at, report, left_out FROM match_rounds WHERE order_id = $1 ORDER BY round
"""
DELETE_OLD_ROUNDS = """
DELETE FROM match_rounds WHERE (order_id, round) IN (
    SELECT order_id, round FROM match_rounds WHERE at < clock_timestamp() - $1 * interval '1 hour'
     ORDER BY at LIMIT $2)
RETURNING round
"""


async def add_round(
    connection: Connection,
    order: OrderView,
    offers: Sequence[Offer],
    *,
    cause: str,
    radius_m: int,
    at: datetime,
    expires_at: datetime,
    report: Sequence[Mapping[str, Any]],
    most: int,
) -> None:
    """Add live offers of an order, and what was considered for them; the order's and the captains' rows are locked.

    Past ``most`` rounds of a wave what was considered is only counted.
    """
    await connection.execute(
        INSERT_ROUND,
        order.order_id,
        order.wave,
        cause,
        radius_m,
        at,
        json.dumps(report),
        most,
        expires_at,
        [offer.offer_id for offer in offers],
        [offer.captain_id for offer in offers],
        [offer.transporter_id for offer in offers],
        [offer.vehicle_type for offer in offers],
        [offer.vehicle_subtype for offer in offers],
        [offer.vehicle_number for offer in offers],
        [offer.distance_m for offer in offers],
        [offer.price_per_truck for offer in offers],
        [offer.open_trucks for offer in offers],
    )


async def rounds_of(connection: Connection, order_id: str) -> list[dict[str, Any]]:
    """What each wave and replacement considered, oldest first; ``left_out`` counts what came after the last kept."""
    rows = await connection.fetch(SELECT_ROUNDS, order_id)
    return [dict(row) | {"report": json.loads(row["report"])} for row in rows]


async def delete_old_rounds(connection: Connection, *, hours: float, most: int) -> int:
    """Forget explanations; returns how many."""
    return len(await connection.fetch(DELETE_OLD_ROUNDS, hours, most))
