"""Routes of transporters and captains."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from dispatcher.domain import Driving
from dispatcher.handlers.fleet import CaptainNotFound, Fleet, VerifiedIsOpsAlone
from dispatcher.http import openapi
from dispatcher.http.bodies import (
    AvailabilityBody,
    CaptainBody,
    ConfirmBody,
    LocationsBody,
    OpaquePathId,
    TransporterBody,
)
from dispatcher.metrics import DispatcherMetrics
from dispatcher.position_sender import PositionSender
from dispatcher.store.fleet import Captain, Transporter
from weelo_common.clock import epoch_ms, to_milliseconds
from weelo_common.events.positions import Position, captain_fingerprint
from weelo_common.http import ApiError, ErrorCode, Principal, Role, api_router, principal, success

AsCaptain = Annotated[Principal, Depends(principal(Role.CAPTAIN))]
AsTransporterOrOps = Annotated[Principal, Depends(principal(Role.TRANSPORTER, Role.OPS))]


def fleet_router(fleet: Fleet, positions: PositionSender, metrics: DispatcherMetrics) -> APIRouter:
    """``/transporters`` and ``/captains``."""
    router = api_router()

    @router.put("/transporters/{transporter_id}", **openapi.PUT_TRANSPORTER)
    async def put_transporter(
        caller: AsTransporterOrOps, transporter_id: OpaquePathId, body: TransporterBody
    ) -> Response:
        _only_own(caller, transporter_id)
        try:
            transporter = await fleet.put_transporter(
                transporter_id,
                name=body.name,
                phone=body.phone,
                active=body.active,
                verified=body.verified,
                by_ops=caller.role is Role.OPS,
            )
        except VerifiedIsOpsAlone:
            raise ApiError(ErrorCode.FORBIDDEN, "Only ops may change verified.") from None
        return success({"transporter": _transporter_json(transporter)})

    @router.put("/transporters/{transporter_id}/captains/{captain_id}", **openapi.CONFIRM_CAPTAIN)
    async def confirm_captain(
        caller: AsTransporterOrOps,
        transporter_id: OpaquePathId,
        captain_id: OpaquePathId,
        body: ConfirmBody,
    ) -> Response:
        _only_own(caller, transporter_id)
        try:
            captain = await fleet.confirm(transporter_id, captain_id, confirmed=body.confirmed)
        except CaptainNotFound:
            raise ApiError(ErrorCode.NOT_FOUND, "No captain of that id names this transporter.") from None
        return success({"captain": _captain_json(captain)})

    @router.put("/captains/me", **openapi.PUT_CAPTAIN)
    async def put_captain(caller: AsCaptain, body: CaptainBody) -> Response:
        captain = await fleet.put_captain(
            caller.user_id,
            name=body.name,
            phone=body.phone,
            driving=Driving(
                body.transporter_id, body.vehicle_type, body.vehicle_subtype, body.vehicle_number
            ),
        )
        return success({"captain": _captain_json(captain)})

    @router.get("/captains/me", **openapi.GET_CAPTAIN)
    async def get_captain(caller: AsCaptain) -> Response:
        try:
            standing = await fleet.standing(caller.user_id)
        except CaptainNotFound:
            raise _not_registered() from None
        reasons = [reason.value for reason in standing.no_offers_because]
        return success(
            {
                "captain": {
                    **_captain_json(standing.captain),
                    "receivesOffers": not reasons,
                    "noOffersBecause": reasons,
                }
            }
        )

    @router.put("/captains/me/availability", **openapi.PUT_AVAILABILITY)
    async def put_availability(caller: AsCaptain, body: AvailabilityBody) -> Response:
        try:
            captain = await fleet.set_available(caller.user_id, available=body.available)
        except CaptainNotFound:
            raise _not_registered() from None
        return success({"captain": _captain_json(captain)})

    @router.post("/captains/me/locations", **openapi.POST_LOCATIONS)
    async def post_locations(caller: AsCaptain, body: LocationsBody) -> Response:
        if not await fleet.is_registered(caller.user_id):
            metrics.positions.labels("unknown_captain").inc(len(body.locations))
            raise _not_registered()
        fingerprint = captain_fingerprint(caller.user_id)
        await positions.send(
            [
                Position(fingerprint, place.latitude, place.longitude, epoch_ms(place.recorded_at))
                for place in body.locations
            ]
        )
        metrics.positions.labels("accepted").inc(len(body.locations))
        return success({"accepted": len(body.locations)}, status=202)

    return router


def _only_own(caller: Principal, transporter_id: str) -> None:
    if caller.role is Role.TRANSPORTER and caller.user_id != transporter_id:
        raise ApiError(ErrorCode.FORBIDDEN, "This is another transporter's.")


def _not_registered() -> ApiError:
    return ApiError(ErrorCode.NOT_FOUND, "You are not registered yet; PUT /api/v1/captains/me first.")


def _transporter_json(transporter: Transporter) -> dict[str, Any]:
    return {
        "id": transporter.transporter_id,
        "name": transporter.name,
        "phone": transporter.phone,
        "active": transporter.active,
        "verified": transporter.verified,
        "createdAt": to_milliseconds(transporter.created_at),
        "updatedAt": to_milliseconds(transporter.updated_at),
    }


def _captain_json(captain: Captain) -> dict[str, Any]:
    return {
        "id": captain.captain_id,
        "transporterId": captain.transporter_id,
        "name": captain.name,
        "phone": captain.phone,
        "vehicleType": captain.vehicle_type,
        "vehicleSubtype": captain.vehicle_subtype,
        "vehicleNumber": captain.vehicle_number,
        "confirmed": captain.confirmed,
        "available": captain.available,
        "busy": captain.busy,
        "createdAt": to_milliseconds(captain.created_at),
        "updatedAt": to_milliseconds(captain.updated_at),
    }
