"""``weelo outbox``: what each service has not published yet, who relays, and what is parked. Reads only."""

from __future__ import annotations

from typing import Any

from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.conventions import Answer, Json, run
from weelo_common.events.topics import EXPIRY

SELECT_OUTBOX = """
SELECT count(*) AS waiting, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_s
  FROM outbox
"""
SELECT_LEASE = """
SELECT owner, term, extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_s
  FROM outbox_lease WHERE expires_at > clock_timestamp()
"""
COUNT_PARKED = "SELECT (SELECT count(*) FROM parked_key) AS keys, (SELECT count(*) FROM parked) AS events"
# Expiry's tables are an outbox of their own: what is due, or on its way, has not been published for certain.
COUNT_DUE_TIMERS = """
SELECT (SELECT count(*) FROM timers WHERE state = 'pending' AND due_at <= clock_timestamp())
     + (SELECT coalesce(sum(cardinality(timer_ids)), 0) FROM firings)::bigint
"""


def outbox(as_json: Json = False) -> None:
    """How many events wait to be published in each service, and for how long.

    Example: weelo outbox --json
    """
    run(_outbox(), as_json)


async def _outbox() -> Answer:
    surroundings = Surroundings.found()
    rows: list[dict[str, Any]] = []
    for service in SERVICES:
        async with surroundings.reading(service) as connection:
            waiting = await connection.fetchrow(SELECT_OUTBOX)
            lease = await connection.fetchrow(SELECT_LEASE)
            parked = await connection.fetchrow(COUNT_PARKED)
            row: dict[str, Any] = {
                "service": service,
                "waiting": waiting["waiting"] if waiting else 0,
                "oldestSeconds": round(waiting["oldest_s"], 3) if waiting else 0,
                "relay": {"owner": lease["owner"], "term": lease["term"]} if lease else None,
                "parkedKeys": parked["keys"] if parked else 0,
                "parkedEvents": parked["events"] if parked else 0,
            }
            if service == EXPIRY:
                row["dueTimers"] = await connection.fetchval(COUNT_DUE_TIMERS)
        rows.append(row)
    return Answer({"services": rows}, [_line(row) for row in rows])


def _line(row: dict[str, Any]) -> str:
    waits = f", the oldest for {row['oldestSeconds']:.1f} s" if row["waiting"] else ""
    due = f"; {row['dueTimers']} timers due" if "dueTimers" in row else ""
    relay = f"; relay {row['relay']['owner']}" if row["relay"] else ""
    parked = f"; {row['parkedEvents']} parked of {row['parkedKeys']} keys" if row["parkedKeys"] else ""
    return f"{row['service']:<12} {row['waiting']:>6} waiting{waits}{due}{parked}{relay}"
