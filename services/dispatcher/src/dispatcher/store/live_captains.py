"""SQL for the index's start: all captains in columns, in pages, without a row object for each."""

from __future__ import annotations

from dispatcher.live_fleet import CaptainColumns
from weelo_common.postgres import Connection

# One hash of the transporters serves a page; a join would look each one up by its key.
SELECT_LIVE_CAPTAINS = """
SELECT array_agg(captain_id) AS captain_ids, array_agg(version) AS versions, array_agg(vehicle_type) AS vehicle_types,
       array_agg(vehicle_subtype) AS vehicle_subtypes, array_agg(free) AS free,
       array_agg(idle_since_ms) AS idle_since_ms
  FROM (SELECT captain_id, version, vehicle_type, vehicle_subtype,
               available AND confirmed AND NOT busy AND transporter_id IN (
                   SELECT transporter_id FROM transporters WHERE active AND verified
               ) AS free,
               floor(date_part('epoch', idle_since) * 1000)::bigint AS idle_since_ms
          FROM captains WHERE captain_id > $1 ORDER BY captain_id LIMIT $2) AS page
"""


async def live_captains_page(connection: Connection, *, after: str, most: int) -> CaptainColumns | None:
    """The next captains in the order of their ids; None after the last."""
    row = await connection.fetchrow(SELECT_LIVE_CAPTAINS, after, most)
    if row is None or row["captain_ids"] is None:
        return None
    return CaptainColumns(**dict(row))
