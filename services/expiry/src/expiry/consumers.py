"""Which event goes to which handler."""

from __future__ import annotations

from typing import Any

from expiry.handlers import Handlers
from weelo_common.delivery import AtOnce, Handler
from weelo_common.events.envelope import Event
from weelo_common.events.timers import TimerCancelled, TimerScheduled


def handlers(commands: Handlers) -> dict[type[Event], Handler]:
    """The timer commands; the topics follow from them."""
    table: dict[type[Any], Handler] = {
        TimerScheduled: commands.schedule,
        TimerCancelled: commands.cancel,
    }
    return table


def at_once(commands: Handlers) -> dict[type[Event], AtOnce]:
    """The same commands, each by one statement."""
    table: dict[type[Any], AtOnce] = {
        TimerScheduled: commands.schedule_at_once,
        TimerCancelled: commands.cancel_at_once,
    }
    return table
