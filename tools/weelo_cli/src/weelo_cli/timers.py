"""``weelo timers list|show|cancel|fire``: the timers of expiry, as its table has them.

A change is made in the table, where every replica of expiry finds it: nothing needs to be told. Versions stay as they
are, so that the owner's next scheduling is not taken for an old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import asyncpg
import typer

from weelo_cli.connections import Connection, Surroundings
from weelo_cli.conventions import Answer, BadInput, Json, Refused, Yes, json_text, preview, run
from weelo_common.clock import format_time
from weelo_common.events.topics import EXPIRY

STATES = ("pending", "fired", "cancelled")
MAX_LISTED = 1000

_COLUMNS = """
timer_key, version, state, owner, due_at, order_id, partition, updated_at,
       extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in_s
"""
SELECT_TIMERS = f"""
SELECT {_COLUMNS} FROM timers
 WHERE state = $1 AND ($2::text IS NULL OR owner = $2) AND ($3::text IS NULL OR order_id = $3)
   AND (NOT $4 OR due_at <= clock_timestamp())
 ORDER BY due_at NULLS LAST, timer_key LIMIT $5
"""  # noqa: S608 - a constant
SELECT_TIMER = f"SELECT {_COLUMNS}, payload::text AS payload, traceparent FROM timers WHERE timer_key = $1"  # noqa: S608
SELECT_FIRINGS = """
SELECT fired_at, worked_at FROM firings
 WHERE (SELECT id FROM timers WHERE timer_key = $1) = ANY (timer_ids)
"""
CANCEL = """
UPDATE timers SET state = 'cancelled', updated_at = clock_timestamp()
 WHERE timer_key = $1 AND version = $2 AND state = 'pending' RETURNING 1
"""
# One that has fired keeps its time, and with its version its event's id.
FIRE = """
UPDATE timers SET state = 'pending', due_at = least(due_at, clock_timestamp()), updated_at = clock_timestamp()
 WHERE timer_key = $1 AND version = $2 AND state IN ('pending', 'fired') RETURNING 1
"""

app = typer.Typer(help="The timers of expiry: what is to fire, and what has.", no_args_is_help=True)

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="The timer's key, like order-expiry:<order id>.")
]
StateOption = Annotated[str, typer.Option("--state", help=f"One of {', '.join(STATES)}.")]
OwnerOption = Annotated[
    str | None, typer.Option("--owner", help="The service that handles them, like order-api.")
]
OrderOption = Annotated[str | None, typer.Option("--order", help="An order's id.")]
Overdue = Annotated[bool, typer.Option("--overdue", help="Only those whose time has come.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MAX_LISTED, help="No more than so many.")]


@app.command("list")
def list_timers(
    state: StateOption = "pending",
    owner: OwnerOption = None,
    order: OrderOption = None,
    overdue: Overdue = False,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """Timers, the one that is due first at the top. What has fired or was cancelled is kept for a day. Reads only.

    Example: weelo timers list --overdue
    """
    run(_list(state, owner, order, overdue, limit), as_json)


@app.command()
def show(key: KeyArgument, as_json: Json = False) -> None:
    """One timer, whole, and whether its event is still on its way to Kafka. Reads only.

    Example: weelo timers show order-expiry:0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e
    """
    run(_show(key), as_json)


@app.command()
def cancel(key: KeyArgument, yes: Yes = False, as_json: Json = False) -> None:
    """Keep a pending timer from firing. Its owner may schedule it anew, with a higher version.

    An order whose expiry is cancelled still ends, when somebody touches it or by the sweep.

    Example: weelo timers cancel dispatch-wave:0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e --yes
    """
    run(_change(key, CANCEL, "cancel", ("pending",), yes), as_json)


@app.command()
def fire(key: KeyArgument, yes: Yes = False, as_json: Json = False) -> None:
    """Let a timer fire within a second or two: one that is pending, or once more one that has fired.

    The event has the id it would have had, so an owner that has handled it ignores it, and nothing ends before its
    time: an owner whose own clock says that it is early schedules the timer again.

    Example: weelo timers fire order-expiry:0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e --yes
    """
    run(_change(key, FIRE, "fire", ("pending", "fired"), yes), as_json)


async def _list(state: str, owner: str | None, order: str | None, overdue: bool, limit: int) -> Answer:
    if state not in STATES:
        raise BadInput(f"no state {state[:40]!r}: there are {', '.join(STATES)}")
    surroundings = Surroundings.found()
    async with surroundings.reading(EXPIRY) as connection:
        rows = await connection.fetch(SELECT_TIMERS, state, owner, order, overdue, limit)
    timers = [_document(row) for row in rows]
    lines = [_line(timer) for timer in timers] or ["no such timer"]
    return Answer({"timers": timers}, lines)


async def _show(key: str) -> Answer:
    surroundings = Surroundings.found()
    async with surroundings.reading(EXPIRY) as connection:
        row = await connection.fetchrow(SELECT_TIMER, key)
        if row is None:
            raise Refused(f"nobody knows timer {key[:200]}: it never was, or ended more than a day ago")
        firing = await connection.fetchrow(SELECT_FIRINGS, key)
    timer = _document(row) | {
        "payload": row["payload"],
        "traceparent": row["traceparent"],
        "onItsWay": None
        if firing is None
        else {"firedAt": firing["fired_at"], "workedAt": firing["worked_at"]},
    }
    return Answer(timer, [f"{name}: {_text(value)}" for name, value in timer.items()])


async def _change(key: str, statement: str, verb: str, states: tuple[str, ...], yes: bool) -> Answer:
    surroundings = Surroundings.found()
    if not yes:
        async with surroundings.reading(EXPIRY) as connection:
            timer = await _changeable(connection, key, verb, states)
        return preview({"action": verb, **timer}, [f"would {verb} {_line(timer)}"])
    async with surroundings.changing(EXPIRY) as connection:
        timer = await _changeable(connection, key, verb, states)
        if await connection.fetchval(statement, key, timer["version"]) is None:
            raise Refused(f"timer {key} changed at this very moment: look again")
        row = await connection.fetchrow(SELECT_TIMER, key)
    after = timer if row is None else _document(row)
    return Answer({"done": True, **after}, [f"done: {_line(after)}"])


async def _changeable(connection: Connection, key: str, verb: str, states: tuple[str, ...]) -> dict[str, Any]:
    row = await connection.fetchrow(SELECT_TIMER, key)
    if row is None:
        raise Refused(f"nobody knows timer {key[:200]}: it never was, or ended more than a day ago")
    if row["state"] not in states:
        raise Refused(f"timer {key} is {row['state']}: only {' or '.join(states)} ones {verb}")
    return _document(row)


def _document(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "timerKey": row["timer_key"],
        "version": row["version"],
        "state": row["state"],
        "owner": row["owner"],
        "dueAt": row["due_at"],
        "dueInSeconds": None if row["due_in_s"] is None else round(row["due_in_s"], 3),
        "orderId": row["order_id"],
        "partition": row["partition"],
        "updatedAt": row["updated_at"],
    }


def _line(timer: Mapping[str, Any]) -> str:
    due = "" if timer["dueAt"] is None else f", due {format_time(timer['dueAt'])}"
    if timer["state"] == "pending":
        due += f" (in {timer['dueInSeconds']:.1f} s)"
    owner = f", of {timer['owner']}" if timer["owner"] else ""
    return f"{timer['timerKey']} version {timer['version']}: {timer['state']}{due}{owner}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)
