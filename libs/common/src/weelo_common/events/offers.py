"""``dispatch.offers.v1``: offers made to captains, and how they end."""

from __future__ import annotations

from typing import ClassVar

from weelo_common.clock import UtcTime
from weelo_common.events.envelope import Event, Model
from weelo_common.events.orders import Place, Rupees
from weelo_common.events.topics import DISPATCH_OFFERS, Topic


class DispatchEvent(Event):
    """An event of one order's dispatch."""

    TOPIC: ClassVar[Topic] = DISPATCH_OFFERS

    order_id: str

    def key(self) -> str:
        return self.order_id


class Offer(Model):
    """One offer to one captain; distances in metres, ``open_trucks`` counts those of its requirement line."""

    offer_id: str
    captain_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    pickup_distance_m: int
    price_per_truck: Rupees
    open_trucks: int
    offer_token: str
    expires_at: UtcTime


class OffersMade(DispatchEvent):
    """One wave, or replacements in the current wave; may hold no offers."""

    TYPE: ClassVar[str] = "weelo.dispatch.offers_made.v1"

    wave: int
    radius_m: int
    offers: tuple[Offer, ...]
    pickup: Place
    drop: Place
    distance_km: int | float


class WithdrawnOffer(Model):
    """An offer that ended, and whose it was."""

    offer_id: str
    captain_id: str


class OffersWithdrawn(DispatchEvent):
    """Offers that ended: ``filled``, ``cancelled``, ``expired`` or ``busy``."""

    TYPE: ClassVar[str] = "weelo.dispatch.offers_withdrawn.v1"

    reason: str
    offers: tuple[WithdrawnOffer, ...]


class OfferDeclined(DispatchEvent):
    """A captain said no."""

    TYPE: ClassVar[str] = "weelo.dispatch.offer_declined.v1"

    offer_id: str
    captain_id: str
    reason: str


class DispatchExhausted(DispatchEvent):
    """The last wave found nobody; ``waves`` counts them."""

    TYPE: ClassVar[str] = "weelo.dispatch.exhausted.v1"

    waves: int
