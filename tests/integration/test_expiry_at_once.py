"""Timer commands by one statement, inbox row and all, on a real PostgreSQL, beside the transaction it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from expiry.consumers import at_once, handlers
from expiry.handlers import Handlers
from expiry.metrics import ExpiryMetrics
from expiry.store import TimerStore
from tests.integration.expiry_rig import TRACEPARENT, expiry_database, settings_for
from weelo_common import parking
from weelo_common.consumer import ConsumerMetrics
from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import AtOnce
from weelo_common.events import Event, decode, encode, seal
from weelo_common.events.timers import MAX_HORIZON_DAYS, TimerCancelled, TimerScheduled
from weelo_common.events.topics import EXPIRY
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.migrate import migrate
from weelo_common.parking import Record
from weelo_common.partition_worker import EventProcessor
from weelo_common.postgres import Database
from weelo_common.settings import KafkaSettings

OUTCOMES = ("applied", "duplicate", "ignored", "parked", "dead")
SELECT_TIMERS = """
SELECT split_part(timer_key, ':', 1) AS key, version, partition, state, owner, due_at, payload::text, order_id,
       traceparent
  FROM timers WHERE timer_key LIKE '%:' || $1 ORDER BY 1
"""
SELECT_INBOX = "SELECT day, consumer, event_id FROM inbox WHERE event_id LIKE '%' || $1 ORDER BY 3"
MARK = "INSERT INTO parked_key (consumer, key, reason) VALUES ('expiry', $1, 'test')"
COUNT_PARKED = "SELECT count(*) FROM parked WHERE key = $1"
# Whose transaction made a row: with one statement for both, the timer's row and the inbox's have the same.
SAME_TRANSACTION = """
SELECT (SELECT xmin FROM timers WHERE timer_key = $1)::text = (SELECT xmin FROM inbox WHERE event_id = $2)::text
"""


@dataclass
class Side:
    """Expiry's commands on one database, in one of the two ways; keys and ids of its own by a suffix."""

    database: Database
    settings: KafkaSettings
    how: dict[type[Event], AtOnce] | None
    suffix: str = field(default_factory=lambda: uuid4().hex[:8])
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    noted: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        commands = Handlers(store=TimerStore(), note=self._note, metrics=ExpiryMetrics(self.registry))
        self._processor = EventProcessor(
            EXPIRY,
            handlers(commands),
            self.database,
            DeadLetters(KafkaClients(self.settings, client_id="test"), EXPIRY),
            ConsumerMetrics(self.registry),
            lambda event: True,
            at_once(commands) if self.how is None else self.how,
        )

    def _note(self, partition: int, timer_id: int, due_ms: int, delay_ms: int) -> None:
        self.noted.append((partition, due_ms, delay_ms))

    async def take(self, event: Event, event_id: str | None = None, *, ended: bool = False) -> bool:
        """Take an event to its end; false where it would be tried again and ``ended`` says not to."""
        envelope = seal(event, source="test", time=MOMENT, event_id=f"{event_id or new_id()}-{self.suffix}")
        headers, value = encode(envelope, TRACEPARENT)
        record = Record(event.TOPIC, 3, 0, event.key().encode(), tuple(headers), value, MOMENT)
        assert decode(record.topic, record.key, record.headers, record.value).event == event
        stop = asyncio.Event()
        if ended:
            stop.set()
        return await self._processor.process(record, stop)

    def scheduled(self, name: str, version: int, due_at: datetime) -> TimerScheduled:
        return TimerScheduled(
            timer_key=f"{name}:{self.suffix}",
            version=version,
            owner="order-api",
            due_at=due_at,
            payload={"wave": version},
            order_id="o-1",
        )

    def cancelled(self, name: str, version: int) -> TimerCancelled:
        return TimerCancelled(timer_key=f"{name}:{self.suffix}", version=version, order_id="o-1")

    async def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        async with self.database.connection() as connection:
            return [tuple(row) for row in await connection.fetch(sql, *arguments)]

    def counted(self) -> dict[str, float]:
        name = "weelo_consumer_{}_total"
        return {
            outcome: self.registry.get_sample_value(name.format(outcome), {"consumer": EXPIRY}) or 0
            for outcome in OUTCOMES
        }

    def commands(self) -> dict[tuple[str, str], float]:
        return {
            (command, outcome): self.registry.get_sample_value(
                "weelo_expiry_commands_total", {"command": command, "outcome": outcome}
            )
            or 0
            for command in ("schedule", "cancel")
            for outcome in ("applied", "ignored", "refused")
        }


MOMENT = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


@dataclass
class Both:
    """The way of the service, and the transaction."""

    at_once: Side
    transaction: Side


@pytest.fixture
async def both(stack: LocalStack, dsn: str) -> AsyncIterator[Both]:
    # Nobody listens there: a dead letter cannot be written.
    settings = settings_for(stack, dsn, kafka_bootstrap_servers="127.0.0.1:1")
    async with Database.open(settings, application_name="test") as database:
        async with database.connection() as connection:
            await migrate(connection, ["weelo_common", "expiry"])
        yield Both(Side(database, settings, None), Side(database, settings, {}))


async def test_any_history_of_commands_ends_as_it_does_in_transactions(both: Both) -> None:
    dice = Random(7)
    sides = (both.at_once, both.transaction)
    sent: list[tuple[str, str, int, datetime]] = []
    for number in range(150):
        name, version = dice.choice("abcdef"), dice.randint(1, 6)
        kind = dice.choice(("schedule", "schedule", "cancel"))
        sent.append((kind, name, version, MOMENT + timedelta(seconds=dice.randint(-60, 600))))
        again = dice.randrange(len(sent)) if dice.random() < 0.2 else number
        kind, name, version, due_at = sent[again]
        for side in sides:
            make = (
                side.cancelled(name, version) if kind == "cancel" else side.scheduled(name, version, due_at)
            )
            await side.take(make, f"{again:04}")
    one, other = [(await side.rows(SELECT_TIMERS, side.suffix)) for side in sides]
    assert one == other
    noted_at_once, noted = [await side.rows(SELECT_INBOX, side.suffix) for side in sides]
    assert [row[2][:4] for row in noted_at_once] == [row[2][:4] for row in noted]
    assert {row[:2] for row in noted_at_once} == {(MOMENT.date(), EXPIRY)}
    assert both.at_once.counted() == both.transaction.counted()
    assert both.at_once.commands() == both.transaction.commands()
    assert both.at_once.noted == both.transaction.noted
    told = both.at_once.counted()
    assert min(told["applied"], told["ignored"], told["duplicate"]) > 0


async def test_the_timer_and_its_inbox_row_are_of_one_transaction(both: Both) -> None:
    side = both.at_once
    await side.take(side.scheduled("one", 1, MOMENT), "e")
    assert await side.rows(SAME_TRANSACTION, f"one:{side.suffix}", f"e-{side.suffix}") == [(True,)]


async def test_a_command_of_a_parked_key_waits_behind_it(both: Both) -> None:
    side = both.at_once
    async with side.database.transaction() as connection:
        await connection.execute(MARK, "o-1")
    try:
        await side.take(side.scheduled("later", 1, MOMENT))
        await side.take(side.cancelled("later", 1))
        assert await side.rows(SELECT_TIMERS, side.suffix) == []
        assert await side.rows(COUNT_PARKED, "o-1") == [(2,)]
    finally:
        async with side.database.transaction() as connection:
            await connection.execute(parking.LIFT_MARK, EXPIRY, "o-1")
    assert side.counted()["parked"] == 2


async def test_what_is_due_beyond_the_horizon_leaves_nothing_until_its_dead_letter_is_written(
    both: Both,
) -> None:
    side = both.at_once
    too_far = side.scheduled("far", 1, datetime.now(UTC) + timedelta(days=MAX_HORIZON_DAYS, minutes=5))
    assert not await side.take(too_far, "far", ended=True)
    assert await side.rows(SELECT_TIMERS, side.suffix) == []
    assert await side.rows(SELECT_INBOX, side.suffix) == []
    assert side.commands()["schedule", "refused"] == 1
    near = side.scheduled("far", 1, datetime.now(UTC) + timedelta(days=MAX_HORIZON_DAYS, minutes=-5))
    assert await side.take(near)
    assert side.commands()["schedule", "applied"] == 1
