"""Time as the contracts write it: UTC, RFC 3339, milliseconds.

Decisions about orders and timers take their time from the owning service's database. The clock of the
process is for waiting, measuring and stamping logs, never for judging whether an order has ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Protocol

from pydantic import AfterValidator, PlainSerializer


class Clock(Protocol):
    """What tells the time of this process; injected, so that tests can set it."""

    def now(self) -> datetime:
        """The time now, in UTC, with its zone."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def to_milliseconds(moment: datetime) -> datetime:
    """The same moment cut to whole milliseconds, in UTC."""
    if moment.tzinfo is UTC and moment.microsecond % 1000 == 0:
        return moment  # as nearly all are that come from the database
    utc = moment.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


@lru_cache(maxsize=256)  # an answer and its events write the same two moments ten times
def format_time(moment: datetime) -> str:
    """RFC 3339 with milliseconds and Z, e.g. ``2026-02-03T10:08:28.123Z``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.isoformat(timespec='milliseconds')[:-6]}Z"  # isoformat cuts, and ends in +00:00


def parse_time(text: str) -> datetime:
    """A moment from RFC 3339 text, or from what else of ISO 8601 Python reads.

    Raises:
        ValueError: the text is no time, has no zone, or is out of range in UTC; also for a leap second.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows a small t and z
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # year 1 or 9999, and the zone shifts it over the edge
        raise ValueError("the time is out of range in UTC") from None


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00:00Z, rounded down."""
    return int(moment.timestamp() * 1000 // 1)


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone, such as Z")
    try:
        return to_milliseconds(moment)
    except OverflowError:
        raise ValueError("the time is out of range in UTC") from None


UtcTime = Annotated[
    datetime,
    AfterValidator(_with_zone),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
"""The one type of a moment in bodies, events and frames: UTC, whole milliseconds."""
