"""SQL for the rounds of a search: offers are written in one statement with what was considered for them.

So an explanation costs no round trip of its own. It is read by people, and kept for days. A wave writes all that it
writes in that statement: what it costs is round trips.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dispatcher.domain import Offer, OrderView
from weelo_common.outbox import OutboxColumns
from weelo_common.postgres import Connection

# Rounds of an order are numbered wave by wave, so many numbers a wave. What comes when they are used up is counted on
# the last one: an order whose captains all decline must not grow without end, and its next wave has its own numbers.
_MADE = """
    INSERT INTO offers (order_id, wave, made_at, expires_at, offer_id, captain_id, transporter_id, vehicle_type,
                        vehicle_subtype, vehicle_number, distance_m, price_per_truck, open_trucks)
    SELECT $1, $2::int, $5::timestamptz, $8::timestamptz, *
      FROM unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int[],
                  $16::int[], $17::int[])"""
_ROUND = """
INSERT INTO match_rounds (order_id, round, wave, cause, radius_m, at, report)
SELECT $1, $2::int * $7::int + least(count(*), $7::int - 1), $2::int, $3, $4, $5::timestamptz, $6::jsonb
  FROM match_rounds WHERE order_id = $1 AND wave = $2::int
ON CONFLICT (order_id, round) DO UPDATE SET left_out = match_rounds.left_out + 1
"""
INSERT_ROUND = f"WITH made AS ({_MADE}){_ROUND}"
# All that a wave writes. The outbox rows come from unnest() in order, and the identity gives them ids in that order.
INSERT_WAVE = f"""
WITH made AS ({_MADE}),
saved AS (
    UPDATE orders SET wave = $2::int, timer_version = $18, exhausted = $19, updated_at = clock_timestamp()
     WHERE order_id = $1),
told AS (
    INSERT INTO outbox (topic, key, event_id, headers, payload)
    SELECT * FROM unnest($20::text[], $21::text[], $22::text[], $23::bytea[], $24::bytea[])){_ROUND}
"""  # noqa: S608 - only the constants above are put in
SELECT_ROUNDS = """
SELECT wave, cause, radius_m, at, report, left_out FROM match_rounds WHERE order_id = $1 ORDER BY round
"""
DELETE_OLD_ROUNDS = """
DELETE FROM match_rounds WHERE (order_id, round) IN (
    SELECT order_id, round FROM match_rounds WHERE at < clock_timestamp() - $1 * interval '1 hour'
     ORDER BY at LIMIT $2)
RETURNING round
"""


@dataclass(frozen=True, slots=True)
class Round:
    """What one wave or replacement made, and what was considered.

    Past ``most`` rounds of a wave what was considered is only counted.
    """

    order: OrderView
    offers: Sequence[Offer]
    cause: str
    radius_m: int
    at: datetime
    expires_at: datetime
    report: Sequence[Mapping[str, Any]]
    most: int

    def arguments(self) -> tuple[Any, ...]:
        """What both statements begin with."""
        offers = self.offers
        return (
            self.order.order_id,
            self.order.wave,
            self.cause,
            self.radius_m,
            self.at,
            json.dumps(self.report),
            self.most,
            self.expires_at,
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


async def add_round(connection: Connection, made: Round) -> None:
    """Add live offers of an order, and what was considered; the order's and the captains' rows are locked."""
    await connection.execute(INSERT_ROUND, *made.arguments())


async def add_wave(connection: Connection, made: Round, told: OutboxColumns) -> None:
    """The same, and with it how far the order's waves have come, and the events: one statement for the whole wave."""
    order = made.order
    await connection.execute(INSERT_WAVE, *made.arguments(), order.timer_version, order.exhausted, *told)


async def rounds_of(connection: Connection, order_id: str) -> list[dict[str, Any]]:
    """What each wave and replacement considered, oldest first; ``left_out`` counts what came after the last kept."""
    rows = await connection.fetch(SELECT_ROUNDS, order_id)
    return [dict(row) | {"report": json.loads(row["report"])} for row in rows]


async def delete_old_rounds(connection: Connection, *, hours: float, most: int) -> int:
    """Forget explanations; returns how many."""
    return len(await connection.fetch(DELETE_OLD_ROUNDS, hours, most))
