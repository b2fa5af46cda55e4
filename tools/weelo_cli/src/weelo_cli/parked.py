"""``weelo parked list|replay|drop``: keys whose events wait because one of them could not be applied.

A replay runs in the service that parked the key, with its own handlers: the command leaves a request on the key's row
and watches what becomes of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from weelo_cli.connections import SERVICES, Connection, Surroundings, known_service
from weelo_cli.conventions import (
    EXIT_NOT_WELL,
    Answer,
    BadInput,
    Json,
    Refused,
    Unavailable,
    Yes,
    preview,
    run,
)
from weelo_cli.redaction import shown_reason
from weelo_common.parking import LIFT_MARK, LOCK_MARK

LOOK_PERIOD_S = 0.2
WAIT_S = 30.0
EVENTS_SHOWN = 20  # of a key, in a list

SELECT_KEYS = """
SELECT k.consumer, k.key, k.reason, k.parked_at, k.replay_asked_at, k.replay_error, count(p.id) AS events
  FROM parked_key k LEFT JOIN parked p USING (consumer, key)
 WHERE $1::text IS NULL OR k.key = $1
 GROUP BY k.consumer, k.key ORDER BY k.parked_at, k.key
"""
SELECT_EVENTS = """
SELECT id, topic, partition, "offset", event_id, received_at, headers
  FROM parked WHERE consumer = $1 AND key = $2 ORDER BY id LIMIT $3
"""
ASK = """
UPDATE parked_key SET replay_asked_at = clock_timestamp(), replay_error = NULL
 WHERE consumer = $1 AND key = ANY($2::text[])
"""
SELECT_STANDING = """
SELECT key, replay_asked_at, replay_error FROM parked_key WHERE consumer = $1 AND key = ANY($2::text[])
"""
DROP_EVENTS = """
DELETE FROM parked WHERE consumer = $1 AND key = $2 AND ($3::text IS NULL OR event_id = $3) RETURNING event_id
"""
COUNT_EVENTS = "SELECT count(*) FROM parked WHERE consumer = $1 AND key = $2"

app = typer.Typer(
    help="Keys whose events wait, in order, because one could not be applied.", no_args_is_help=True
)

ServiceOption = Annotated[str | None, typer.Option("--service", help=f"One of {', '.join(SERVICES)}.")]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help=f"Who parked: {', '.join(SERVICES)}.")
]
KeyArgument = Annotated[str | None, typer.Argument(metavar="KEY", help="The key: an order's id, mostly.")]
All = Annotated[bool, typer.Option("--all", help="Every parked key of the service.")]
Wait = Annotated[
    float, typer.Option("--wait-s", min=0, max=3600, help="How long to watch what becomes of it.")
]
EventOption = Annotated[str | None, typer.Option("--event", help="One event of the key, by its ce_id.")]


@app.command("list")
def list_keys(service: ServiceOption = None, key: KeyArgument = None, as_json: Json = False) -> None:
    """What is parked, why, and since when. Exits 0 also where something is. Reads only.

    Example: weelo parked list --service notifier
    """
    run(_list(service, key), as_json)


@app.command()
def replay(
    service: ServiceArgument,
    key: KeyArgument = None,
    all_keys: All = False,
    wait_s: Wait = WAIT_S,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Let the service apply a key's parked events, in order, and then let the key flow again.

    Repair what failed first (deploy the mended service). What fails again stays parked, with the reason; exits 1 then.

    Example: weelo parked replay notifier 0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e --yes
    """
    run(_replay(service, key, all_keys, wait_s, yes), as_json)


@app.command()
def drop(
    service: ServiceArgument,
    key: KeyArgument = None,
    event: EventOption = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Throw a key's parked events away, or one of them: the service will never apply them.

    The key flows again once nothing of it is parked. The events still stand in their topic, as long as it keeps them.

    Example: weelo parked drop notifier 0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e --yes
    """
    run(_drop(service, key, event, yes), as_json)


async def _list(service: str | None, key: str | None) -> Answer:
    surroundings = Surroundings.found()
    services = SERVICES if service is None else (known_service(service),)
    found: list[dict[str, Any]] = []
    for name in services:
        async with surroundings.reading(name) as connection:
            found += [one | {"service": name} for one in await parked_keys(connection, key)]
    lines = [line for one in found for line in _lines(one)]
    return Answer({"parked": found}, lines or ["nothing is parked"])


async def _replay(service: str, key: str | None, all_keys: bool, wait_s: float, yes: bool) -> Answer:
    surroundings = Surroundings.found()
    wanted = await _wanted(surroundings, service, key, all_keys)
    keys = [one["key"] for one in wanted]
    if not yes:
        return preview(
            {"replay": wanted},
            [f"would let {service} replay {one['events']} events of {one['key']}" for one in wanted],
        )
    async with surroundings.changing(service) as connection:
        await connection.execute(ASK, service, keys)
    standing = await _watch(surroundings, service, keys, wait_s)
    results = [
        {
            "key": one["key"],
            "events": one["events"],
            "replayed": one["key"] not in standing,
            "error": standing.get(one["key"]),
        }
        for one in wanted
    ]
    if any(why is None for why in standing.values()):
        raise Unavailable(
            f"asked, but {service} has not finished within {wait_s:g} s: does it run? "
            f"It will replay {len(standing)} keys as soon as it does; see weelo parked list"
        )
    lines = [
        f"replayed {one['events']} events of {one['key']}; it flows again"
        if one["replayed"]
        else f"{one['key']} stays parked: {one['error']}"
        for one in results
    ]
    return Answer({"done": True, "keys": results}, lines, EXIT_NOT_WELL if standing else 0)


async def _wanted(
    surroundings: Surroundings, service: str, key: str | None, all_keys: bool
) -> list[dict[str, Any]]:
    known_service(service)
    if (key is None) != all_keys:
        raise BadInput("name a KEY, or --all")
    async with surroundings.reading(service) as connection:
        wanted = await parked_keys(connection, key)
    if not wanted:
        raise Refused(f"{service} has nothing parked{f' of {key}' if key else ''}")
    return wanted


async def _watch(
    surroundings: Surroundings, service: str, keys: Sequence[str], wait_s: float
) -> dict[str, str | None]:
    """The keys that are still parked, each with why its replay failed; None where it has not ended yet."""
    deadline = time.monotonic() + wait_s
    while True:
        async with surroundings.reading(service) as connection:
            rows = await connection.fetch(SELECT_STANDING, service, keys)
        standing = {
            row["key"]: None if row["replay_error"] is None else shown_reason(row["replay_error"])
            for row in rows
        }
        waiting = any(row["replay_asked_at"] is not None for row in rows)
        if not waiting or time.monotonic() > deadline:
            return standing
        await asyncio.sleep(LOOK_PERIOD_S)


async def _drop(service: str, key: str | None, event_id: str | None, yes: bool) -> Answer:
    surroundings = Surroundings.found()
    (one,) = await _wanted(surroundings, service, key, all_keys=False)
    known = [event["eventId"] for event in one["first"]]
    if event_id is not None and one["events"] <= EVENTS_SHOWN and event_id not in known:
        raise Refused(f"event {event_id} of {one['key']} is not parked")
    what = f"event {event_id}" if event_id else f"all {one['events']} events"
    if not yes:
        return preview(
            {"drop": one, "event": event_id},
            [
                *_lines(one | {"service": service}),
                f"would drop {what} of {one['key']} for {service}, for good",
            ],
        )
    async with surroundings.changing(service) as connection:
        await connection.fetchval(LOCK_MARK, service, one["key"])  # the consumer waits before it appends
        dropped = [
            row["event_id"] for row in await connection.fetch(DROP_EVENTS, service, one["key"], event_id)
        ]
        left = await connection.fetchval(COUNT_EVENTS, service, one["key"])
        if not left:
            await connection.execute(LIFT_MARK, service, one["key"])
    if not dropped:
        raise Refused(f"event {event_id} of {one['key']} is not parked")
    flows = "the key flows again" if not left else f"{left} events stay parked"
    return Answer(
        {"done": True, "dropped": dropped, "left": left}, [f"dropped {len(dropped)} events; {flows}"]
    )


async def parked_keys(connection: Connection, key: str | None) -> list[dict[str, Any]]:
    """What a service has parked, of one key or of all, with the first events of each; nothing of their bodies."""
    found: list[dict[str, Any]] = []
    for row in await connection.fetch(SELECT_KEYS, key):
        events = await connection.fetch(SELECT_EVENTS, row["consumer"], row["key"], EVENTS_SHOWN)
        found.append(
            {
                "consumer": row["consumer"],
                "key": row["key"],
                "parkedAt": row["parked_at"],
                "reason": shown_reason(row["reason"]),
                "replayAskedAt": row["replay_asked_at"],
                "replayError": None if row["replay_error"] is None else shown_reason(row["replay_error"]),
                "events": row["events"],
                "first": [
                    {
                        "eventId": event["event_id"],
                        "type": json.loads(event["headers"]).get("ce_type", ""),
                        "topic": event["topic"],
                        "partition": event["partition"],
                        "offset": event["offset"],
                        "receivedAt": event["received_at"],
                    }
                    for event in events
                ],
            }
        )
    return found


def _lines(one: dict[str, Any]) -> list[str]:
    lines = [
        f"{one['service']}: {one['key']} since {one['parkedAt']:%Y-%m-%d %H:%M:%S}, {one['events']} events: "
        + one["reason"]
    ]
    if one["replayError"]:
        lines.append(f"    the last replay failed: {one['replayError']}")
    lines += [
        f"    {event['type']} {event['eventId']} ({event['topic']} {event['partition']}/{event['offset']})"
        for event in one["first"]
    ]
    if one["events"] > len(one["first"]):
        lines.append(f"    and {one['events'] - len(one['first'])} more")
    return lines
