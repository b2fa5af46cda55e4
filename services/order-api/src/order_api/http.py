"""The HTTP paths of order-api, and the one table from refusals to the contract's codes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from pydantic import BeforeValidator, WithJsonSchema

from order_api import errors, openapi
from order_api.bodies import AcceptBody, CancelBody, CreateBody, ReleaseBody
from order_api.decision import Refusal
from order_api.handlers import Orders, Touched
from order_api.idempotency import HEADERS, MalformedKey, fingerprint, key_of
from order_api.intake import CreateRequest, Intake
from order_api.model import OrderStatus, TruckStatus
from order_api.queries import Queries
from order_api.views import order_data, order_view, truck_view
from weelo_common.clock import epoch_ms
from weelo_common.http import (
    ApiError,
    ErrorCode,
    FieldProblem,
    PathId,
    Principal,
    Role,
    api_router,
    principal,
    success,
)

IN_FLIGHT_RETRY_S = 2  # when a twin in flight is surely answered
MAX_PAGE = 1_000_000  # keeps the offset within PostgreSQL's integers
MAX_LIMIT = 100  # orders on one page

Customer = Annotated[Principal, Depends(principal(Role.CUSTOMER))]
Captain = Annotated[Principal, Depends(principal(Role.CAPTAIN))]
Reader = Annotated[Principal, Depends(principal(Role.CUSTOMER, Role.CAPTAIN, Role.OPS))]
Releaser = Annotated[Principal, Depends(principal(Role.CAPTAIN, Role.OPS))]
_EMPTY_IS_ALL = BeforeValidator(lambda text: text or None)  # ``?status=`` asks for all
_ALL = Query(description="Empty, as none: all.")
OrderFilter = Annotated[
    OrderStatus | None, _EMPTY_IS_ALL, WithJsonSchema({"type": "string", "enum": ["", *OrderStatus]}), _ALL
]
TruckFilter = Annotated[
    TruckStatus | None, _EMPTY_IS_ALL, WithJsonSchema({"type": "string", "enum": ["", *TruckStatus]}), _ALL
]

_LOST = {
    Refusal.ORDER_CANCELLED: (ErrorCode.ORDER_CANCELLED, "The order was cancelled."),
    Refusal.ORDER_EXPIRED: (ErrorCode.ORDER_EXPIRED, "The search for this order is over."),
    Refusal.TRUCK_REQUEST_TAKEN: (ErrorCode.TRUCK_REQUEST_TAKEN, "Another captain was faster."),
    Refusal.CAPTAIN_BUSY: (ErrorCode.CAPTAIN_BUSY, "You have a running trip."),
}


def order_routes(intake: Intake, orders: Orders, queries: Queries) -> APIRouter:
    """``/orders``."""
    router = api_router()

    @router.post("/orders", **openapi.CREATE)
    async def create(request: Request, caller: Customer, body: CreateBody) -> Response:
        wish = CreateRequest(body.wish(caller), _key(request), fingerprint(body.understood()))
        answer = await intake.create(wish)
        headers = {"Location": f"/api/v1/orders/{answer.order_id}"}
        if answer.replayed:
            headers["Idempotent-Replayed"] = "true"
        return Response(answer.body, answer.status, headers, media_type="application/json")

    @router.get("/orders", **openapi.PAGE)
    async def page_of_orders(
        caller: Customer,
        status: OrderFilter = None,
        page: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
    ) -> Response:
        found, now = await queries.page(caller.user_id, status=status, page=page, limit=limit)
        return success(
            {
                "orders": [order_view(order, now) for order in found.orders],
                "total": found.total,
                "hasMore": page * limit < found.total,
            }
        )

    @router.get("/orders/check-active", **openapi.CHECK_ACTIVE)
    async def check_active(caller: Customer) -> Response:
        found = await queries.searching(caller.user_id)
        active = None
        if found is not None:
            active = {"orderId": found.id, "status": found.status, "createdAt": found.created_at}
        return success({"hasActiveOrder": active is not None, "activeOrder": active})

    @router.get("/orders/{order_id}", **openapi.READ)
    async def read(order_id: PathId, caller: Reader) -> Response:
        found = await queries.order(order_id, caller)
        return success(order_data(found.order, found.now))

    @router.get("/orders/{order_id}/status", **openapi.STATUS)
    async def status_of(order_id: PathId, caller: Customer) -> Response:
        found = await queries.status(order_id, caller.user_id)
        order, progress = found.order, found.progress
        state = progress.state if progress else "queued"
        return success(
            {
                "orderId": order.id,
                "status": order.status.value,
                "remainingSeconds": order.seconds_left(found.now),
                "isActive": order.searching,
                "expiresAt": order.expires_at,
                "dispatchState": state if order.searching else "closed",
                "dispatchAttempts": progress.attempts if progress else 0,
                "notifiedTransporters": progress.notified_transporters if progress else 0,
                "serverTimeMs": epoch_ms(found.now),
            }
        )

    @router.post("/orders/{order_id}/cancel", **openapi.CANCEL)
    async def cancel(order_id: PathId, caller: Customer, body: CancelBody | None = None) -> Response:
        reason = body.reason if body else None
        done = (await orders.cancel(order_id, customer_id=caller.user_id, reason=reason)).order
        cancellation = done.cancellation
        return success(
            {
                "orderId": done.id,
                "status": done.status.value,
                "reason": cancellation.text if cancellation else None,
                "cancelledAt": cancellation.at if cancellation else None,
            }
        )

    @router.post("/orders/{order_id}/accept", **openapi.ACCEPT)
    async def accept(order_id: PathId, caller: Captain, body: AcceptBody) -> Response:
        done = await orders.accept(order_id, captain_id=caller.user_id, offer_token=body.offer_token)
        return success({**_truck(done), "order": order_view(done.order, done.now)})

    return router


def truck_request_routes(orders: Orders, queries: Queries) -> APIRouter:
    """``/truck-requests``."""
    router = api_router()

    @router.get("/truck-requests", **openapi.OWN_TRUCK_REQUESTS)
    async def own(caller: Captain, status: TruckFilter = None) -> Response:
        found = await queries.truck_requests(caller.user_id, status=status)
        return success({"truckRequests": [truck_view(order_id, truck) for order_id, truck in found]})

    @router.post("/truck-requests/{truck_request_id}/start", **openapi.START)
    async def start(truck_request_id: PathId, caller: Captain) -> Response:
        return success(_truck(await orders.start(truck_request_id, captain_id=caller.user_id)))

    @router.post("/truck-requests/{truck_request_id}/complete", **openapi.COMPLETE)
    async def complete(truck_request_id: PathId, caller: Captain) -> Response:
        return success(_truck(await orders.complete(truck_request_id, captain_id=caller.user_id)))

    @router.post("/truck-requests/{truck_request_id}/release", **openapi.RELEASE)
    async def release(truck_request_id: PathId, caller: Releaser, body: ReleaseBody) -> Response:
        captain_id = caller.user_id if caller.role is Role.CAPTAIN else None
        done = await orders.release(truck_request_id, captain_id=captain_id, reason=body.reason)
        return success(_truck(done))

    return router


def answer_refusals(app: FastAPI) -> None:
    """Give each refusal its answer."""

    async def answer(request: Request, error: Exception) -> Response:
        return api_error(error).response()

    app.add_exception_handler(errors.CommandRefused, answer)


def api_error(error: Exception) -> ApiError:
    """The contract's answer to a refusal.

    Raises:
        Exception: ``error`` itself, where it is none of ours.
    """
    match error:
        case errors.OrderNotFound():
            return ApiError(ErrorCode.NOT_FOUND, "There is no such order.")
        case errors.TruckRequestNotFound():
            return ApiError(ErrorCode.NOT_FOUND, "There is no such truck request.")
        case errors.CreateInFlight():
            return ApiError(
                ErrorCode.CONCURRENT_REQUEST,
                "Another request of yours is being handled.",
                data={"retryAfter": IN_FLIGHT_RETRY_S},
                retry_after_s=IN_FLIGHT_RETRY_S,
            )
        case errors.TooManyCreates(retry_after_s=seconds):
            return ApiError(ErrorCode.RATE_LIMITED, "Too many orders in a minute.", retry_after_s=seconds)
        case errors.KeyReused():
            return ApiError(
                ErrorCode.IDEMPOTENCY_KEY_REUSED, "This idempotency key belongs to another request."
            )
        case errors.ActiveOrderExists(order_id=order_id, status=status, created_at=created_at):
            return ApiError(
                ErrorCode.ACTIVE_ORDER_EXISTS,
                "You have an order that is still searching.",
                data={"activeOrderId": order_id, "status": status, "createdAt": created_at},
            )
        case errors.NotCancellable(status=status):
            return ApiError(
                ErrorCode.ORDER_NOT_CANCELLABLE, f"The order is {status}.", data={"status": status}
            )
        case errors.InvalidTransition(status=status):
            return ApiError(
                ErrorCode.INVALID_TRANSITION, f"The truck request is {status}.", data={"status": status}
            )
        case errors.AcceptLost(refusal=refusal):
            code, message = _LOST[refusal]
            return ApiError(code, message)
        case errors.OfferInvalid():
            return ApiError(ErrorCode.OFFER_INVALID, "This offer is not valid for you and this order.")
        case _:
            raise error


def _key(request: Request) -> str | None:
    try:
        return key_of({header: request.headers.getlist(header) for header in HEADERS})
    except MalformedKey as error:
        raise ApiError(
            ErrorCode.VALIDATION_ERROR,
            "The request is not valid.",
            details=[FieldProblem(error.header, str(error))],
        ) from None


def _truck(done: Touched) -> dict[str, object]:
    if done.truck is None:
        raise AssertionError("a granted command on a truck request names it")
    return {"truckRequest": truck_view(done.order.id, done.truck)}
