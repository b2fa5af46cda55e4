"""What the dispatcher does on each event of an order, and on its own timer.

Events of one order come in order, but repeats, dead letters retried and events of other orders come when they like:
the order's version guards its status, a truck request's version its holder (rule 19).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from dispatcher import domain
from dispatcher.domain import Cause, OfferStatus, OrderView, TruckRequest, TruckState
from dispatcher.handlers.dispatch import AGAIN_S, Dispatch, schedule_wave
from dispatcher.live_fleet import LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import fleet as fleet_store
from dispatcher.store import offers as offer_store
from dispatcher.store import orders as order_store
from weelo_common.clock import epoch_ms
from weelo_common.delivery import Delivery, Outcome, PoisonMessage, RetryLater
from weelo_common.events import Event, OrderCreated, OrderEvent, TimerFired, TruckAssigned, TruckReleased
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, database_now


class OrderEvents:
    """Follows orders and searches captains for them."""

    def __init__(
        self, dispatch: Dispatch, outbox: Outbox, fleet: LiveFleet, metrics: DispatcherMetrics
    ) -> None:
        self._dispatch = dispatch
        self._outbox = outbox
        self._fleet = fleet
        self._metrics = metrics

    async def created(self, connection: Connection, delivery: Delivery[OrderCreated]) -> Outcome:
        """The search begins with its first wave, unless the order's time is over already."""
        event = delivery.event
        plan = domain.plan_of(event)
        now = await order_store.insert_created(connection, event)
        if now is not None:
            order = domain.order_of(event)
            offered: Collection[str] = ()
            lines = domain.lines_of(event)
        else:
            order = (await order_store.lock_orders(connection, [event.order_id]))[event.order_id]
            if order.plan is not None:
                return Outcome.IGNORED
            await order_store.fill_created(connection, event)
            order = replace(order, plan=plan)
            offered = (await offer_store.captains_offered(connection, [event.order_id]))[event.order_id]
            lines = (await order_store.lines_of(connection, [event.order_id]))[event.order_id]
            now = await database_now(connection)
        if not domain.may_search(order, now):
            return Outcome.APPLIED
        told = await self._dispatch.wave(connection, order, plan, lines, offered, now=now)
        self._count(delivery, told, Cause.WAVE)
        return Outcome.APPLIED

    async def truck_assigned(self, connection: Connection, delivery: Delivery[TruckAssigned]) -> Outcome:
        """A captain won: his offer is accepted, his other offers go, and their orders get replacements.

        Raises:
            RetryLater: he was offered another order between our two looks.
            PoisonMessage: the truck request is another order's.
        """
        event = delivery.event
        elsewhere = await offer_store.orders_offered_to(connection, event.captain_id) - {event.order_id}
        orders = await order_store.lock_order_of(connection, event, elsewhere)
        now = await database_now(connection)
        known = await _known_truck(connection, event)
        truck = domain.assign(known, event)
        if await offer_store.accept_offer(connection, event.order_id, event.captain_id):
            delivery.after_commit(self._metrics.offers_ended.labels(OfferStatus.ACCEPTED.value).inc)
        if truck is None:  # something newer is known: he may long be free again
            return await self._follow(connection, delivery, orders[event.order_id], now)
        await order_store.save_truck(connection, truck)
        told, order = await self._followed(connection, orders[event.order_id], event)
        told += await self._dispatch.end_filled_lines(connection, order)
        told += await self._dispatch.check_exhausted(connection, order)
        told += await self._dispatch.withdraw_from(connection, event.captain_id, elsewhere)
        told += await self._dispatch.refill(
            connection,
            [orders[order_id] for order_id in elsewhere if order_id in orders],
            cause=Cause.BUSY,
            now=now,
            also_lock=_touched(known, truck),
        )
        # His row is locked now: nobody offers him anything any more, but somebody may have since the first look.
        missed = await offer_store.orders_offered_to(connection, event.captain_id) - {event.order_id}
        if missed:
            raise RetryLater(AGAIN_S, f"captain {event.captain_id} was offered {len(missed)} more orders")
        told += await self._busy_changed(connection, delivery, _touched(known, truck), now)
        await self._tell(connection, delivery, told, Cause.BUSY, now)
        return Outcome.APPLIED

    async def truck_released(self, connection: Connection, delivery: Delivery[TruckReleased]) -> Outcome:
        """A captain is free again; where the order still searches, his place is refilled at once.

        Raises:
            PoisonMessage: the truck request is another order's.
        """
        event = delivery.event
        orders = await order_store.lock_order_of(connection, event)
        now = await database_now(connection)
        known = await _known_truck(connection, event)
        truck = domain.release(known, event)
        told, order = await self._followed(connection, orders[event.order_id], event)
        if truck is None:
            await self._tell(connection, delivery, told, None, now)
            return Outcome.APPLIED
        await order_store.save_truck(connection, truck)
        told += await self._dispatch.refill(
            connection,
            [order] if truck.state is TruckState.OPEN else [],
            cause=Cause.RELEASED,
            now=now,
            also_lock=_touched(known, truck),
        )
        told += await self._busy_changed(connection, delivery, _touched(known, truck), now)
        await self._tell(connection, delivery, told, Cause.RELEASED, now)
        return Outcome.APPLIED

    async def changed(self, connection: Connection, delivery: Delivery[OrderEvent]) -> Outcome:
        """Any other event of an order: its status is followed, and offers end with the search."""
        orders = await order_store.lock_order_of(connection, delivery.event)
        now = await database_now(connection)
        return await self._follow(connection, delivery, orders[delivery.event.order_id], now)

    async def wave_due(self, connection: Connection, delivery: Delivery[TimerFired]) -> Outcome:
        """The timer of a wave: the next wave, unless the search is over or the timer is an old one.

        Raises:
            RetryLater: it came a moment early by this database's clock.
            PoisonMessage: our timer, but not with our payload.
        """
        event = delivery.event
        wave = event.payload.get("wave")
        if event.order_id is None or not isinstance(wave, int):
            raise PoisonMessage(f"timer {event.timer_key} names no order or no wave")
        order = (await order_store.lock_orders(connection, [event.order_id])).get(event.order_id)
        now = await database_now(connection)
        plan = None if order is None else order.plan
        if (
            order is None
            or plan is None
            or not domain.may_search(order, now)
            or event.version != order.timer_version
            or wave != order.wave + 1
        ):
            return Outcome.IGNORED
        too_early = domain.wait_for_timer(domain.wave_due(plan, wave), now)
        early = too_early.total_seconds()
        if early > domain.TIMER_WAIT_S:
            order, timer = schedule_wave(order, plan, sender_ahead=event.sender_ahead(now, too_early))
            await order_store.save_order(connection, order)
            await self._tell(connection, delivery, [timer], None, now)
            return Outcome.APPLIED
        if early > 0:
            raise RetryLater(early, f"timer {event.timer_key} is {early:.3f} s early")
        lines = (await order_store.lines_of(connection, [order.order_id]))[order.order_id]
        offered = (await offer_store.captains_offered(connection, [order.order_id]))[order.order_id]
        told = await self._dispatch.wave(connection, order, plan, lines, offered, now=now)
        self._count(delivery, told, Cause.WAVE)
        return Outcome.APPLIED

    async def _follow(
        self, connection: Connection, delivery: Delivery[Any], order: OrderView, now: datetime
    ) -> Outcome:
        told, after = await self._followed(connection, order, delivery.event)
        await self._tell(connection, delivery, told, None, now)
        return Outcome.IGNORED if after == order else Outcome.APPLIED

    async def _followed(
        self, connection: Connection, order: OrderView, event: OrderEvent
    ) -> tuple[list[Event], OrderView]:
        """The order's new view, saved, and what is told where its search ended by this event."""
        after, ended = domain.follow(order, event)
        if after != order:
            await order_store.save_order(connection, after)
        told = [] if ended is None else await self._dispatch.end_search(connection, order, ended)
        return told, after

    async def _tell(
        self,
        connection: Connection,
        delivery: Delivery[Any],
        told: Sequence[Event],
        cause: Cause | None,
        now: datetime,
    ) -> None:
        """Append events, in order, and count them once they are committed; ``cause`` of the offers among them."""
        await self._outbox.append(connection, told, at=now)
        self._count(delivery, told, cause)

    def _count(self, delivery: Delivery[Any], told: Sequence[Event], cause: Cause | None) -> None:
        delivery.after_commit(partial(self._metrics.told, told, cause))

    async def _busy_changed(
        self,
        connection: Connection,
        delivery: Delivery[Any],
        captain_ids: Collection[str],
        now: datetime,
    ) -> list[Event]:
        """Announce who became busy or free; this replica's index learns it with the commit."""
        states = [captain.state() for captain in await fleet_store.refresh_busy(connection, captain_ids)]

        def tell_index() -> None:
            for state in states:
                self._fleet.apply_state(state, epoch_ms(now))

        delivery.after_commit(tell_index)
        return list(states)


async def _known_truck(connection: Connection, event: TruckAssigned | TruckReleased) -> TruckRequest | None:
    """What is known of the event's truck request. Only the row of the event's own order is locked."""
    known = await order_store.get_truck(connection, event.truck_request_id)
    if known is not None and known.order_id != event.order_id:
        raise PoisonMessage(
            f"truck request {event.truck_request_id} is of order {known.order_id}, not {event.order_id}"
        )
    return known


def _touched(known: TruckRequest | None, truck: TruckRequest) -> set[str]:
    """Captains whose being busy a change may touch: who holds it, and who was known to hold it."""
    return {
        captain_id
        for captain_id in (truck.captain_id, known.captain_id if known else None)
        if captain_id is not None
    }
