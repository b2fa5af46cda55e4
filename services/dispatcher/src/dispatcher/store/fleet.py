"""SQL for transporters and captains, and for what a match must know of captains."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from dispatcher.candidates import Standing
from dispatcher.domain import Driving
from weelo_common.events import CaptainState
from weelo_common.postgres import Connection

_CAPTAIN_COLUMNS = """captain_id, transporter_id, name, phone, vehicle_type, vehicle_subtype, vehicle_number, confirmed,
       available, busy, idle_since, version, created_at, updated_at,
       (SELECT t.active AND t.verified FROM transporters t WHERE t.transporter_id = captains.transporter_id)
           IS TRUE AS transporter_fine"""

UPSERT_TRANSPORTER = """
INSERT INTO transporters (transporter_id, name, phone, active, verified)
VALUES ($1, $2, $3, $4, coalesce($5::boolean, false))
ON CONFLICT (transporter_id) DO UPDATE SET name = excluded.name, phone = excluded.phone, active = excluded.active,
       verified = coalesce($5::boolean, transporters.verified), version = transporters.version + 1,
       updated_at = clock_timestamp()
RETURNING transporter_id, name, phone, active, verified, version, created_at, updated_at
"""
LOCK_TRANSPORTER = "SELECT active, verified FROM transporters WHERE transporter_id = $1 FOR UPDATE"
SELECT_TRANSPORTER = (
    "SELECT transporter_id, active, verified, version FROM transporters WHERE transporter_id = $1"
)
LOCK_CAPTAINS_OF_TRANSPORTER = """
SELECT captain_id FROM captains WHERE transporter_id = $1 ORDER BY captain_id FOR NO KEY UPDATE
"""
TOUCH_CAPTAINS = f"""
UPDATE captains SET version = version + 1 WHERE captain_id = ANY($1::text[]) RETURNING {_CAPTAIN_COLUMNS}
"""  # noqa: S608
UPSERT_CAPTAIN = f"""
INSERT INTO captains (captain_id, transporter_id, name, phone, vehicle_type, vehicle_subtype, vehicle_number, busy)
VALUES ($1, $2, $3, $4, $5, $6, $7,
        EXISTS (SELECT FROM truck_requests r WHERE r.captain_id = $1 AND r.state = 'taken'))
ON CONFLICT (captain_id) DO UPDATE SET transporter_id = excluded.transporter_id, name = excluded.name,
       phone = excluded.phone, vehicle_type = excluded.vehicle_type, vehicle_subtype = excluded.vehicle_subtype,
       vehicle_number = excluded.vehicle_number,
       confirmed = captains.confirmed AND captains.transporter_id = excluded.transporter_id,
       version = captains.version + 1, updated_at = clock_timestamp()
RETURNING {_CAPTAIN_COLUMNS}
"""  # noqa: S608
CONFIRM_CAPTAIN = f"""
UPDATE captains SET confirmed = $3, version = version + 1, updated_at = clock_timestamp()
 WHERE captain_id = $2 AND transporter_id = $1 RETURNING {_CAPTAIN_COLUMNS}
"""  # noqa: S608
SET_AVAILABLE = f"""
UPDATE captains SET available = $2, version = version + 1, updated_at = clock_timestamp(),
       idle_since = CASE WHEN $2 AND NOT available THEN clock_timestamp() ELSE idle_since END
 WHERE captain_id = $1 RETURNING {_CAPTAIN_COLUMNS}
"""  # noqa: S608
SELECT_CAPTAIN = f"SELECT {_CAPTAIN_COLUMNS} FROM captains WHERE captain_id = $1"  # noqa: S608
CAPTAIN_EXISTS = "SELECT EXISTS (SELECT FROM captains WHERE captain_id = $1)"
LOCK_CAPTAINS = """
SELECT captain_id FROM captains WHERE captain_id = ANY($1::text[]) ORDER BY captain_id FOR NO KEY UPDATE
"""
LOCK_FREE_CAPTAINS = """
SELECT captain_id FROM captains WHERE captain_id = ANY($1::text[])
 ORDER BY captain_id FOR NO KEY UPDATE SKIP LOCKED
"""
# LATERAL with LIMIT, and counts: a look into each index for each captain, whatever the planner thinks of empty tables.
# It might hash a table that is joined, or what EXISTS looks for, and so read all of it once it has grown.
SELECT_STANDINGS = """
SELECT c.captain_id, c.transporter_id, c.vehicle_type, c.vehicle_subtype, c.vehicle_number, c.available, c.confirmed,
       t.active AS transporter_active, t.verified AS transporter_verified, c.idle_since,
       (SELECT count(*) FROM truck_requests r WHERE r.captain_id = c.captain_id AND r.state = 'taken') > 0 AS busy,
       (SELECT count(*) FROM offers o WHERE o.captain_id = c.captain_id AND o.status = 'live'
           AND o.expires_at > clock_timestamp()) AS open_offers
  FROM captains c
  LEFT JOIN LATERAL (SELECT active, verified FROM transporters WHERE transporter_id = c.transporter_id LIMIT 1) AS t
         ON true
 WHERE c.captain_id = ANY($1::text[])
"""
# "Busy" is whether he holds a truck request; the row keeps what was last announced of it.
REFRESH_BUSY = f"""
UPDATE captains SET busy = NOT busy, version = version + 1, updated_at = clock_timestamp(),
       idle_since = CASE WHEN busy THEN clock_timestamp() ELSE idle_since END
 WHERE captain_id = ANY($1::text[]) AND busy <> (
       (SELECT count(*) FROM truck_requests r WHERE r.captain_id = captains.captain_id AND r.state = 'taken') > 0)
RETURNING {_CAPTAIN_COLUMNS}
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Transporter:
    """A transporter; his name and phone reach no log and no event."""

    transporter_id: str
    name: str
    phone: str | None
    active: bool
    verified: bool
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Captain:
    """A captain; ``eligible``: confirmed by a transporter who is active and verified."""

    captain_id: str
    transporter_id: str
    name: str
    phone: str | None
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    confirmed: bool
    available: bool
    busy: bool
    eligible: bool
    idle_since: datetime
    version: int
    created_at: datetime
    updated_at: datetime

    def state(self) -> CaptainState:
        """What the other replicas are told."""
        return CaptainState(
            captain_id=self.captain_id,
            version=self.version,
            transporter_id=self.transporter_id,
            vehicle_type=self.vehicle_type,
            vehicle_subtype=self.vehicle_subtype,
            available=self.available,
            eligible=self.eligible,
            busy=self.busy,
        )


@dataclass(frozen=True, slots=True)
class TransporterStanding:
    """Whether a transporter's captains may get offers; ``version`` orders what a cache was told."""

    transporter_id: str
    active: bool
    verified: bool
    version: int


async def upsert_transporter(
    connection: Connection,
    transporter_id: str,
    *,
    name: str,
    phone: str | None,
    active: bool,
    verified: bool | None,
) -> Transporter:
    """Add or change a transporter; ``verified`` None leaves it as it is (at first: false)."""
    row = await connection.fetchrow(UPSERT_TRANSPORTER, transporter_id, name, phone, active, verified)
    assert row is not None  # noqa: S101 - an upsert always returns its row
    return Transporter(**dict(row))


async def lock_transporter(connection: Connection, transporter_id: str) -> tuple[bool, bool] | None:
    """Lock a transporter: active and verified, or None where he is not known."""
    row = await connection.fetchrow(LOCK_TRANSPORTER, transporter_id)
    return None if row is None else (row["active"], row["verified"])


async def get_transporter_standing(connection: Connection, transporter_id: str) -> TransporterStanding | None:
    """Whether a transporter's captains may get offers, or None where he is not known."""
    row = await connection.fetchrow(SELECT_TRANSPORTER, transporter_id)
    return None if row is None else TransporterStanding(**dict(row))


async def touch_captains_of(connection: Connection, transporter_id: str) -> list[Captain]:
    """Lock all captains of a transporter, in sorted order, and give each a new version."""
    locked = await connection.fetch(LOCK_CAPTAINS_OF_TRANSPORTER, transporter_id)
    rows = await connection.fetch(TOUCH_CAPTAINS, [row["captain_id"] for row in locked])
    return [_captain(row) for row in rows]


async def upsert_captain(
    connection: Connection, captain_id: str, *, name: str, phone: str | None, driving: Driving
) -> Captain:
    """Add or change a captain. With another transporter his membership must be confirmed anew."""
    row = await connection.fetchrow(
        UPSERT_CAPTAIN,
        captain_id,
        driving.transporter_id,
        name,
        phone,
        driving.vehicle_type,
        driving.vehicle_subtype,
        driving.vehicle_number,
    )
    assert row is not None  # noqa: S101 - an upsert always returns its row
    return _captain(row)


async def confirm_captain(
    connection: Connection, transporter_id: str, captain_id: str, *, confirmed: bool
) -> Captain | None:
    """Confirm a membership or take it back; None where he names another transporter or is not known."""
    row = await connection.fetchrow(CONFIRM_CAPTAIN, transporter_id, captain_id, confirmed)
    return None if row is None else _captain(row)


async def set_available(connection: Connection, captain_id: str, *, available: bool) -> Captain | None:
    """Set a captain's availability; None where he is not known."""
    row = await connection.fetchrow(SET_AVAILABLE, captain_id, available)
    return None if row is None else _captain(row)


async def get_captain(connection: Connection, captain_id: str) -> Captain | None:
    """A captain, or None."""
    row = await connection.fetchrow(SELECT_CAPTAIN, captain_id)
    return None if row is None else _captain(row)


async def captain_exists(connection: Connection, captain_id: str) -> bool:
    """Whether a captain is known."""
    known: bool = await connection.fetchval(CAPTAIN_EXISTS, captain_id)
    return known


async def lock_captains(
    connection: Connection, captain_ids: Collection[str], *, wait: bool = True
) -> set[str]:
    """Lock captains in sorted order and return those locked.

    With ``wait`` false those whom another transaction holds are left out: only so may more be locked by a
    transaction that holds some, or two of them could wait for each other.
    """
    if not captain_ids:
        return set()
    statement = LOCK_CAPTAINS if wait else LOCK_FREE_CAPTAINS
    return {row["captain_id"] for row in await connection.fetch(statement, sorted(captain_ids))}


async def standings(connection: Connection, captain_ids: Collection[str]) -> dict[str, Standing]:
    """What PostgreSQL says of captains; those not known are left out."""
    if not captain_ids:
        return {}
    rows = await connection.fetch(SELECT_STANDINGS, list(captain_ids))
    return {row["captain_id"]: Standing(**dict(row)) for row in rows}


async def refresh_busy(connection: Connection, captain_ids: Collection[str]) -> list[Captain]:
    """Bring "busy" in line with the truck requests, for captains who are locked; returns those who changed."""
    return [_captain(row) for row in await connection.fetch(REFRESH_BUSY, sorted(captain_ids))]


def _captain(row: asyncpg.Record) -> Captain:
    values = dict(row)
    transporter_fine = values.pop("transporter_fine")
    return Captain(**values, eligible=transporter_fine and values["confirmed"])
