"""``captains.state.v1``: what the dispatcher's replicas tell one another of a captain.

Names and phone numbers stay in the dispatcher's database.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from weelo_common.events import fields
from weelo_common.events.envelope import Event
from weelo_common.events.topics import CAPTAINS_STATE, Topic


class CaptainState(Event):
    """A captain as the index needs him; a lower ``version`` than the one known is ignored.

    ``eligible`` says that his membership is confirmed and his transporter active and verified.
    """

    TYPE: ClassVar[str] = "weelo.captain.state.v1"
    TOPIC: ClassVar[Topic] = CAPTAINS_STATE

    captain_id: fields.CaptainId
    version: Annotated[int, Field(description="Counts the captain's changes; a lower one is an old state.")]
    transporter_id: fields.TransporterId
    vehicle_type: fields.VehicleType
    vehicle_subtype: fields.VehicleSubtype
    available: Annotated[bool, Field(description="He says that he wants offers.")]
    eligible: Annotated[bool, Field(description="Confirmed by a transporter that is active and verified.")]
    busy: Annotated[bool, Field(description="He has a truck request that is assigned or in progress.")]

    def key(self) -> str:
        return self.captain_id
