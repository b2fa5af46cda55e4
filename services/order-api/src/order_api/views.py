"""The JSON shapes of orders and truck requests, as the contract has them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from order_api.model import Order, TruckRequest
from weelo_common.clock import epoch_ms, format_time
from weelo_common.events import Place


def order_view(order: Order, now: datetime) -> dict[str, Any]:
    """``order``; ``now`` is the database's time and gives ``expiresIn`` (whole seconds, rounded up)."""
    return {
        "id": order.id,
        "customerId": order.customer_id,
        "customerName": order.customer_name,
        "customerPhone": order.customer_phone,
        "pickup": place_view(order.pickup),
        "drop": place_view(order.drop),
        "distanceKm": order.distance_km,
        "totalTrucks": order.total_trucks,
        "trucksFilled": order.trucks_filled,
        "totalAmount": order.total_amount,
        "goodsType": order.goods_type,
        "status": order.status.value,
        "searching": order.searching,
        "version": order.version,
        "expiresAt": format_time(order.expires_at),
        "expiresIn": order.seconds_left(now),
        "createdAt": format_time(order.created_at),
        "updatedAt": format_time(order.updated_at),
    }


def truck_view(order_id: str, truck: TruckRequest) -> dict[str, Any]:
    """One of ``truckRequests``; what is not known yet is left out."""
    view: dict[str, Any] = {
        "id": truck.id,
        "orderId": order_id,
        "requestNumber": truck.request_number,
        "vehicleType": truck.vehicle_type,
        "vehicleSubtype": truck.vehicle_subtype,
        "pricePerTruck": truck.price_per_truck,
        "status": truck.status.value,
        "captainId": truck.captain_id,
        "transporterId": truck.transporter_id,
        "vehicleNumber": truck.vehicle_number,
        "assignedAt": format_time(truck.assigned_at) if truck.assigned_at else None,
        "createdAt": format_time(truck.created_at),
        "updatedAt": format_time(truck.updated_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def place_view(place: Place) -> dict[str, Any]:
    """``pickup`` or ``drop``; what was not given is left out."""
    view: dict[str, Any] = {
        "latitude": place.latitude,
        "longitude": place.longitude,
        "address": place.address,
    }
    if place.city is not None:
        view["city"] = place.city
    if place.state is not None:
        view["state"] = place.state
    return view


def order_data(order: Order, now: datetime) -> dict[str, Any]:
    """``data`` of ``GET /orders/{id}``."""
    return {
        "order": order_view(order, now),
        "truckRequests": [truck_view(order.id, truck) for truck in order.trucks],
    }


def created_body(order: Order, now: datetime) -> bytes:
    """The whole body of a 201: kept as bytes, so that a replay is the same to the last one."""
    groups: dict[tuple[str, str], int] = {}
    for truck in order.trucks:
        kind = (truck.vehicle_type, truck.vehicle_subtype)
        groups[kind] = groups.get(kind, 0) + 1
    data = {
        "orderId": order.id,
        **order_data(order, now),
        "broadcastSummary": {
            "totalRequests": order.total_trucks,
            "groupedBy": [
                {
                    "vehicleType": vehicle_type,
                    "vehicleSubtype": vehicle_subtype,
                    "count": count,
                    "transportersNotified": 0,  # matching comes after the answer
                }
                for (vehicle_type, vehicle_subtype), count in groups.items()
            ],
            "totalTransportersNotified": 0,
        },
        "timeoutSeconds": order.seconds_left(now),
        "dispatchState": "queued",
        "serverTimeMs": epoch_ms(now),
    }
    return orjson.dumps({"success": True, "data": data})
