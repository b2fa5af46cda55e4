"""Routes of offers, and of what ops and customers may see of a dispatch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from dispatcher.handlers.offers import LiveOffer, OfferEnded, OfferNotFound, Offers
from dispatcher.handlers.views import AssignedCaptain, OrderNotFound, Views
from dispatcher.http.bodies import DeclineBody
from weelo_common.clock import to_milliseconds
from weelo_common.http import ApiError, ErrorCode, PathId, Principal, Role, api_router, principal, success

AsCaptain = Annotated[Principal, Depends(principal(Role.CAPTAIN))]
AsOps = Annotated[Principal, Depends(principal(Role.OPS))]
AsCustomerOrOps = Annotated[Principal, Depends(principal(Role.CUSTOMER, Role.OPS))]


def dispatch_router(offers: Offers, views: Views) -> APIRouter:
    """``/offers`` and ``/dispatch``."""
    router = api_router()

    @router.get("/offers")
    async def get_offers(caller: AsCaptain) -> Response:
        return success({"offers": [_offer_json(live) for live in await offers.live(caller.user_id)]})

    @router.post("/offers/{offer_id}/decline")
    async def decline(caller: AsCaptain, offer_id: PathId, body: DeclineBody) -> Response:
        try:
            status = await offers.decline(caller.user_id, offer_id, body.reason.value)
        except OfferNotFound:
            raise ApiError(ErrorCode.NOT_FOUND, "You have no such offer.") from None
        except OfferEnded as ended:
            raise ApiError(
                ErrorCode.OFFER_EXPIRED, "The offer has ended.", data={"status": ended.status.value}
            ) from None
        return success({"offerId": offer_id, "status": status.value})

    @router.get("/dispatch/orders/{order_id}")
    async def explain(caller: AsOps, order_id: PathId) -> Response:
        try:
            order, rounds = await views.explain(order_id)
        except OrderNotFound:
            raise _order_not_found() from None
        return success(
            {
                "orderId": order.order_id,
                "status": order.status,
                "searching": order.searching,
                "orderVersion": order.version,
                "expiresAt": order.plan.expires_at if order.plan else None,
                "wavesMade": order.wave,
                "exhausted": order.exhausted,
                "waves": [
                    {
                        "wave": entry["wave"],
                        "cause": entry["cause"],
                        "radiusM": entry["radius_m"],
                        "at": to_milliseconds(entry["at"]),
                        "lines": entry["report"],
                    }
                    for entry in rounds
                ],
            }
        )

    @router.get("/dispatch/orders/{order_id}/captains")
    async def captains(caller: AsCustomerOrOps, order_id: PathId) -> Response:
        customer_id = caller.user_id if caller.role is Role.CUSTOMER else None
        try:
            assigned = await views.assigned_captains(order_id, customer_id=customer_id)
        except OrderNotFound:
            raise _order_not_found() from None
        return success({"captains": [_assigned_json(captain) for captain in assigned]})

    return router


def _order_not_found() -> ApiError:
    return ApiError(ErrorCode.NOT_FOUND, "There is no such order.")


def _offer_json(live: LiveOffer) -> dict[str, Any]:
    offer = live.offer
    return {
        "offerId": offer.offer_id,
        "offerToken": live.token,
        "orderId": offer.order_id,
        "vehicleType": offer.vehicle_type,
        "vehicleSubtype": offer.vehicle_subtype,
        "pickup": live.pickup.model_dump(mode="json", by_alias=True, exclude_none=True),
        "drop": live.drop.model_dump(mode="json", by_alias=True, exclude_none=True),
        "distanceKm": live.distance_km,
        "pickupDistanceM": offer.distance_m,
        "pricePerTruck": offer.price_per_truck,
        "openTrucks": offer.open_trucks,
        "expiresAt": offer.expires_at,
    }


def _assigned_json(captain: AssignedCaptain) -> dict[str, Any]:
    last = captain.last_position
    return {
        "truckRequestId": captain.truck_request_id,
        "captainId": captain.captain_id,
        "name": captain.name,
        "phone": captain.phone,
        "vehicleType": captain.vehicle_type,
        "vehicleSubtype": captain.vehicle_subtype,
        "vehicleNumber": captain.vehicle_number,
        "lastPosition": None
        if last is None
        else {
            "latitude": last.latitude,
            "longitude": last.longitude,
            "receivedAt": datetime.fromtimestamp(last.received_at_ms / 1000, UTC),
        },
    }
