"""What a timer is, which commands are refused, and the event of one that is due.

Pure: no I/O and no clock. It never decides that a timer is due; PostgreSQL's clock does, in the store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from weelo_common.clock import format_time
from weelo_common.events.timers import (
    MAX_HORIZON_DAYS,
    MAX_PAYLOAD_BYTES,
    TimerCancelled,
    TimerFired,
    TimerScheduled,
)

MAX_ORDER_ID_LENGTH = 64  # characters, as every id
TOMBSTONE_S = 24 * 60 * 60  # as long as timers.commands.v1 is kept: no older command can come by itself

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NUL = "\x00"  # PostgreSQL's text cannot hold it


class TimerRefused(Exception):
    """A command that can never be obeyed; the message says why. It belongs to the dead letters."""


class ClaimedTimer(NamedTuple):
    """A timer that PostgreSQL's clock called due, as the table has it.

    ``due_ms`` are milliseconds since 1970 in UTC, ``payload`` is JSON text.
    """

    id: int
    key: str
    version: int
    partition: int
    owner: str
    due_ms: int
    payload: str
    order_id: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Firing:
    """Timers that were claimed together and are on their way to Kafka; ``fired_at`` is when, by the database."""

    id: int
    fired_at: datetime
    timers: Sequence[ClaimedTimer]


def payload_text(command: TimerScheduled) -> str:
    """The payload as the table keeps it, once the command is found good apart from its time.

    Raises:
        TimerRefused: the payload is too large or no JSON, or text cannot be kept.
    """
    _check_ids(command.timer_key, command.order_id)
    if _NUL in command.owner:
        raise TimerRefused("owner holds a NUL character")
    try:
        text = json.dumps(command.payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError as error:
        raise TimerRefused(f"payload is no JSON: {error}") from error
    if size > MAX_PAYLOAD_BYTES:
        raise TimerRefused(f"payload has {size} bytes, more than {MAX_PAYLOAD_BYTES}")
    return text


def check_horizon(due_at: datetime, now: datetime) -> None:
    """Nothing, where a timer is not due too far ahead; ``now`` is the database's. A time in the past is good.

    Raises:
        TimerRefused: it is.
    """
    if due_at > now + timedelta(days=MAX_HORIZON_DAYS):
        raise TimerRefused(f"dueAt {format_time(due_at)} is more than {MAX_HORIZON_DAYS} days ahead")


def check_cancel(command: TimerCancelled) -> None:
    """Nothing, once the command is found good.

    Raises:
        TimerRefused: text that cannot be kept.
    """
    _check_ids(command.timer_key, command.order_id)


def fired_event(timer: ClaimedTimer, fired_at: datetime) -> TimerFired:
    """The event of a claimed timer; the same timer always gives the same event, id included."""
    return TimerFired(
        timer_key=timer.key,
        version=timer.version,
        order_id=timer.order_id,
        owner=timer.owner,
        due_at=EPOCH + timedelta(milliseconds=timer.due_ms),
        fired_at=fired_at,
        payload=json.loads(timer.payload),
    )


def _check_ids(timer_key: str, order_id: str | None) -> None:
    if _NUL in timer_key:
        raise TimerRefused("timerKey holds a NUL character")
    if order_id is not None and (_NUL in order_id or not 1 <= len(order_id) <= MAX_ORDER_ID_LENGTH):
        raise TimerRefused(f"orderId must have 1 to {MAX_ORDER_ID_LENGTH} characters, none of them NUL")
