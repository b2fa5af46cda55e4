"""Transporters and captains: who they are, who belongs to whom, who is available.

Every change of a captain's state is announced on ``captains.state.v1`` through the outbox, with a version per captain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dispatcher.candidates import Refusal, refusals
from dispatcher.domain import Driving
from dispatcher.handlers.offers import Offers, patiently
from dispatcher.live_fleet import LiveFleet
from dispatcher.store import fleet as fleet_store
from dispatcher.store.fleet import Captain, Transporter, TransporterStanding
from dispatcher.transporter_cache import TransporterCache
from weelo_common.clock import epoch_ms
from weelo_common.events import Event
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database, database_now


class CaptainNotFound(Exception):
    """There is no such captain, or none of this transporter's."""

    def __init__(self, captain_id: str) -> None:
        super().__init__(captain_id)
        self.captain_id = captain_id


class VerifiedIsOpsAlone(Exception):
    """A transporter tried to change whether he is verified."""


@dataclass(frozen=True, slots=True)
class CaptainStanding:
    """A captain, and every reason why he gets no offers now; none where he may get some."""

    captain: Captain
    no_offers_because: tuple[Refusal, ...]


class Fleet:
    """The commands on the fleet."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        live_fleet: LiveFleet,
        transporters: TransporterCache,
        offers: Offers,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._live_fleet = live_fleet
        self._transporters = transporters
        self._offers = offers

    async def put_transporter(
        self,
        transporter_id: str,
        *,
        name: str,
        phone: str | None,
        active: bool,
        verified: bool | None,
        by_ops: bool,
    ) -> Transporter:
        """Add or change a transporter; where it matters to his captains, their states are announced.

        Raises:
            VerifiedIsOpsAlone: the caller is not ops and ``verified`` would change.
        """
        async with self._database.transaction() as connection:
            before = await fleet_store.lock_transporter(connection, transporter_id)
            was_verified = before[1] if before else False
            if not by_ops and verified is not None and verified != was_verified:
                raise VerifiedIsOpsAlone(transporter_id)
            transporter = await fleet_store.upsert_transporter(
                connection, transporter_id, name=name, phone=phone, active=active, verified=verified
            )
            captains: list[Captain] = []
            if before != (transporter.active, transporter.verified):
                captains = await fleet_store.touch_captains_of(connection, transporter_id)
                await self._announce(connection, captains)
        self._tell_index(captains)
        # The cache hears of it at once; where Redis is away it holds the old word for its 300 s at most, and
        # decides nothing: matching asks PostgreSQL.
        await self._transporters.put(
            TransporterStanding(transporter_id, transporter.active, transporter.verified, transporter.version)
        )
        return transporter

    async def confirm(self, transporter_id: str, captain_id: str, *, confirmed: bool) -> Captain:
        """Confirm that a captain drives for a transporter, or take it back.

        Raises:
            CaptainNotFound: nobody of that id names this transporter.
        """
        async with self._database.transaction() as connection:
            captain = await fleet_store.confirm_captain(
                connection, transporter_id, captain_id, confirmed=confirmed
            )
            if captain is None:
                raise CaptainNotFound(captain_id)
            await self._announce(connection, [captain])
        self._tell_index([captain])
        return captain

    async def put_captain(
        self, captain_id: str, *, name: str, phone: str | None, driving: Driving
    ) -> Captain:
        """Add or change a captain, by himself. His transporter confirms him afterwards.

        What he was offered with another vehicle, or for another transporter, he declines by it: others are asked.

        Raises:
            DatabaseUnavailable: try again.
        """
        return await patiently(lambda: self._put_captain(captain_id, name=name, phone=phone, driving=driving))

    async def _put_captain(
        self, captain_id: str, *, name: str, phone: str | None, driving: Driving
    ) -> Captain:
        async with self._database.transaction() as connection:
            told = await self._offers.decline_unlike(connection, captain_id, driving)
            captain = await fleet_store.upsert_captain(
                connection, captain_id, name=name, phone=phone, driving=driving
            )
            await self._offers.none_unlike(connection, captain_id, driving)
            await self._announce(connection, [captain], also=told)
        self._offers.declined(told)
        self._tell_index([captain])
        return captain

    async def set_available(self, captain_id: str, *, available: bool) -> Captain:
        """Say whether a captain wants offers.

        Raises:
            CaptainNotFound: he is not registered.
        """
        async with self._database.transaction() as connection:
            captain = await fleet_store.set_available(connection, captain_id, available=available)
            if captain is None:
                raise CaptainNotFound(captain_id)
            await self._announce(connection, [captain])
        self._tell_index([captain])
        return captain

    async def standing(self, captain_id: str) -> CaptainStanding:
        """A captain, and why he gets no offers, if so.

        Raises:
            CaptainNotFound: he is not registered.
        """
        async with self._database.connection() as connection:
            captain = await fleet_store.get_captain(connection, captain_id)
            if captain is None:
                raise CaptainNotFound(captain_id)
            standing = (await fleet_store.standings(connection, [captain_id])).get(captain_id)
            if standing is None:
                raise CaptainNotFound(captain_id)
            transporter = await self._transporters.get(connection, captain.transporter_id)
            now = await database_now(connection)
        looked_up = replace(
            standing,
            transporter_active=transporter.active if transporter else None,
            transporter_verified=transporter.verified if transporter else None,
        )
        reasons = refusals(looked_up)
        if not self._live_fleet.is_fresh(captain_id, epoch_ms(now)):
            reasons.append(Refusal.STALE)
        return CaptainStanding(captain, tuple(reasons))

    async def is_registered(self, captain_id: str) -> bool:
        """Whether a captain is known, from memory where possible."""
        if self._live_fleet.knows(captain_id):
            return True
        async with self._database.connection() as connection:
            return await fleet_store.captain_exists(connection, captain_id)

    async def _announce(
        self, connection: Connection, captains: Sequence[Captain], *, also: Sequence[Event] = ()
    ) -> None:
        """Append the states; the captains' rows are locked, so versions go up in commit order."""
        if captains:
            now = await database_now(connection)
            await self._outbox.append(connection, [*also, *(captain.state() for captain in captains)], at=now)

    def _tell_index(self, captains: Sequence[Captain]) -> None:
        """This replica's index need not wait for Kafka."""
        for captain in captains:
            self._live_fleet.apply_state(captain.state(), epoch_ms(captain.updated_at))
