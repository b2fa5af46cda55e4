"""What a command comes to: the new state, its events with their versions, or a refusal.

The one place where an order gets its status and its events their versions: each event adds one, and all events
of one decision carry the state after it. Pure, like all of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from order_api.model import (
    Order,
    OrderStatus,
    SearchEnd,
    TruckRequest,
    TruckStatus,
    status_of,
)
from weelo_common.events import (
    Event,
    OrderCompleted,
    OrderEvent,
    OrderExpired,
    TimerCancelled,
    TimerScheduled,
    TruckReleased,
    timer_key,
)
from weelo_common.events.topics import ORDER_API

EXPIRY_TIMER = "order-expiry"  # the name in the timer's key, as the contract has it


class Refusal(StrEnum):
    """Why a wish was not granted."""

    ORDER_CANCELLED = "order_cancelled"
    ORDER_EXPIRED = "order_expired"
    TRUCK_REQUEST_TAKEN = "truck_request_taken"
    CAPTAIN_BUSY = "captain_busy"
    NOT_CANCELLABLE = "not_cancellable"
    INVALID_TRANSITION = "invalid_transition"
    NOT_YOURS = "not_yours"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command comes to. ``truck`` is the truck request it was about, where there is one.

    ``order`` is the state to save; with no events nothing changed.
    """

    order: Order
    events: tuple[Event, ...] = ()
    refusal: Refusal | None = None
    truck: TruckRequest | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened, before it has a version and the state after the decision."""

    event: type[OrderEvent]
    fields: dict[str, Any]


def end_overdue(order: Order, now: datetime) -> tuple[Order, list[Fact]]:
    """The order with its search ended if its time is over, and that as the first fact."""
    if not order.overdue(now):
        return order, []
    ended = tuple(truck.id for truck in order.trucks if truck.status is TruckStatus.SEARCHING)
    trucks = tuple(
        replace(truck, status=TruckStatus.EXPIRED, updated_at=now)
        if truck.status is TruckStatus.SEARCHING
        else truck
        for truck in order.trucks
    )
    after = replace(order, trucks=trucks, search_end=SearchEnd.TIME)
    return after, [Fact(OrderExpired, {"expired_truck_request_ids": ended})]


def released(truck: TruckRequest, *, reason: str, status: TruckStatus) -> Fact:
    """The truck's captain is free again; ``status`` is what the truck request became."""
    return Fact(
        TruckReleased,
        {
            "truck_request_id": truck.id,
            "captain_id": truck.captain_id,
            "reason": reason,
            "truck_request_status": status.value,
        },
    )


def expiry_timer(order: Order) -> TimerScheduled:
    """The timer that ends the search."""
    return TimerScheduled(
        timer_key=timer_key(EXPIRY_TIMER, order.id),
        owner=ORDER_API,
        due_at=order.expires_at,
        version=order.timer_version,
        order_id=order.id,
    )


def event_of(fact: Fact, order: Order, version: int, now: datetime) -> OrderEvent:
    """The event that tells of a fact; ``order`` is the state after the decision."""
    return fact.event(
        order_id=order.id,
        order_version=version,
        customer_id=order.customer_id,
        status=order.status.value,
        searching=order.searching,
        trucks_filled=order.trucks_filled,
        total_trucks=order.total_trucks,
        occurred_at=now,
        **fact.fields,
    )


def conclude(
    before: Order,
    after: Order,
    facts: Sequence[Fact],
    now: datetime,
    *,
    refusal: Refusal | None = None,
    truck_id: str | None = None,
    timer_fired: bool = False,
) -> Decision:
    """Give the order its status and the facts their versions: one each, all with the state after the decision."""
    if facts:
        status = status_of(
            (truck.status for truck in after.trucks),
            searching=after.searching,
            cancelled=after.cancellation is not None,
        )
        facts = list(facts)
        if status is OrderStatus.COMPLETED and before.status is not OrderStatus.COMPLETED:
            facts.append(Fact(OrderCompleted, {}))
        after = replace(after, status=status, version=before.version + len(facts), updated_at=now)
    events: list[Event] = [
        event_of(fact, after, version, now) for version, fact in enumerate(facts, start=before.version + 1)
    ]
    if before.searching and not after.searching and not timer_fired:
        events.append(
            TimerCancelled(
                timer_key=timer_key(EXPIRY_TIMER, after.id), version=after.timer_version, order_id=after.id
            )
        )
    return Decision(after, tuple(events), refusal, after.truck(truck_id) if truck_id else None)
