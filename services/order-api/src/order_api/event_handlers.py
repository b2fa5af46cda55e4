"""What happens on each event: the end by time, and what the dispatch tells for ``status``.

Each runs inside the transaction that holds its inbox row, so an event is applied once.
"""

from __future__ import annotations

import logging
from datetime import datetime

from order_api import store
from order_api.decision import EXPIRY_TIMER
from order_api.domain import end_if_overdue, reschedule_expiry
from order_api.handlers import save_decision
from order_api.intake_store import Wave, note_wave, note_wave_at_once
from order_api.metrics import OrderMetrics
from order_api.model import Order
from weelo_common.delivery import Delivery, Outcome, PoisonMessage, RetryLater
from weelo_common.events import DispatchExhausted, Event, OffersMade, TimerFired
from weelo_common.events.topics import ORDER_API
from weelo_common.ids import well_formed_id
from weelo_common.inbox import InboxNote
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection

log = logging.getLogger(__name__)

EARLY_WAIT_S = 2.0  # a timer this much too early is waited for in place; beyond, it is scheduled again


def concerns_order_api(event: Event) -> bool:
    """Whether an event is for this service: of timers only its own."""
    return not isinstance(event, TimerFired) or event.owner == ORDER_API


class EventHandlers:
    """Reactions to what the other services say."""

    def __init__(self, outbox: Outbox, metrics: OrderMetrics) -> None:
        self._outbox = outbox
        self._metrics = metrics

    async def on_timer_fired(self, connection: Connection, delivery: Delivery[TimerFired]) -> Outcome:
        """End the order's search, if it still runs and its time is over by this database's clock."""
        fired = delivery.event
        name, _, subject = fired.timer_key.partition(":")
        if fired.owner != ORDER_API or name != EXPIRY_TIMER:
            return Outcome.IGNORED
        order_id = _order_id(subject)
        if not await store.lock_order(connection, order_id):
            return Outcome.IGNORED
        loaded = await store.load_order(connection, order_id)
        if loaded is None:
            return Outcome.IGNORED
        order, now = loaded
        if not order.searching:
            return Outcome.IGNORED  # filled, cancelled, or ended by whoever touched it first
        if order.overdue(now):
            decision = end_if_overdue(order, now, timer_fired=True)
            await save_decision(connection, self._outbox, order, decision, now)
            self._metrics.told(decision.events, order, now, noticed_by="timer")
            log.info("Search ended", extra={"orderId": order_id, "status": decision.order.status.value})
            return Outcome.APPLIED
        return await self._too_early(connection, order, fired, now)

    async def _too_early(
        self, connection: Connection, order: Order, fired: TimerFired, now: datetime
    ) -> Outcome:
        if fired.version < order.timer_version:
            return Outcome.IGNORED  # a later scheduling stands
        early = order.expires_at - now
        early_s = early.total_seconds()
        if early_s <= EARLY_WAIT_S:
            raise RetryLater(early_s, f"the timer of order {order.id} is early")
        decision = reschedule_expiry(order, sender_ahead=fired.sender_ahead(now, early))
        await save_decision(connection, self._outbox, order, decision, now)
        log.warning("Timer came early and is scheduled again", extra={"orderId": order.id, "earlyS": early_s})
        return Outcome.APPLIED

    async def on_offers_made(self, connection: Connection, delivery: Delivery[OffersMade]) -> Outcome:
        """Count the wave and the transporters it reached."""
        return _noted(is_known=await note_wave(connection, _wave(delivery.event)))

    async def on_exhausted(self, connection: Connection, delivery: Delivery[DispatchExhausted]) -> Outcome:
        """The dispatch has nobody left to ask."""
        return _noted(is_known=await note_wave(connection, _wave(delivery.event)))

    async def note_at_once(
        self, connection: Connection, delivery: Delivery[OffersMade | DispatchExhausted], note: InboxNote
    ) -> Outcome | None:
        """Either of the two by one statement that is the whole transaction."""
        is_known = await note_wave_at_once(connection, _wave(delivery.event), note)
        return None if is_known is None else _noted(is_known=is_known)


def _wave(event: OffersMade | DispatchExhausted) -> Wave:
    order_id = _order_id(event.order_id)
    if isinstance(event, DispatchExhausted):
        return Wave(order_id, "exhausted", event.waves, [])
    notified = sorted({offer.transporter_id for offer in event.offers})
    return Wave(order_id, "dispatching", event.wave, notified)


def _noted(*, is_known: bool) -> Outcome:
    return Outcome.APPLIED if is_known else Outcome.IGNORED


def _order_id(text: str) -> str:
    try:
        return well_formed_id(text)
    except ValueError:
        raise PoisonMessage("the order id is no UUID") from None
