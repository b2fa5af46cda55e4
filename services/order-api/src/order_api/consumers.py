"""Which handler takes which event."""

from __future__ import annotations

from order_api.event_handlers import EventHandlers
from weelo_common.delivery import AtOnce, Handler
from weelo_common.events import DispatchExhausted, Event, OffersMade, TimerFired


def handlers(events: EventHandlers) -> dict[type[Event], Handler]:
    """The events order-api reacts to; all other types of their topics are ignored."""
    return {
        TimerFired: events.on_timer_fired,
        OffersMade: events.on_offers_made,
        DispatchExhausted: events.on_exhausted,
    }


def at_once(events: EventHandlers) -> dict[type[Event], AtOnce]:
    """Those of them that one statement handles."""
    return {OffersMade: events.note_at_once, DispatchExhausted: events.note_at_once}
