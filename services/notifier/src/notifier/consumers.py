"""Which handler takes which event. The topics follow from the events: ``orders.events.v1``, ``dispatch.offers.v1``."""

from __future__ import annotations

from notifier.handlers import Handlers
from weelo_common.delivery import Handler
from weelo_common.events import (
    Event,
    OfferDeclined,
    OffersMade,
    OffersWithdrawn,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    TruckAssigned,
    TruckReleased,
    TruckStarted,
)


def handlers(do: Handlers) -> dict[type[Event], Handler]:
    """Event class → handler; every other event is ignored."""
    return {
        OrderCreated: do.order_changed,
        TruckAssigned: do.order_changed,
        OrderFullyFilled: do.order_changed,
        TruckReleased: do.order_changed,
        OrderCancelled: do.order_changed,
        OrderExpired: do.order_changed,
        TruckStarted: do.order_changed,
        OrderCompleted: do.order_changed,
        OffersMade: do.offers_made,
        OffersWithdrawn: do.offers_withdrawn,
        OfferDeclined: do.offer_declined,
    }
