"""What the fan-out benchmark sends: offers as the dispatcher makes them, with a token of the usual length."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from notifier import protocol
from notifier.domain import notices
from weelo_common.events import Offer, OffersMade, Place
from weelo_common.ids import new_id

OFFERS_AN_EVENT = 5  # a wave's smallest target
OFFER_TOKEN = "x" * 520  # an Ed25519 token with the contract's claims, or a little more
PICKUP = Place(latitude=28.5355, longitude=77.391, address="Sector 18, Noida")
DROP = Place(latitude=28.6139, longitude=77.209, address="Connaught Place, Delhi")


def captain(number: int) -> str:
    """The captain of this number."""
    return f"d-{number:07d}"


def event_of_offers(captains: Sequence[str], expires_at: datetime, order_id: str | None = None) -> OffersMade:
    """One wave: an offer for each captain."""
    return OffersMade(
        order_id=order_id or new_id(),
        wave=1,
        radius_m=2000,
        pickup=PICKUP,
        drop=DROP,
        distance_km=25,
        offers=tuple(
            Offer(
                offer_id=new_id(),
                captain_id=captain,
                transporter_id="t-00000001",
                vehicle_type="TRUCK",
                vehicle_subtype="TATA_ACE",
                pickup_distance_m=812,
                price_per_truck=500,
                open_trucks=2,
                offer_token=OFFER_TOKEN,
                expires_at=expires_at,
            )
            for captain in captains
        ),
    )


def payload() -> bytes:
    """One frame's JSON, as the peers send it."""
    (notice,) = notices(event_of_offers([captain(1)], datetime.now(UTC) + timedelta(minutes=1)))
    return protocol.event_head(1000) + notice.body(new_id())[1:].encode()
