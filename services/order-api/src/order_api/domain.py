"""The rules of an order's life: create, accept, cancel, end by time, start, complete, release.

Each function takes an order and the database's time and returns a ``Decision``: the new order, the events that
say what happened, and a refusal where the wish could not be granted. An order whose time is over first ends its
search, so a refusal can come with events; both are saved together. Every order event adds one to the version,
and all events of one decision carry the state after it.

Pure: no I/O, no clock, no framework. What it needs from outside (the time, new ids) is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from order_api.decision import (
    Decision,
    Fact,
    Refusal,
    conclude,
    end_overdue,
    event_of,
    expiry_timer,
    released,
)
from order_api.model import (
    STARTED,
    WON,
    CancelKind,
    Cancellation,
    Order,
    OrderStatus,
    SearchEnd,
    TruckRequest,
    TruckStatus,
)
from weelo_common.events import (
    OrderCancelled,
    OrderCreated,
    OrderFullyFilled,
    Place,
    RequestedTruck,
    TruckAssigned,
    TruckStarted,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement line: so many trucks of one kind, each at this price in rupees."""

    vehicle_type: str
    vehicle_subtype: str
    quantity: int
    price_per_truck: int


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What a customer asks for; the name and phone come from his token and stay in this service."""

    customer_id: str
    customer_name: str
    customer_phone: str
    pickup: Place
    drop: Place
    distance_km: int | float
    goods_type: str | None
    cargo_weight_kg: int | float | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A captain's wish for a truck of one kind, as his offer token proves it."""

    captain_id: str
    offer_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str


def create(wish: NewOrder, *, now: datetime, lifetime: timedelta, new_id: Callable[[], str]) -> Decision:
    """A new order that searches until ``now + lifetime``, with one truck request for each truck."""
    kinds = [line for line in wish.lines for _ in range(line.quantity)]
    trucks = tuple(
        TruckRequest(
            id=new_id(),
            request_number=number,
            vehicle_type=line.vehicle_type,
            vehicle_subtype=line.vehicle_subtype,
            price_per_truck=line.price_per_truck,
            status=TruckStatus.SEARCHING,
            created_at=now,
            updated_at=now,
        )
        for number, line in enumerate(kinds, start=1)
    )
    order = Order(
        id=new_id(),
        customer_id=wish.customer_id,
        customer_name=wish.customer_name,
        customer_phone=wish.customer_phone,
        pickup=wish.pickup,
        drop=wish.drop,
        distance_km=wish.distance_km,
        goods_type=wish.goods_type,
        cargo_weight_kg=wish.cargo_weight_kg,
        total_amount=sum(line.quantity * line.price_per_truck for line in wish.lines),
        status=OrderStatus.ACTIVE,
        search_end=None,
        version=1,  # its first event
        timer_version=1,
        expires_at=now + lifetime,
        created_at=now,
        updated_at=now,
        trucks=trucks,
    )
    created = Fact(
        OrderCreated,
        {
            "pickup": wish.pickup,
            "drop": wish.drop,
            "distance_km": wish.distance_km,
            "goods_type": wish.goods_type,
            "total_amount": order.total_amount,
            "expires_at": order.expires_at,
            "truck_requests": tuple(
                RequestedTruck(
                    id=truck.id,
                    vehicle_type=truck.vehicle_type,
                    vehicle_subtype=truck.vehicle_subtype,
                    price_per_truck=truck.price_per_truck,
                )
                for truck in trucks
            ),
        },
    )
    return Decision(order, (event_of(created, order, order.version, now), expiry_timer(order)))


def end_if_overdue(order: Order, now: datetime, *, timer_fired: bool = False) -> Decision:
    """End the search if its time is over, else change nothing. ``timer_fired``: the timer needs no cancelling."""
    after, facts = end_overdue(order, now)
    return conclude(order, after, facts, now, timer_fired=timer_fired)


def reschedule_expiry(order: Order, *, sender_ahead: timedelta) -> Decision:
    """Schedule the end of the search again, for a timer that came far too early, by a clock so far ahead."""
    after = replace(order, timer_version=order.timer_version + 1)
    timer = expiry_timer(after)
    return Decision(after, (timer.model_copy(update={"due_at": timer.due_at + sender_ahead}),))


def accept(order: Order, claim: Claim, *, captain_is_busy: bool, now: datetime) -> Decision:
    """Give the captain the first open truck of his kind; who already won one here gets it again.

    ``captain_is_busy``: he holds a running truck request of another order. When several refusals hold, the first
    of cancelled, expired, taken, busy is given.
    """
    order_now, facts = end_overdue(order, now)
    for truck in order_now.trucks:
        if truck.captain_id == claim.captain_id and truck.status in WON:
            return conclude(order, order_now, facts, now, truck_id=truck.id)
    refusal: Refusal | None = None
    wanted = (claim.vehicle_type, claim.vehicle_subtype)
    open_truck = next(
        (
            truck
            for truck in order_now.trucks
            if truck.status is TruckStatus.SEARCHING and (truck.vehicle_type, truck.vehicle_subtype) == wanted
        ),
        None,
    )
    if order_now.cancellation is not None:
        refusal = Refusal.ORDER_CANCELLED
    elif order_now.search_end is SearchEnd.TIME:
        refusal = Refusal.ORDER_EXPIRED
    elif order_now.search_end is not None or open_truck is None:
        refusal = Refusal.TRUCK_REQUEST_TAKEN
    elif captain_is_busy:
        refusal = Refusal.CAPTAIN_BUSY
    if refusal is not None or open_truck is None:
        return conclude(order, order_now, facts, now, refusal=refusal)
    won = replace(
        open_truck,
        status=TruckStatus.ASSIGNED,
        captain_id=claim.captain_id,
        transporter_id=claim.transporter_id,
        vehicle_number=claim.vehicle_number,
        offer_id=claim.offer_id,
        assigned_at=now,
        released_captain_id=None,
        release_reason=None,
        updated_at=now,
    )
    after = _with_truck(order_now, won)
    facts.append(
        Fact(
            TruckAssigned,
            {
                "truck_request_id": won.id,
                "captain_id": claim.captain_id,
                "transporter_id": claim.transporter_id,
                "vehicle_type": won.vehicle_type,
                "vehicle_subtype": won.vehicle_subtype,
                "vehicle_number": claim.vehicle_number,
                "offer_id": claim.offer_id,
                "pickup": order.pickup,
                "drop": order.drop,
            },
        )
    )
    if after.trucks_filled == after.total_trucks:
        after = replace(after, search_end=SearchEnd.FILLED)
        facts.append(Fact(OrderFullyFilled, {}))
    return conclude(order, after, facts, now, truck_id=won.id)


def cancel(order: Order, *, text: str | None, now: datetime) -> Decision:
    """Cancel for the customer: allowed while no trip has started and the order has not expired. Repeatable."""
    order_now, facts = end_overdue(order, now)
    if order_now.cancellation is not None:
        return conclude(order, order_now, facts, now)
    started = any(truck.status in STARTED for truck in order_now.trucks)
    if started or (order_now.trucks_filled == 0 and not order_now.searching):
        return conclude(order, order_now, facts, now, refusal=Refusal.NOT_CANCELLABLE)
    facts.append(Fact(OrderCancelled, {"reason": CancelKind.CUSTOMER.value}))
    trucks = []
    for truck in order_now.trucks:
        if truck.status in WON:
            facts.append(released(truck, reason="cancelled", status=TruckStatus.CANCELLED))
        if truck.status in WON or truck.status is TruckStatus.SEARCHING:
            trucks.append(replace(truck, status=TruckStatus.CANCELLED, updated_at=now))
        else:
            trucks.append(truck)
    after = replace(
        order_now,
        trucks=tuple(trucks),
        cancellation=Cancellation(CancelKind.CUSTOMER, now, text),
        search_end=order_now.search_end or SearchEnd.CANCELLED,
    )
    return conclude(order, after, facts, now)


def start(order: Order, truck_id: str, *, captain_id: str, now: datetime) -> Decision:
    """The captain begins his trip. Repeatable until he completes it."""
    order_now, facts = end_overdue(order, now)
    truck = order_now.truck(truck_id)
    if truck is None or truck.captain_id != captain_id:
        return conclude(order, order_now, facts, now, refusal=Refusal.NOT_YOURS)
    if truck.status is TruckStatus.IN_PROGRESS:
        return conclude(order, order_now, facts, now, truck_id=truck_id)
    if truck.status is not TruckStatus.ASSIGNED:
        return conclude(order, order_now, facts, now, truck_id=truck_id, refusal=Refusal.INVALID_TRANSITION)
    facts.append(Fact(TruckStarted, {"truck_request_id": truck_id, "captain_id": captain_id}))
    after = _with_truck(order_now, replace(truck, status=TruckStatus.IN_PROGRESS, updated_at=now))
    return conclude(order, after, facts, now, truck_id=truck_id)


def complete(order: Order, truck_id: str, *, captain_id: str, now: datetime) -> Decision:
    """The captain ends his trip and is free again. Repeatable."""
    order_now, facts = end_overdue(order, now)
    truck = order_now.truck(truck_id)
    if truck is None or truck.captain_id != captain_id:
        return conclude(order, order_now, facts, now, refusal=Refusal.NOT_YOURS)
    if truck.status is TruckStatus.COMPLETED:
        return conclude(order, order_now, facts, now, truck_id=truck_id)
    if truck.status is not TruckStatus.IN_PROGRESS:
        return conclude(order, order_now, facts, now, truck_id=truck_id, refusal=Refusal.INVALID_TRANSITION)
    facts.append(released(truck, reason="completed", status=TruckStatus.COMPLETED))
    after = _with_truck(order_now, replace(truck, status=TruckStatus.COMPLETED, updated_at=now))
    return conclude(order, after, facts, now, truck_id=truck_id)


def release(order: Order, truck_id: str, *, captain_id: str | None, reason: str, now: datetime) -> Decision:
    """Take a truck back from its captain before the start: to search again while the order does, else cancelled.

    ``captain_id`` is the captain who asks, None for ops. Repeatable while nobody else took the truck.
    """
    order_now, facts = end_overdue(order, now)
    truck = order_now.truck(truck_id)
    if truck is None:
        return conclude(order, order_now, facts, now, refusal=Refusal.NOT_YOURS)
    gone = truck.released_captain_id
    if truck.captain_id is None and gone is not None and captain_id in (None, gone):
        return conclude(order, order_now, facts, now, truck_id=truck_id)
    if captain_id is not None and truck.captain_id != captain_id:
        return conclude(order, order_now, facts, now, refusal=Refusal.NOT_YOURS)
    if truck.status is not TruckStatus.ASSIGNED:
        return conclude(order, order_now, facts, now, truck_id=truck_id, refusal=Refusal.INVALID_TRANSITION)
    status = TruckStatus.SEARCHING if order_now.searching else TruckStatus.CANCELLED
    facts.append(released(truck, reason="released", status=status))
    freed = replace(
        truck,
        status=status,
        captain_id=None,
        transporter_id=None,
        vehicle_number=None,
        offer_id=None,
        assigned_at=None,
        released_captain_id=truck.captain_id,
        release_reason=reason,
        updated_at=now,
    )
    after = _with_truck(order_now, freed)
    if not after.searching and after.trucks_filled == 0:
        after = replace(after, cancellation=Cancellation(CancelKind.NO_TRUCK_LEFT, now))
        facts.append(Fact(OrderCancelled, {"reason": CancelKind.NO_TRUCK_LEFT.value}))
    return conclude(order, after, facts, now, truck_id=truck_id)


def _with_truck(order: Order, changed: TruckRequest) -> Order:
    return replace(
        order, trucks=tuple(changed if truck.id == changed.id else truck for truck in order.trucks)
    )
