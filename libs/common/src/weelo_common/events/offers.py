"""``dispatch.offers.v1``: offers made to captains, and how they end."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from weelo_common.clock import UtcTime
from weelo_common.events import fields
from weelo_common.events.envelope import Event, Model
from weelo_common.events.orders import Place, Rupees
from weelo_common.events.topics import DISPATCH_OFFERS, Topic


class DispatchEvent(Event):
    """An event of one order's dispatch."""

    TOPIC: ClassVar[Topic] = DISPATCH_OFFERS

    order_id: fields.OrderId

    def key(self) -> str:
        return self.order_id


class Offer(Model):
    """One offer to one captain; distances in metres, ``openTrucks`` counts those of its requirement line."""

    offer_id: fields.OfferId
    captain_id: fields.CaptainId
    transporter_id: fields.TransporterId
    vehicle_type: fields.VehicleType
    vehicle_subtype: fields.VehicleSubtype
    pickup_distance_m: Annotated[int, Field(description="From the captain to the pickup, in metres.")]
    price_per_truck: Annotated[Rupees, Field(description="Whole rupees.")]
    open_trucks: Annotated[int, Field(description="Trucks of this type and subtype that nobody has won yet.")]
    offer_token: fields.OfferToken
    expires_at: Annotated[UtcTime, Field(description="After this the offer wins nothing any more.")]


class OffersMade(DispatchEvent):
    """One wave, or replacements in the current wave; may hold no offers."""

    TYPE: ClassVar[str] = "weelo.dispatch.offers_made.v1"

    wave: Annotated[int, Field(description="1, 2, 3 …; replacements carry the current wave.")]
    radius_m: Annotated[
        int, Field(description="How far from the pickup captains were looked for, in metres.")
    ]
    offers: tuple[Offer, ...]
    pickup: Place
    drop: Place
    distance_km: fields.DistanceKm


class WithdrawnOffer(Model):
    """An offer that ended, and whose it was."""

    offer_id: fields.OfferId
    captain_id: fields.CaptainId


class OffersWithdrawn(DispatchEvent):
    """Offers that ended: ``filled``, ``cancelled``, ``expired`` or ``busy``."""

    TYPE: ClassVar[str] = "weelo.dispatch.offers_withdrawn.v1"

    reason: fields.WithdrawReason
    offers: tuple[WithdrawnOffer, ...]


class OfferDeclined(DispatchEvent):
    """A captain said no."""

    TYPE: ClassVar[str] = "weelo.dispatch.offer_declined.v1"

    offer_id: fields.OfferId
    captain_id: fields.CaptainId
    reason: fields.DeclineReason


class DispatchExhausted(DispatchEvent):
    """The last wave found nobody; ``waves`` counts them."""

    TYPE: ClassVar[str] = "weelo.dispatch.exhausted.v1"

    waves: Annotated[int, Field(description="How many waves there were.")]
