"""What happens to an order on each command: lock, load, decide, save, append the events; one transaction.

Whoever touches an overdue order first ends its search, in the same transaction; that stands even where the command
itself is refused, so refusals are raised after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from order_api import store
from order_api.decision import Decision, Refusal
from order_api.domain import Claim, accept, cancel, complete, end_if_overdue, release, start
from order_api.errors import (
    AcceptLost,
    InvalidTransition,
    NotCancellable,
    OfferInvalid,
    OrderNotFound,
    TruckRequestNotFound,
)
from order_api.metrics import OrderMetrics
from order_api.model import Order, TruckRequest
from order_api.store import CaptainHasRunningTruck
from weelo_common.offer_tokens import InvalidOfferToken, OfferTokenVerifier
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database

log = logging.getLogger(__name__)

OVERDUE_BATCH = 100  # orders ended in one transaction of the sweep

Decide = Callable[[Order, datetime], Decision]


@dataclass(frozen=True, slots=True)
class Touched:
    """An order after a command, at the database's time ``now``, with the truck request the command was about."""

    order: Order
    now: datetime
    truck: TruckRequest | None = None


class Orders:
    """The commands on orders that exist."""

    def __init__(
        self, database: Database, outbox: Outbox, offer_tokens: OfferTokenVerifier, metrics: OrderMetrics
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._offer_tokens = offer_tokens
        self._metrics = metrics

    async def cancel(self, order_id: str, *, customer_id: str, reason: str | None) -> Touched:
        """Cancel for the customer; again gives the same.

        Raises:
            OrderNotFound, NotCancellable, DatabaseUnavailable
        """

        def decide(order: Order, now: datetime) -> Decision:
            if order.customer_id != customer_id:
                raise OrderNotFound(order_id)
            return cancel(order, text=reason, now=now)

        decision, now = await self._decide(order_id, decide)
        if decision.refusal is not None:
            raise NotCancellable(decision.order.status.value)
        return Touched(decision.order, now)

    async def accept(self, order_id: str, *, captain_id: str, offer_token: str) -> Touched:
        """Give the captain a truck of the order; again gives the same. First come, first served.

        Raises:
            OfferInvalid, OrderNotFound, AcceptLost, DatabaseUnavailable
        """
        try:
            offer = self._offer_tokens.verify(offer_token)
        except InvalidOfferToken as error:
            raise OfferInvalid(str(error)) from None
        if offer.captain_id != captain_id or offer.order_id != order_id:
            raise OfferInvalid("the offer is for another captain or another order")
        claim = Claim(
            captain_id=captain_id,
            offer_id=offer.offer_id,
            transporter_id=offer.transporter_id,
            vehicle_type=offer.vehicle_type,
            vehicle_subtype=offer.vehicle_subtype,
            vehicle_number=offer.vehicle_number,
        )
        try:
            touched, refusal = await self._accept(order_id, claim)
        except CaptainHasRunningTruck:
            refusal = Refusal.CAPTAIN_BUSY  # he won elsewhere in this very moment; nothing was written here
            touched = None
        self._metrics.accepts.labels(refusal.value if refusal else "won").inc()
        if touched is None or refusal is not None:
            raise AcceptLost(refusal or Refusal.CAPTAIN_BUSY)
        return touched

    async def _accept(self, order_id: str, claim: Claim) -> tuple[Touched | None, Refusal | None]:
        async with self._database.transaction() as connection:
            order, now = await self._locked(connection, order_id)
            busy = await store.captain_is_busy(connection, claim.captain_id, order_id)
            decision = accept(order, claim, captain_is_busy=busy, now=now)
            await self._save(connection, order, decision, now, noticed_by="accept")
        return Touched(decision.order, now, decision.truck), decision.refusal

    async def start(self, truck_id: str, *, captain_id: str) -> Touched:
        """The captain begins his trip; again gives the same.

        Raises:
            TruckRequestNotFound, InvalidTransition, DatabaseUnavailable
        """
        return await self._trip(
            truck_id, lambda order, now: start(order, truck_id, captain_id=captain_id, now=now)
        )

    async def complete(self, truck_id: str, *, captain_id: str) -> Touched:
        """The captain ends his trip; again gives the same.

        Raises:
            TruckRequestNotFound, InvalidTransition, DatabaseUnavailable
        """
        return await self._trip(
            truck_id, lambda order, now: complete(order, truck_id, captain_id=captain_id, now=now)
        )

    async def release(self, truck_id: str, *, captain_id: str | None, reason: str) -> Touched:
        """Free a truck before its trip, for its captain or (``captain_id`` None) for ops; again gives the same.

        Raises:
            TruckRequestNotFound, InvalidTransition, DatabaseUnavailable
        """
        return await self._trip(
            truck_id,
            lambda order, now: release(order, truck_id, captain_id=captain_id, reason=reason, now=now),
        )

    async def end_if_overdue(self, order_id: str) -> Touched:
        """The order as it stands now, its search ended if its time is over.

        Raises:
            OrderNotFound, DatabaseUnavailable
        """
        decision, now = await self._decide(order_id, end_if_overdue, noticed_by="read")
        return Touched(decision.order, now)

    async def end_overdue_batch(self, connection: Connection) -> int:
        """End the searches of some overdue orders in the caller's transaction; returns how many.

        Rows that somebody else holds are passed over: whoever holds one ends its search himself. So is one that
        cannot be read, for all others would wait behind it.
        """
        ended = 0
        for order_id in await store.lock_overdue_orders(connection, OVERDUE_BATCH):
            try:
                loaded = await store.load_order(connection, order_id)
            except ValueError as error:  # what it says may quote the row
                extra = {"orderId": order_id, "reason": type(error).__name__}
                log.error("Overdue order cannot be read", extra=extra)  # noqa: TRY400
                continue
            if loaded is not None:
                order, now = loaded
                await self._save(connection, order, end_if_overdue(order, now), now, noticed_by="sweep")
                ended += 1
        return ended

    async def _trip(self, truck_id: str, decide: Decide) -> Touched:
        async with self._database.transaction() as connection:
            order_id = await store.order_of_truck(connection, truck_id)
            if order_id is None:
                raise TruckRequestNotFound(truck_id)
            order, now = await self._locked(connection, order_id)
            decision = decide(order, now)
            await self._save(connection, order, decision, now, noticed_by="trip")
        if decision.refusal is Refusal.INVALID_TRANSITION and decision.truck is not None:
            raise InvalidTransition(decision.truck.status.value)
        if decision.refusal is not None:
            raise TruckRequestNotFound(truck_id)
        return Touched(decision.order, now, decision.truck)

    async def _decide(
        self, order_id: str, decide: Decide, *, noticed_by: str = "command"
    ) -> tuple[Decision, datetime]:
        async with self._database.transaction() as connection:
            order, now = await self._locked(connection, order_id)
            decision = decide(order, now)
            await self._save(connection, order, decision, now, noticed_by=noticed_by)
        return decision, now

    async def _locked(self, connection: Connection, order_id: str) -> tuple[Order, datetime]:
        """Lock first, in a statement of its own, then read: what is judged is what is saved."""
        if not await store.lock_order(connection, order_id):
            raise OrderNotFound(order_id)
        loaded = await store.load_order(connection, order_id)
        if loaded is None:
            raise OrderNotFound(order_id)
        return loaded

    async def _save(
        self, connection: Connection, before: Order, decision: Decision, now: datetime, *, noticed_by: str
    ) -> None:
        await save_decision(connection, self._outbox, before, decision, now)
        self._metrics.told(decision.events, before, now, noticed_by=noticed_by)


async def save_decision(
    connection: Connection, outbox: Outbox, before: Order, decision: Decision, now: datetime
) -> None:
    """Write the state and its events together: a crash between the two would lose events or invent them."""
    if decision.order != before:
        await store.save_order(connection, before, decision.order)
    await outbox.append(connection, decision.events, at=now)
