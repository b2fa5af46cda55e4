"""``captains.state.v1``: what the dispatcher's replicas tell one another of a captain.

Names and phone numbers stay in the dispatcher's database.
"""

from __future__ import annotations

from typing import ClassVar

from weelo_common.events.envelope import Event
from weelo_common.events.topics import CAPTAINS_STATE, Topic


class CaptainState(Event):
    """A captain as the index needs him; a lower ``version`` than the one known is ignored.

    ``eligible`` says that his membership is confirmed and his transporter active and verified.
    """

    TYPE: ClassVar[str] = "weelo.captain.state.v1"
    TOPIC: ClassVar[Topic] = CAPTAINS_STATE

    captain_id: str
    version: int
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    available: bool
    eligible: bool
    busy: bool

    def key(self) -> str:
        return self.captain_id
