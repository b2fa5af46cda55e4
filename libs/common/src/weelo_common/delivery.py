"""What a handler of events gets, and what it may answer.

Errors are instructions: ``PoisonMessage`` dead-letters the event, ``RetryLater`` pauses its partition, and any other
exception is tried a few times and then parks the key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from weelo_common.events import Envelope, Event
from weelo_common.inbox import InboxNote
from weelo_common.postgres import Connection

EventT = TypeVar("EventT", bound=Event)


class Outcome(Enum):
    """How an event ended for a consumer; each event counts once."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    PARKED = "parked"
    DEAD = "dead"


class PoisonMessage(Exception):
    """This event can never be handled. It goes to the dead letters, and the partition goes on."""


class RetryLater(Exception):
    """The event comes too early, or what it needs is away: the partition waits and the event is tried again."""

    def __init__(self, delay_s: float, why: str) -> None:
        super().__init__(why)
        self.delay_s = delay_s


@dataclass(slots=True)
class Delivery(Generic[EventT]):
    """One event in a handler's hands, inside the transaction that also holds its inbox row."""

    envelope: Envelope
    event: EventT
    partition: int
    offset: int
    received_at: datetime
    _callbacks: list[Callable[[], None]] = field(default_factory=list)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once this event's transaction has committed; it must return at once."""
        self._callbacks.append(callback)

    def committed(self) -> None:
        """Run what was left for after the commit."""
        for callback in self._callbacks:
            callback()


Handler: TypeAlias = Callable[[Connection, Delivery[Any]], Awaitable[Outcome]]
"""Handles one event inside its inbox transaction; answers APPLIED or IGNORED."""

AtOnce: TypeAlias = Callable[[Connection, Delivery[Any], InboxNote], Awaitable[Outcome | None]]
"""Handles one event by ONE statement, inbox row and all (``inbox.REGISTER_WITHIN``), which commits by itself.

Answers None where that wrote no inbox row: then nothing was changed, and the event's ``Handler`` decides. It appends no
events: nobody would wake the relay for them.
"""
