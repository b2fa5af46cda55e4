"""What happens on each event: lock the order, note what ended, add the frames, and push them after the commit.

All of it stands in the transaction of the event's inbox row, so an event is told once or, after a crash, told again
from the start. Nothing is pushed before its commit: a client never sees an offset that could vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from notifier import domain, store
from notifier.domain import Notice
from notifier.store import Appended
from weelo_common.delivery import Delivery, Outcome
from weelo_common.events import OfferDeclined, OffersMade, OffersWithdrawn, OrderEvent
from weelo_common.postgres import Connection
from weelo_common.telemetry import current_traceparent

Push = Callable[[Sequence[Appended]], None]
"""Takes frames that were committed to the sockets that wait for them; returns at once."""


class Handlers:
    """One method an event family. ``push`` is called after each commit that added frames."""

    def __init__(self, push: Push) -> None:
        self._push = push

    async def order_changed(self, connection: Connection, delivery: Delivery[OrderEvent]) -> Outcome:
        """Tell the customer of every change, and the captain of a trip that began or ended early.

        A status that a later event has overtaken is not told any more; what happened to a truck still is.
        """
        event = delivery.event
        is_newest = await store.lock_order_at(
            connection, event.order_id, event.order_version, search_over=not event.searching
        )
        await store.end_offers(connection, domain.ended_offers(event))
        frames = domain.notices(event)
        await self._append(connection, delivery, frames if is_newest else domain.without_status(frames))
        return Outcome.APPLIED

    async def offers_made(self, connection: Connection, delivery: Delivery[OffersMade]) -> Outcome:
        """Announce offers to their captains, unless the order's search has ended meanwhile."""
        if await store.lock_order(connection, delivery.event.order_id):
            return Outcome.IGNORED
        await self._append(connection, delivery, domain.notices(delivery.event))
        return Outcome.APPLIED

    async def offers_withdrawn(self, connection: Connection, delivery: Delivery[OffersWithdrawn]) -> Outcome:
        """Note that the offers ended, and dismiss them on the captains' phones."""
        await store.lock_order(connection, delivery.event.order_id)
        await store.end_offers(connection, domain.ended_offers(delivery.event))
        await self._append(connection, delivery, domain.notices(delivery.event))
        return Outcome.APPLIED

    async def offer_declined(self, connection: Connection, delivery: Delivery[OfferDeclined]) -> Outcome:
        """Note that the offer ended, so that no phone of this captain shows it again."""
        await store.lock_order(connection, delivery.event.order_id)
        await store.end_offers(connection, domain.ended_offers(delivery.event))
        return Outcome.APPLIED

    async def _append(
        self,
        connection: Connection,
        delivery: Delivery[OrderEvent] | Delivery[OffersMade] | Delivery[OffersWithdrawn],
        frames: Sequence[Notice],
    ) -> None:
        envelope = delivery.envelope
        appended = await store.append(
            connection,
            frames,
            event_id=envelope.id,
            event_time=envelope.time,
            order_id=delivery.event.order_id,
            traceparent=current_traceparent() or envelope.traceparent,
        )
        if appended:
            delivery.after_commit(lambda: self._push(appended))
