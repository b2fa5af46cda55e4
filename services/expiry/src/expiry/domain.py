"""What a timer is, which commands are refused, and the event of one that is due.

Pure: no I/O and no clock. It never decides that a timer is due; PostgreSQL's clock does, in the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

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

_NUL = "\x00"  # PostgreSQL's text cannot hold it


class TimerRefused(Exception):
    """A command that can never be obeyed; the message says why. It belongs to the dead letters."""


@dataclass(frozen=True, slots=True)
class ClaimedTimer:
    """A timer that PostgreSQL's clock called due. ``payload`` is JSON text; times are UTC."""

    id: int
    key: str
    version: int
    partition: int
    owner: str
    due_at: datetime
    fired_at: datetime
    payload: str
    order_id: str | None
    traceparent: str | None

    @property
    def late_s(self) -> float:
        """Seconds from the due time to the claim, by the database's clock."""
        return (self.fired_at - self.due_at).total_seconds()


def payload_text(command: TimerScheduled, now: datetime) -> str:
    """The payload as the table keeps it, once the whole command is found good. ``now`` is the database's.

    A time in the past is good: such a timer fires at once.

    Raises:
        TimerRefused: due too far ahead, the payload too large or no JSON, or text that cannot be kept.
    """
    _check_ids(command.timer_key, command.order_id)
    if _NUL in command.owner:
        raise TimerRefused("owner holds a NUL character")
    if command.due_at > now + timedelta(days=MAX_HORIZON_DAYS):
        raise TimerRefused(f"dueAt {format_time(command.due_at)} is more than {MAX_HORIZON_DAYS} days ahead")
    try:
        text = json.dumps(command.payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError as error:
        raise TimerRefused(f"payload is no JSON: {error}") from error
    if size > MAX_PAYLOAD_BYTES:
        raise TimerRefused(f"payload has {size} bytes, more than {MAX_PAYLOAD_BYTES}")
    return text


def check_cancel(command: TimerCancelled) -> None:
    """Nothing, once the command is found good.

    Raises:
        TimerRefused: text that cannot be kept.
    """
    _check_ids(command.timer_key, command.order_id)


def fired_event(timer: ClaimedTimer) -> TimerFired:
    """The event of a claimed timer; the same timer always gives the same event, id included."""
    return TimerFired(
        timer_key=timer.key,
        version=timer.version,
        order_id=timer.order_id,
        owner=timer.owner,
        due_at=timer.due_at,
        fired_at=timer.fired_at,
        payload=json.loads(timer.payload),
    )


def _check_ids(timer_key: str, order_id: str | None) -> None:
    if _NUL in timer_key:
        raise TimerRefused("timerKey holds a NUL character")
    if order_id is not None and (_NUL in order_id or not 1 <= len(order_id) <= MAX_ORDER_ID_LENGTH):
        raise TimerRefused(f"orderId must have 1 to {MAX_ORDER_ID_LENGTH} characters, none of them NUL")
