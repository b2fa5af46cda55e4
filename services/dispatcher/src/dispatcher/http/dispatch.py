"""Routes of offers, and of what ops and customers may see of a dispatch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from dispatcher import domain
from dispatcher.handlers.offers import LiveOffer, OfferEnded, OfferNotFound, Offers
from dispatcher.handlers.views import AssignedCaptain, Explanation, OrderNotFound, Views
from dispatcher.http import openapi
from dispatcher.http.bodies import DeclineBody
from dispatcher.store.offers import OfferOutcome
from weelo_common.clock import to_milliseconds
from weelo_common.http import ApiError, ErrorCode, PathId, Principal, Role, api_router, principal, success

AsCaptain = Annotated[Principal, Depends(principal(Role.CAPTAIN))]
AsOps = Annotated[Principal, Depends(principal(Role.OPS))]
AsCustomerOrOps = Annotated[Principal, Depends(principal(Role.CUSTOMER, Role.OPS))]


def dispatch_router(offers: Offers, views: Views) -> APIRouter:
    """``/offers`` and ``/dispatch``."""
    router = api_router()

    @router.get("/offers", **openapi.GET_OFFERS)
    async def get_offers(caller: AsCaptain) -> Response:
        return success({"offers": [_offer_json(live) for live in await offers.live(caller.user_id)]})

    @router.post("/offers/{offer_id}/decline", **openapi.DECLINE)
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

    @router.get("/dispatch/orders/{order_id}", **openapi.EXPLAIN)
    async def explain(caller: AsOps, order_id: PathId) -> Response:
        try:
            explanation = await views.explain(order_id)
        except OrderNotFound:
            raise _order_not_found() from None
        return success(_explanation_json(explanation))

    @router.get("/dispatch/orders/{order_id}/captains", **openapi.ASSIGNED_CAPTAINS)
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


def _explanation_json(explanation: Explanation) -> dict[str, Any]:
    order = explanation.order
    coming = domain.next_wave(order)
    return {
        "orderId": order.order_id,
        "status": order.status,
        "searching": order.searching,
        "orderVersion": order.version,
        "expiresAt": order.plan.expires_at if order.plan else None,
        "wavesMade": order.wave,
        "exhausted": order.exhausted,
        "nextWave": None
        if coming is None
        else {
            "wave": coming[0],
            "radiusM": domain.wave_radius_m(coming[0]),
            "dueAt": to_milliseconds(coming[1]),
        },
        "waves": [_round_json(entry, explanation.outcomes) for entry in explanation.rounds],
    }


def _round_json(entry: Mapping[str, Any], outcomes: Mapping[str, OfferOutcome]) -> dict[str, Any]:
    for line in entry["report"]:
        for captain in line["captains"]:
            if captain["offered"]:
                captain["offer"] = _outcome_json(outcomes[captain["captainId"]])
    return {
        "wave": entry["wave"],
        "cause": entry["cause"],
        "radiusM": entry["radius_m"],
        "at": to_milliseconds(entry["at"]),
        "lines": entry["report"],
        "leftOut": entry["left_out"],
    }


def _outcome_json(outcome: OfferOutcome) -> dict[str, Any]:
    return {
        "offerId": outcome.offer_id,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "endedAt": None if outcome.ended_at is None else to_milliseconds(outcome.ended_at),
    }


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
