"""What captains do with offers: look at theirs, and decline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

from dispatcher import domain
from dispatcher.domain import Cause, Offer, OfferStatus
from dispatcher.handlers.dispatch import Dispatch
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import offers as offer_store
from dispatcher.store import orders as order_store
from weelo_common.delivery import RetryLater
from weelo_common.events import Event, OfferDeclined, Place
from weelo_common.outbox import Outbox
from weelo_common.postgres import Database, DatabaseUnavailable, database_now

DECLINE_TRIES = 50  # a second in all; a captain who pressed "no" waits no longer


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
        for _ in range(DECLINE_TRIES):
            try:
                return await self._decline(captain_id, offer_id, reason)
            except RetryLater as later:
                await asyncio.sleep(later.delay_s)
        raise DatabaseUnavailable("the captains near were being offered other orders all the time")

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
            told: list[Event] = [
                OfferDeclined(order_id=order_id, offer_id=offer_id, captain_id=captain_id, reason=reason)
            ]
            told += await self._dispatch.refill(connection, [order], cause=Cause.DECLINED, now=now)
            await self._outbox.append(connection, told, at=now)
        self._metrics.told(told, Cause.DECLINED)
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
