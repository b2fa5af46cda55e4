"""Orders and truck requests as their rows tell of them. Pure; the statements stand in ``store``."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from order_api.model import (
    CancelKind,
    Cancellation,
    Order,
    OrderStatus,
    SearchEnd,
    TruckRequest,
    TruckStatus,
)
from weelo_common.events import Place


def order_of(row: asyncpg.Record, trucks: Sequence[asyncpg.Record]) -> Order:
    """The order of a row of ``orders`` and its rows of ``truck_requests``, these in the order of their numbers."""
    cancellation = None
    if row["cancelled_at"] is not None:
        cancellation = Cancellation(CancelKind(row["cancel_kind"]), row["cancelled_at"], row["cancel_text"])
    return Order(
        id=str(row["id"]),
        customer_id=row["customer_id"],
        customer_name=row["customer_name"],
        customer_phone=row["customer_phone"],
        pickup=Place.model_validate_json(row["pickup"]),
        drop=Place.model_validate_json(row["drop_place"]),
        distance_km=_number(row["distance_km"]),
        goods_type=row["goods_type"],
        cargo_weight_kg=None if row["cargo_weight_kg"] is None else _number(row["cargo_weight_kg"]),
        total_amount=row["total_amount"],
        status=OrderStatus(row["status"]),
        search_end=None if row["search_end"] is None else SearchEnd(row["search_end"]),
        version=row["version"],
        timer_version=row["timer_version"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        trucks=tuple(truck_of(truck) for truck in trucks),
        cancellation=cancellation,
    )


def truck_of(row: asyncpg.Record) -> TruckRequest:
    """The truck request of a row of ``truck_requests``."""
    return TruckRequest(
        id=str(row["id"]),
        request_number=row["request_number"],
        vehicle_type=row["vehicle_type"],
        vehicle_subtype=row["vehicle_subtype"],
        price_per_truck=row["price_per_truck"],
        status=TruckStatus(row["status"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        captain_id=row["captain_id"],
        transporter_id=row["transporter_id"],
        vehicle_number=row["vehicle_number"],
        offer_id=row["offer_id"],
        assigned_at=row["assigned_at"],
        released_captain_id=row["released_captain_id"],
        release_reason=row["release_reason"],
    )


def _number(value: float) -> int | float:
    """Whole distances stay integers."""
    return int(value) if value.is_integer() else value
