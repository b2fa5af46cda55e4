"""Which handler takes which event."""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.domain import DISPATCH_WAVE
from dispatcher.handlers.order_events import OrderEvents
from weelo_common.delivery import Handler
from weelo_common.events import (
    Event,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    TimerFired,
    TruckAssigned,
    TruckReleased,
    TruckStarted,
)
from weelo_common.events.topics import DISPATCHER


def handlers(orders: OrderEvents) -> Mapping[type[Event], Handler]:
    """The order events and our own timers."""
    return {
        OrderCreated: orders.created,
        TruckAssigned: orders.truck_assigned,
        TruckReleased: orders.truck_released,
        OrderFullyFilled: orders.changed,
        OrderCancelled: orders.changed,
        OrderExpired: orders.changed,
        TruckStarted: orders.changed,
        OrderCompleted: orders.changed,
        TimerFired: orders.wave_due,
    }


def is_relevant(event: Event) -> bool:
    """Other services' timers are none of ours; told before any transaction."""
    if isinstance(event, TimerFired):
        return event.owner == DISPATCHER and event.timer_key.startswith(f"{DISPATCH_WAVE}:")
    return True
