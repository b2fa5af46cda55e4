"""The rules of dispatch for an order: waves, targets, and how its view follows its events.

Who may be offered it stands in ``candidates``. Pure: no I/O, no clock, no framework; times come in as arguments, from
the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from weelo_common.events import OrderCreated, OrderEvent, Place, TruckAssigned, TruckReleased

OFFER_WAVES = 6  # one each sixth of an order's life
WAVE_RADII_M = (2_000, 5_000, 10_000, 25_000, 50_000, 50_000)
MIN_LIVE_OFFERS = 5  # per requirement line: some will not look at their phone
OFFERS_PER_OPEN_TRUCK = 3
MAX_LIVE_OFFERS = 20  # per line: more captains racing for a truck only lose more races
TIMER_WAIT_S = 2.0  # a timer that comes earlier than this is scheduled again

DISPATCH_WAVE = "dispatch-wave"  # the name of our timer


class OfferStatus(StrEnum):
    LIVE = "live"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class TruckState(StrEnum):
    """A truck request as dispatch sees it: to be filled, with a captain, or done with."""

    OPEN = "open"
    TAKEN = "taken"
    CLOSED = "closed"


class EndReason(StrEnum):
    """Why offers end without the captain's doing."""

    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    BUSY = "busy"


class Cause(StrEnum):
    """What offers are made for: a wave that is due, or replacements at once."""

    WAVE = "wave"
    DECLINED = "declined"
    BUSY = "busy"  # a captain won elsewhere
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What ``OrderCreated`` told: where to search, and from when to when."""

    pickup: Place
    drop: Place
    distance_km: int | float
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OrderView:
    """The dispatcher's view of an order. ``version`` is that of the newest event seen.

    ``plan`` is None while a later event overtook ``OrderCreated``. ``wave`` counts the waves made, ``timer_version``
    the schedulings of its timer. ``exhausted`` says that ``DispatchExhausted`` was told.
    """

    order_id: str
    customer_id: str
    version: int
    status: str
    searching: bool
    plan: SearchPlan | None
    wave: int
    timer_version: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class TruckRequest:
    """A truck request as the newest event told. ``captain_id`` holds it while taken, held it last after.

    The vehicle and its price (rupees) are None while nothing but a release told of it.
    """

    truck_request_id: str
    order_id: str
    vehicle_type: str | None
    vehicle_subtype: str | None
    price_per_truck: int | None
    state: TruckState
    captain_id: str | None
    version: int


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer as it stands in the database. Distance in metres, price in rupees."""

    offer_id: str
    order_id: str
    captain_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    wave: int
    distance_m: int
    price_per_truck: int
    open_trucks: int
    status: OfferStatus
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Driving:
    """What a captain drives, and for whom. An offer is made to him with just that, and its token says so."""

    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement line: its open trucks, and its offers that are live."""

    vehicle_type: str
    vehicle_subtype: str
    price_per_truck: int
    open_trucks: int
    live_offers: int


def plan_of(event: OrderCreated) -> SearchPlan:
    """Where and when an order is searched for."""
    return SearchPlan(event.pickup, event.drop, event.distance_km, event.occurred_at, event.expires_at)


def order_of(event: OrderCreated) -> OrderView:
    """The view of an order that is new."""
    return OrderView(
        order_id=event.order_id,
        customer_id=event.customer_id,
        version=event.order_version,
        status=event.status,
        searching=event.searching,
        plan=plan_of(event),
        wave=0,
        timer_version=0,
        exhausted=False,
    )


def lines_of(event: OrderCreated) -> list[Line]:
    """The requirement lines of an order that is new, sorted by vehicle."""
    lines: dict[tuple[str, str], Line] = {}
    for truck in event.truck_requests:
        vehicle = (truck.vehicle_type, truck.vehicle_subtype)
        before = lines.get(vehicle)
        lines[vehicle] = Line(*vehicle, truck.price_per_truck, before.open_trucks + 1 if before else 1, 0)
    return [lines[vehicle] for vehicle in sorted(lines)]


def follow(order: OrderView, event: OrderEvent) -> tuple[OrderView, EndReason | None]:
    """The view after an event, and why the search ended if it did so by this event.

    An event that is not newer than the view changes nothing (rule 19).
    """
    if event.order_version <= order.version:
        return order, None
    searching = order.searching and event.searching  # it never becomes true again
    after = replace(order, version=event.order_version, status=event.status, searching=searching)
    return after, end_reason(event) if order.searching and not searching else None


def end_reason(event: OrderEvent) -> EndReason:
    """Why a search is over, from the state that an event tells."""
    if event.status == "cancelled":
        return EndReason.CANCELLED
    if event.trucks_filled >= event.total_trucks:
        return EndReason.FILLED
    return EndReason.EXPIRED


def assign(known: TruckRequest | None, event: TruckAssigned) -> TruckRequest | None:
    """The truck request after its assignment, or None where something newer is known of it."""
    if known is not None and known.version >= event.order_version:
        return None
    return TruckRequest(
        truck_request_id=event.truck_request_id,
        order_id=event.order_id,
        vehicle_type=event.vehicle_type,
        vehicle_subtype=event.vehicle_subtype,
        price_per_truck=known.price_per_truck if known else None,
        state=TruckState.TAKEN,
        captain_id=event.captain_id,
        version=event.order_version,
    )


def release(known: TruckRequest | None, event: TruckReleased) -> TruckRequest | None:
    """The truck request after its release, or None where something newer is known of it.

    Where nothing is known of it the release stays as a tombstone, so that its assignment, coming later, is older.
    """
    if known is not None and known.version >= event.order_version:
        return None
    return TruckRequest(
        truck_request_id=event.truck_request_id,
        order_id=event.order_id,
        vehicle_type=known.vehicle_type if known else None,
        vehicle_subtype=known.vehicle_subtype if known else None,
        price_per_truck=known.price_per_truck if known else None,
        state=TruckState.OPEN if event.truck_request_status == "searching" else TruckState.CLOSED,
        captain_id=event.captain_id,
        version=event.order_version,
    )


def may_decline(offer: Offer, order: OrderView, now: datetime) -> bool:
    """Whether an offer is still there to be declined."""
    return offer.status is OfferStatus.LIVE and order.searching and now < offer.expires_at


def target_offers(open_trucks: int) -> int:
    """To how many live offers a line is brought."""
    if open_trucks <= 0:
        return 0
    return min(MAX_LIVE_OFFERS, max(MIN_LIVE_OFFERS, OFFERS_PER_OPEN_TRUCK * open_trucks))


def wanted_offers(line: Line) -> int:
    """How many more offers a line wants; none that is live is taken back for being too many."""
    return max(0, target_offers(line.open_trucks) - line.live_offers)


def wave_radius_m(wave: int) -> int:
    """How far wave 1, 2 … looks, in metres; replacements look as far as the wave they come in."""
    return WAVE_RADII_M[min(max(wave, 1), OFFER_WAVES) - 1]


def wave_due(plan: SearchPlan, wave: int) -> datetime:
    """When a wave is due: the first at the order's creation, then one each sixth of its life."""
    return plan.created_at + (plan.expires_at - plan.created_at) / OFFER_WAVES * (wave - 1)


def next_wave(order: OrderView) -> tuple[int, datetime] | None:
    """The number of the wave to come and when it is due; None where none is."""
    if order.plan is None or not order.searching or order.wave >= OFFER_WAVES:
        return None
    return order.wave + 1, wave_due(order.plan, order.wave + 1)


def may_search(order: OrderView, now: datetime) -> bool:
    """Whether offers of an order may be made now."""
    return order.searching and order.plan is not None and now < order.plan.expires_at


def is_exhausted(order: OrderView, lines: Sequence[Line]) -> bool:
    """Whether nothing more can come: the last wave is made, trucks are open, and nobody holds an offer."""
    return (
        order.wave >= OFFER_WAVES
        and any(line.open_trucks for line in lines)
        and not any(line.live_offers for line in lines)
    )


def wait_for_timer(due_at: datetime, now: datetime) -> timedelta:
    """How much too early a timer came by this clock; zero where it is due."""
    return max(timedelta(0), due_at - now)
