"""SQL for offers. They change under their order's row lock; a captain gets one under his own as well.

They are made together with their explanation, in ``rounds``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from dispatcher.domain import Driving, EndReason, Offer, OfferStatus
from weelo_common.clock import to_milliseconds
from weelo_common.events import WithdrawnOffer
from weelo_common.postgres import Connection

_COLUMNS = """offer_id, order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype, vehicle_number, wave,
       distance_m, price_per_truck, open_trucks, status, expires_at"""

_LIVE = OfferStatus.LIVE.value

SELECT_OFFERED = "SELECT order_id, captain_id FROM offers WHERE order_id = ANY($1::text[])"
SELECT_ORDERS_OF_LIVE = "SELECT DISTINCT order_id FROM offers WHERE captain_id = $1 AND status = 'live'"
SELECT_ORDER_OF_OFFER = "SELECT order_id FROM offers WHERE offer_id = $1 AND captain_id = $2"
SELECT_OFFER = f"SELECT {_COLUMNS} FROM offers WHERE offer_id = $1"  # noqa: S608
SELECT_LIVE_OF_CAPTAIN = f"""
SELECT {_COLUMNS}, (SELECT pickup FROM orders WHERE orders.order_id = offers.order_id) AS pickup,
       (SELECT drop_place FROM orders WHERE orders.order_id = offers.order_id) AS drop_place,
       (SELECT distance_km FROM orders WHERE orders.order_id = offers.order_id) AS distance_km
  FROM offers WHERE captain_id = $1 AND status = 'live' AND expires_at > clock_timestamp()
 ORDER BY made_at, offer_id
"""  # noqa: S608
SELECT_LIVE_UNLIKE = f"""
SELECT {_COLUMNS} FROM offers
 WHERE captain_id = $1 AND status = 'live' AND expires_at > clock_timestamp()
   AND (transporter_id, vehicle_type, vehicle_subtype, vehicle_number) <> ($2, $3, $4, $5)
 ORDER BY order_id
"""  # noqa: S608
SELECT_OUTCOMES = """
SELECT captain_id, offer_id, reason, ended_at,
       CASE WHEN status = 'live' AND expires_at <= clock_timestamp() THEN 'expired' ELSE status END AS status
  FROM offers WHERE order_id = $1
"""
ACCEPT_OFFER = """
UPDATE offers SET status = 'accepted', ended_at = clock_timestamp(), reason = NULL
 WHERE order_id = $1 AND captain_id = $2 AND status <> 'accepted' RETURNING offer_id
"""
DECLINE_OFFER = """
UPDATE offers SET status = 'declined', ended_at = clock_timestamp(), reason = $2 WHERE offer_id = $1
"""
# Of an order's offers "live" is a parameter: as a word it would let the planner take the index of captains' live ones.
# While it is empty that is as good as any; later it walks through all live offers.
END_OFFERS = """
UPDATE offers SET status = $2, reason = $3, ended_at = clock_timestamp()
 WHERE order_id = $1 AND status = $4 RETURNING offer_id, captain_id
"""
END_LINE_OFFERS = """
UPDATE offers SET status = $2, reason = $3, ended_at = clock_timestamp()
 WHERE order_id = $1 AND status = $4 AND vehicle_type = $5 AND vehicle_subtype = $6
RETURNING offer_id, captain_id
"""
END_CAPTAINS_OFFERS = """
UPDATE offers SET status = $2, reason = $3, ended_at = clock_timestamp()
 WHERE captain_id = $1 AND status = 'live' AND order_id = ANY($4::text[])
RETURNING offer_id, captain_id, order_id
"""


@dataclass(frozen=True, slots=True)
class OfferOutcome:
    """How an offer stands. ``reason``: why it ended, or why its captain declined."""

    offer_id: str
    status: OfferStatus
    reason: str | None
    ended_at: datetime | None


async def captains_offered(connection: Connection, order_ids: Collection[str]) -> dict[str, set[str]]:
    """Who was ever offered each of the orders."""
    offered: dict[str, set[str]] = {order_id: set() for order_id in order_ids}
    for row in await connection.fetch(SELECT_OFFERED, sorted(order_ids)):
        offered[row["order_id"]].add(row["captain_id"])
    return offered


async def orders_offered_to(connection: Connection, captain_id: str) -> set[str]:
    """The orders of which a captain has a live offer."""
    return {row["order_id"] for row in await connection.fetch(SELECT_ORDERS_OF_LIVE, captain_id)}


async def order_of_offer(connection: Connection, offer_id: str, captain_id: str) -> str | None:
    """The order of a captain's offer, or None where it is not his or not there."""
    order_id: str | None = await connection.fetchval(SELECT_ORDER_OF_OFFER, offer_id, captain_id)
    return order_id


async def get_offer(connection: Connection, offer_id: str) -> Offer | None:
    """An offer."""
    row = await connection.fetchrow(SELECT_OFFER, offer_id)
    return None if row is None else _offer(row)


async def live_offers_of(connection: Connection, captain_id: str) -> list[tuple[Offer, asyncpg.Record]]:
    """A captain's live offers, oldest first, each with its order's ``pickup``, ``drop_place``, ``distance_km``."""
    rows = await connection.fetch(SELECT_LIVE_OF_CAPTAIN, captain_id)
    return [(_offer(row), row) for row in rows]


async def live_offers_unlike(connection: Connection, captain_id: str, driving: Driving) -> list[Offer]:
    """A captain's live offers that were made to him with another vehicle, or for another transporter."""
    rows = await connection.fetch(
        SELECT_LIVE_UNLIKE,
        captain_id,
        driving.transporter_id,
        driving.vehicle_type,
        driving.vehicle_subtype,
        driving.vehicle_number,
    )
    return [_offer(row) for row in rows]


async def outcomes_of(connection: Connection, order_id: str) -> dict[str, OfferOutcome]:
    """What became of each offer of an order, by captain; he has one of an order."""
    return {
        row["captain_id"]: OfferOutcome(
            row["offer_id"], OfferStatus(row["status"]), row["reason"], row["ended_at"]
        )
        for row in await connection.fetch(SELECT_OUTCOMES, order_id)
    }


async def accept_offer(connection: Connection, order_id: str, captain_id: str) -> bool:
    """Note that a captain's offer won, whatever it was before: order-api decided so. False where it is noted already.

    By his name and not by the offer's: he has one of an order, and none of his may stay live while he drives.
    """
    return await connection.fetchval(ACCEPT_OFFER, order_id, captain_id) is not None


async def decline_offer(connection: Connection, offer_id: str, reason: str) -> None:
    """Note that a captain said no."""
    await connection.execute(DECLINE_OFFER, offer_id, reason)


async def end_offers(connection: Connection, order_id: str, reason: EndReason) -> tuple[WithdrawnOffer, ...]:
    """End every live offer of an order."""
    rows = await connection.fetch(END_OFFERS, order_id, _status(reason), reason.value, _LIVE)
    return tuple(WithdrawnOffer(offer_id=row["offer_id"], captain_id=row["captain_id"]) for row in rows)


async def end_line_offers(
    connection: Connection, order_id: str, vehicle: tuple[str, str], reason: EndReason
) -> tuple[WithdrawnOffer, ...]:
    """End the live offers of one requirement line."""
    rows = await connection.fetch(END_LINE_OFFERS, order_id, _status(reason), reason.value, _LIVE, *vehicle)
    return tuple(WithdrawnOffer(offer_id=row["offer_id"], captain_id=row["captain_id"]) for row in rows)


async def end_captains_offers(
    connection: Connection, captain_id: str, order_ids: Collection[str], reason: EndReason
) -> dict[str, tuple[WithdrawnOffer, ...]]:
    """End a captain's live offers of these orders, whose rows are locked; what ended, by order."""
    ended: dict[str, tuple[WithdrawnOffer, ...]] = {}
    rows = await connection.fetch(
        END_CAPTAINS_OFFERS, captain_id, _status(reason), reason.value, sorted(order_ids)
    )
    for row in rows:
        gone = WithdrawnOffer(offer_id=row["offer_id"], captain_id=row["captain_id"])
        ended[row["order_id"]] = (*ended.get(row["order_id"], ()), gone)
    return ended


def _status(reason: EndReason) -> str:
    return (OfferStatus.EXPIRED if reason is EndReason.EXPIRED else OfferStatus.WITHDRAWN).value


def _offer(row: asyncpg.Record) -> Offer:
    return Offer(
        offer_id=row["offer_id"],
        order_id=row["order_id"],
        captain_id=row["captain_id"],
        transporter_id=row["transporter_id"],
        vehicle_type=row["vehicle_type"],
        vehicle_subtype=row["vehicle_subtype"],
        vehicle_number=row["vehicle_number"],
        wave=row["wave"],
        distance_m=row["distance_m"],
        price_per_truck=row["price_per_truck"],
        open_trucks=row["open_trucks"],
        status=OfferStatus(row["status"]),
        expires_at=to_milliseconds(row["expires_at"]),
    )
