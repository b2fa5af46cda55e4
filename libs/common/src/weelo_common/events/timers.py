"""``timers.commands.v1`` and ``timers.fired.v1``: durable timers by event."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, JsonValue, StringConstraints

from weelo_common.clock import UtcTime
from weelo_common.events.envelope import Event
from weelo_common.events.topics import TIMERS_COMMANDS, TIMERS_FIRED, Topic
from weelo_common.ids import derived_id

MAX_PAYLOAD_BYTES = 8 * 1024
MAX_HORIZON_DAYS = 30  # a timer further ahead is refused

TimerKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[a-z][a-z0-9-]*:.+$")]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


def timer_key(name: str, subject: str) -> str:
    """``<name>:<subject>``, e.g. ``order-expiry:<order id>``."""
    return f"{name}:{subject}"


class TimerEvent(Event):
    """An event of one timer: with its order in the order's partition, else keyed by itself."""

    timer_key: TimerKey
    version: Version
    order_id: str | None = None

    def key(self) -> str:
        return self.order_id or self.timer_key

    def subject(self) -> str:
        return self.timer_key


class TimerScheduled(TimerEvent):
    """Schedule a timer, or move it by a higher version; a lower or equal version is ignored."""

    TYPE: ClassVar[str] = "weelo.timer.scheduled.v1"
    TOPIC: ClassVar[Topic] = TIMERS_COMMANDS

    owner: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    due_at: UtcTime
    payload: dict[str, JsonValue] = Field(default_factory=dict)


class TimerCancelled(TimerEvent):
    """Cancel a timer up to this version."""

    TYPE: ClassVar[str] = "weelo.timer.cancelled.v1"
    TOPIC: ClassVar[Topic] = TIMERS_COMMANDS


class TimerFired(TimerEvent):
    """A timer is due. Its event id comes from key and version, so that a repeat is recognised."""

    TYPE: ClassVar[str] = "weelo.timer.fired.v1"
    TOPIC: ClassVar[Topic] = TIMERS_FIRED

    owner: str
    due_at: UtcTime
    fired_at: UtcTime
    payload: dict[str, JsonValue] = Field(default_factory=dict)

    def event_id(self) -> str:
        """The id of this firing: the same for the same key and version."""
        return derived_id("timer-fired", self.timer_key, str(self.version))
