"""``timers.commands.v1`` and ``timers.fired.v1``: durable timers by event."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue, StringConstraints

from weelo_common.clock import UtcTime
from weelo_common.events.envelope import Event
from weelo_common.events.topics import TIMERS_COMMANDS, TIMERS_FIRED, Topic
from weelo_common.ids import derived_id

MAX_PAYLOAD_BYTES = 8 * 1024
MAX_HORIZON_DAYS = 30  # a timer further ahead is refused

TimerKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[a-z][a-z0-9-]*:.+$"),
    Field(description="`<name>:<subject>`, one timer at a time.", examples=["order-expiry:<order id>"]),
]
Version = Annotated[
    int,
    Field(
        ge=1,
        le=2**31 - 1,
        description="Counts the schedulings of the key; a lower or equal one than you know is ignored.",
    ),
]
DueAt = Annotated[UtcTime, Field(description="When the timer is to fire.")]
Payload = Annotated[
    dict[str, JsonValue],
    Field(description="The owner's own, at most 8 KiB of JSON; comes back as it was given."),
]


def timer_key(name: str, subject: str) -> str:
    """``<name>:<subject>``, e.g. ``order-expiry:<order id>``."""
    return f"{name}:{subject}"


def firing_id(key: str, version: int) -> str:
    """The id of the event of a timer's firing: the same for the same key and version."""
    return derived_id("timer-fired", key, str(version))


class TimerEvent(Event):
    """An event of one timer: with its order in the order's partition, else keyed by itself."""

    timer_key: TimerKey
    version: Version
    order_id: Annotated[
        str | None, Field(description="The order that the timer belongs to, and then the Kafka key.")
    ] = None

    def key(self) -> str:
        return self.order_id or self.timer_key

    def subject(self) -> str:
        return self.timer_key


class TimerScheduled(TimerEvent):
    """Schedule a timer, or move it by a higher version; a lower or equal version is ignored."""

    TYPE: ClassVar[str] = "weelo.timer.scheduled.v1"
    TOPIC: ClassVar[Topic] = TIMERS_COMMANDS

    owner: Annotated[
        str,
        StringConstraints(min_length=1, max_length=64),
        Field(description="The service that handles the firing.", examples=["order-api", "dispatcher"]),
    ]
    due_at: DueAt
    payload: Payload = Field(default_factory=dict)


class TimerCancelled(TimerEvent):
    """Cancel a timer up to this version."""

    TYPE: ClassVar[str] = "weelo.timer.cancelled.v1"
    TOPIC: ClassVar[Topic] = TIMERS_COMMANDS


class TimerFired(TimerEvent):
    """A timer is due. Its event id comes from key and version, so that a repeat is recognised."""

    TYPE: ClassVar[str] = "weelo.timer.fired.v1"
    TOPIC: ClassVar[Topic] = TIMERS_FIRED

    owner: Annotated[str, Field(description="The service that handles the firing; the others ignore it.")]
    due_at: DueAt
    fired_at: Annotated[UtcTime, Field(description="When the timer was found due.")]
    payload: Payload = Field(default_factory=dict)

    def event_id(self) -> str:
        """The id of this firing: the same for the same key and version."""
        return firing_id(self.timer_key, self.version)

    def sender_ahead(self, now: datetime, early: timedelta) -> timedelta:
        """By how much the clock that fired this is ahead of the receiver's, which says ``now``, up to ``early``.

        Who schedules a timer again because it came so early adds this: by that clock the same time is over already, and
        the timer would fire at once, again and again until the receiver's clock is there.
        """
        return max(timedelta(0), min(self.fired_at - now, early))
