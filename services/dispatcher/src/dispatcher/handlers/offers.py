"""What captains do with offers: look at theirs, and decline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from dispatcher import domain
from dispatcher.domain import Cause, Driving, Offer, OfferStatus, OrderView
from dispatcher.handlers.dispatch import AGAIN_S, Dispatch
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import offers as offer_store
from dispatcher.store import orders as order_store
from weelo_common.delivery import RetryLater
from weelo_common.events import Event, OfferDeclined, Place
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database, DatabaseUnavailable, database_now

TRIES = 50  # a second in all; a captain who pressed "no" waits no longer
OTHER_VEHICLE = "VEHICLE_NOT_SUITABLE"  # the contract's word for declining an offer made for another vehicle

T = TypeVar("T")


class OfferNotFound(Exception):
    """There is no such offer of this captain."""

    def __init__(self, offer_id: str) -> None:
        super().__init__(offer_id)
        self.offer_id = offer_id


class OfferEnded(Exception):
    """The offer ended otherwise; ``status`` says how."""

    def __init__(self, offer_id: str, status: OfferStatus) -> None:
        super().__init__(f"{offer_id}: {status}")
        self.offer_id = offer_id
        self.status = status


@dataclass(frozen=True, slots=True)
class LiveOffer:
    """An offer with its token, and where its order goes."""

    offer: Offer
    token: str
    pickup: Place
    drop: Place
    distance_km: int | float


class Offers:
    """The captains' side of offers."""

    def __init__(
        self, database: Database, dispatch: Dispatch, outbox: Outbox, metrics: DispatcherMetrics
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._outbox = outbox
        self._metrics = metrics

    async def live(self, captain_id: str) -> list[LiveOffer]:
        """A captain's live offers, oldest first."""
        async with self._database.connection() as connection:
            rows = await offer_store.live_offers_of(connection, captain_id)
        return [self._live_offer(offer, row) for offer, row in rows]

    async def decline(self, captain_id: str, offer_id: str, reason: str) -> OfferStatus:
        """Say no; another captain is asked in the same transaction. Again: the same answer.

        Raises:
            OfferNotFound, OfferEnded: nothing changed.
            DatabaseUnavailable: try again.
        """
        return await patiently(lambda: self._decline(captain_id, offer_id, reason))

    async def decline_unlike(self, connection: Connection, captain_id: str, driving: Driving) -> list[Event]:
        """Decline for a captain what he was offered with another vehicle or for another transporter.

        Call it before his row changes: it locks the orders, and then him together with those who are asked instead.
        Returns the events to append, and to count by ``declined`` after the commit.

        Raises:
            RetryLater: as ``Dispatch.refill``.
        """
        unlike = await offer_store.live_offers_unlike(connection, captain_id, driving)
        if not unlike:
            return []
        orders = await order_store.lock_orders(connection, [offer.order_id for offer in unlike])
        now = await database_now(connection)
        left: list[OrderView] = []
        told: list[Event] = []
        for offer in await offer_store.live_offers_unlike(connection, captain_id, driving):
            order = orders.get(offer.order_id)
            if order is None or not domain.may_decline(offer, order, now):
                continue
            await offer_store.decline_offer(connection, offer.offer_id, OTHER_VEHICLE)
            told.append(_declined(offer, OTHER_VEHICLE))
            left.append(order)
        told += await self._dispatch.refill(
            connection, left, cause=Cause.DECLINED, now=now, also_lock=[captain_id]
        )
        return told

    async def none_unlike(self, connection: Connection, captain_id: str, driving: Driving) -> None:
        """Look once more, now that a captain's row has changed: nobody offers him anything for the old vehicle now.

        Raises:
            RetryLater: somebody did so since ``decline_unlike`` looked; undo this transaction.
        """
        missed = await offer_store.live_offers_unlike(connection, captain_id, driving)
        if missed:
            raise RetryLater(AGAIN_S, f"captain {captain_id} was offered {len(missed)} more orders")

    def declined(self, told: Sequence[Event]) -> None:
        """Count what was told with declines, after the commit."""
        self._metrics.told(told, Cause.DECLINED)

    async def _decline(self, captain_id: str, offer_id: str, reason: str) -> OfferStatus:
        async with self._database.transaction() as connection:
            order_id = await offer_store.order_of_offer(connection, offer_id, captain_id)
            if order_id is None:
                raise OfferNotFound(offer_id)
            orders = await order_store.lock_orders(connection, [order_id])
            offer = await offer_store.get_offer(connection, offer_id)
            if offer is None or order_id not in orders:
                raise OfferNotFound(offer_id)
            if offer.status is OfferStatus.DECLINED:
                return offer.status
            order = orders[order_id]
            now = await database_now(connection)
            if not domain.may_decline(offer, order, now):
                ended = OfferStatus.EXPIRED if offer.status is OfferStatus.LIVE else offer.status
                raise OfferEnded(offer_id, ended)
            await offer_store.decline_offer(connection, offer_id, reason)
            told: list[Event] = [_declined(offer, reason)]
            told += await self._dispatch.refill(connection, [order], cause=Cause.DECLINED, now=now)
            await self._outbox.append(connection, told, at=now)
        self.declined(told)
        return OfferStatus.DECLINED

    def _live_offer(self, offer: Offer, row: asyncpg.Record) -> LiveOffer:
        distance_km: float = row["distance_km"]
        return LiveOffer(
            offer=offer,
            token=self._dispatch.token(offer),
            pickup=Place.model_validate_json(row["pickup"]),
            drop=Place.model_validate_json(row["drop_place"]),
            distance_km=int(distance_km) if distance_km.is_integer() else distance_km,
        )


async def patiently(change: Callable[[], Awaitable[T]]) -> T:
    """Make a change that asks captains, again and again while other orders are being offered to them.

    Raises:
        DatabaseUnavailable: all the time; the person may ask again.
    """
    for _ in range(TRIES):
        try:
            return await change()
        except RetryLater as later:
            await asyncio.sleep(later.delay_s)
    raise DatabaseUnavailable("the captains near were being offered other orders all the time")


def _declined(offer: Offer, reason: str) -> OfferDeclined:
    return OfferDeclined(
        order_id=offer.order_id, offer_id=offer.offer_id, captain_id=offer.captain_id, reason=reason
    )
