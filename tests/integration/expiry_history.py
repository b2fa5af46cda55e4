"""Random histories of timer commands, beside a plain model of what must come of them.

The model knows the order of a key's commands, which Kafka keeps, and nothing of replicas, kills and clocks. Whether a
cancel or a move comes before or after a firing depends on the moment, so there it asks the table which it was, and
holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from tests.integration.expiry_processes import Client, Firing
from weelo_common.clock import to_milliseconds
from weelo_common.events.timers import TimerCancelled, TimerFired, TimerScheduled

OWNERS = ("order-api", "dispatcher")
LAST_DUE_S = 12.0  # the furthest ahead that a timer of a history is, unless it is told otherwise


@dataclass
class Key:
    """One timer key: what was sent, and what that makes of it."""

    name: str
    commands: list[TimerScheduled | TimerCancelled] = field(default_factory=list)

    @property
    def version(self) -> int:
        """The highest one sent: a lower or equal one after it is ignored."""
        return max(command.version for command in self.commands)

    @property
    def accepted(self) -> dict[int, TimerScheduled]:
        """The schedulings that were obeyed, by version: each higher than every command before it."""
        known, found = 0, {}
        for command in self.commands:
            if isinstance(command, TimerScheduled) and command.version > known:
                found[command.version] = command
            known = max(known, command.version)
        return found

    @property
    def must_fire(self) -> bool:
        """Whether the highest version was scheduled and nobody tried to cancel it."""
        version = self.version
        cancelled = any(isinstance(one, TimerCancelled) and one.version == version for one in self.commands)
        return version in self.accepted and not cancelled

    @property
    def must_not_fire(self) -> bool:
        """Whether the highest version was cancelled before it could be scheduled."""
        return self.version not in self.accepted


@dataclass
class History:
    """Commands on some keys, drawn from ``random`` and sent through ``client``."""

    client: Client
    random: Random
    clock_ahead_s: float = 0.0
    """Of the database, against this process."""
    last_due_s: float = LAST_DUE_S
    keys: dict[str, Key] = field(default_factory=dict)

    async def go_on(self, keys: int, commands: int) -> None:
        """Send so many more commands, most of them to new keys."""
        for _ in range(commands):
            name = f"order-expiry:o-{self.random.randrange(keys)}"
            key = self.keys.setdefault(name, Key(name))
            command = self._command(key)
            key.commands.append(command)
            await self.client.send(command)
            if self.random.random() < 0.1:
                await self.client.send(command)  # the same again: at least once

    async def all_fired(self, deadline_s: float) -> None:
        """Wait until every timer that must fire has."""

        def missing() -> list[Firing]:
            wanted = [(key.name, key.version) for key in self.keys.values() if key.must_fire]
            return [firing for firing in wanted if firing not in self.client.fired]

        try:
            await self.client.until(lambda: not missing(), "every timer has fired", deadline_s)
        except AssertionError:
            raise AssertionError(f"never fired: {missing()[:5]} and {len(missing()) - 5} more") from None

    def check(self, table: Mapping[str, tuple[int, str]]) -> None:
        """Hold what came against the model; ``table`` has version and state of each key, once all is over.

        Raises:
            AssertionError: a firing that may not be, is early, is not what was scheduled, or has two ids or times.
        """
        for firing, events in self.client.fired.items():
            self._check_firing(firing, events)
        for key in self.keys.values():
            version, state = table[key.name]
            assert version == key.version, f"{key.name} is at {version}, not {key.version}"
            has_fired = (key.name, version) in self.client.fired
            if key.must_fire:
                assert state == "fired", f"{key.name} is {state}"
            elif key.must_not_fire:
                assert state == "cancelled", f"{key.name} is {state}"
            assert has_fired == (state == "fired"), f"{key.name} is {state}, fired: {has_fired}"

    def _check_firing(self, firing: Firing, events: list[TimerFired]) -> None:
        name, version = firing
        command = self.keys[name].accepted.get(version)
        assert command is not None, f"{firing} was never scheduled, and fired"
        assert len(self.client.ids[firing]) == 1, f"{firing} fired with {len(self.client.ids[firing])} ids"
        for event in events:
            assert event == events[0], f"{firing} fired with two contents"
        event = events[0]
        assert event.fired_at >= event.due_at, f"{firing} fired early"
        told = event.owner, event.due_at, event.payload, event.order_id
        assert told == (command.owner, command.due_at, command.payload, command.order_id), firing

    def _command(self, key: Key) -> TimerScheduled | TimerCancelled:
        known = key.version if key.commands else 0
        version = max(1, known + self.random.choice((-1, 0, 1, 1, 1, 2)))
        order_id = key.name.partition(":")[2]
        if self.random.random() < 0.3:
            return TimerCancelled(timer_key=key.name, version=version, order_id=order_id)
        due_in_s = self.random.choice(
            (-5.0, 0.0, 0.5, 2.0, 2.0, 2.0, self.random.uniform(0, self.last_due_s))
        )
        due_at = datetime.now(UTC) + timedelta(seconds=due_in_s + self.clock_ahead_s)
        return TimerScheduled(
            timer_key=key.name,
            version=version,
            owner=self.random.choice(OWNERS),
            due_at=to_milliseconds(due_at),
            payload={"number": self.random.randrange(1000)},
            order_id=order_id,
        )
