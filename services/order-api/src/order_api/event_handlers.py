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
from order_api.intake_store import note_wave
from order_api.metrics import OrderMetrics
from order_api.model import Order
from weelo_common.delivery import Delivery, Outcome, PoisonMessage, RetryLater
from weelo_common.events import DispatchExhausted, Event, OffersMade, TimerFired
from weelo_common.events.topics import ORDER_API
from weelo_common.ids import well_formed_id
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
        early_s = (order.expires_at - now).total_seconds()
        if early_s <= EARLY_WAIT_S:
            raise RetryLater(early_s, f"the timer of order {order.id} is early")
        await save_decision(connection, self._outbox, order, reschedule_expiry(order), now)
        log.warning("Timer came early and is scheduled again", extra={"orderId": order.id, "earlyS": early_s})
        return Outcome.APPLIED

    async def on_offers_made(self, connection: Connection, delivery: Delivery[OffersMade]) -> Outcome:
        """Count the wave and the transporters it reached."""
        made = delivery.event
        known = await note_wave(
            connection,
            _order_id(made.order_id),
            state="dispatching",
            attempts=made.wave,
            transporter_ids=[offer.transporter_id for offer in made.offers],
        )
        return Outcome.APPLIED if known else Outcome.IGNORED

    async def on_exhausted(self, connection: Connection, delivery: Delivery[DispatchExhausted]) -> Outcome:
        """The dispatch has nobody left to ask."""
        event = delivery.event
        known = await note_wave(
            connection,
            _order_id(event.order_id),
            state="exhausted",
            attempts=event.waves,
            transporter_ids=[],
        )
        return Outcome.APPLIED if known else Outcome.IGNORED


def _order_id(text: str) -> str:
    try:
        return well_formed_id(text)
    except ValueError:
        raise PoisonMessage("the order id is no UUID") from None
