"""Moves a consumer group back, and lets a service's inbox forget what it is to apply again.

First the inbox forgets, then the group is moved: a crash between the two changes nothing, for nothing is delivered
again yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.conventions import BadInput, Refused
from weelo_cli.lag import committed_offsets
from weelo_cli.reading import TopicReader
from weelo_common.events import MalformedEvent, decode
from weelo_common.events.topics import ALL_TOPICS, ORDERS_EVENTS, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable

MOST_EVENTS = 1_000_000  # that one replay lets a service forget; more is a restore from a backup
# What is parked waits for its own replay: a second row of it would be applied twice.
FORGET = """
DELETE FROM inbox USING unnest($2::date[], $3::text[]) AS again (day, event_id)
 WHERE inbox.day = again.day AND inbox.consumer = $1 AND inbox.event_id = again.event_id
   AND NOT EXISTS (SELECT FROM parked WHERE parked.consumer = $1 AND parked.event_id = inbox.event_id)
"""
COUNT_AGAIN = """
SELECT count(*) FILTER (WHERE NOT waits AND NOT queues) AS handled,
       count(*) FILTER (WHERE NOT waits AND queues) AS parked,
       count(*) FILTER (WHERE waits) AS waiting
  FROM (SELECT EXISTS (SELECT FROM parked
                        WHERE parked.consumer = $1 AND parked.event_id = again.event_id) AS waits,
               EXISTS (SELECT FROM parked_key
                        WHERE parked_key.consumer = $1 AND parked_key.key = again.key) AS queues
          FROM (SELECT DISTINCT * FROM unnest($2::text[], $3::text[]) AS event (event_id, key)) AS again
       ) AS counted
"""


@dataclass(frozen=True, slots=True)
class Again:
    """What becomes of events that come again, as things stand: applied, or put behind what is parked of their key, or
    dropped as repeats because they wait there already."""

    handled: int
    parked: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay would do. ``back`` holds the new position of each partition that moves, ``records`` by how much."""

    group: str
    topics: Sequence[str]
    members: int
    back: dict[TopicPartition, int]
    records: int
    forget: Sequence[tuple[date, str]]
    """What a service's inbox forgets: the day and the id of each event."""
    again: Again

    @property
    def is_service(self) -> bool:
        """Whether the group is one of our services', with an inbox."""
        return self.group in SERVICES

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "group": self.group,
            "topics": list(self.topics),
            "members": self.members,
            "partitions": len(self.back),
            "records": self.records,
            "handledAgain": self.again.handled,
            "parkedAgain": self.again.parked,
            "stillParked": self.again.waiting,
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"would move group {self.group} back by {self.records} records on {len(self.back)} partitions of "
            + ", ".join(self.topics)
        ]
        if self.is_service:
            lines.append(
                f"would let {self.group} apply {self.again.handled} of them again; the rest are repeats"
            )
        if self.again.parked or self.again.waiting:
            lines.append(
                f"but {self.again.parked} would be put behind what is parked of their keys, and "
                f"{self.again.waiting} wait there already (weelo parked list --service {self.group})"
            )
        if self.members:
            lines.append(f"but {self.group} has {self.members} members now: stop them first, all of them")
        return lines


async def make_plan(
    surroundings: Surroundings,
    kafka: KafkaClients,
    reader: TopicReader,
    group: str,
    begin: datetime,
    until: datetime | None,
    topics: Sequence[Topic],
) -> Plan:
    """Look at what a replay would do; changes nothing.

    Raises:
        BadInput: topics or a time that do not go with this group.
        Refused: it is too much.
        KafkaUnavailable: the brokers do not answer.
        asyncpg.PostgresError, OSError, TimeoutError: a service's PostgreSQL does not answer.
    """
    own = [topic for topic in ALL_TOPICS if group in topic.groups]
    if own and (foreign := [topic.name for topic in topics if topic not in own]):
        raise BadInput(f"{group} does not read {foreign[0]}")
    if not own and until is not None:
        raise BadInput("--to goes with a service's group alone: another team's group reads on to the end")
    chosen = list(topics) or own or [ORDERS_EVENTS]
    back: dict[TopicPartition, int] = {}
    records = 0
    found: list[Handled] = []
    for topic in chosen:
        committed = await committed_offsets(kafka, reader, kafka.group_name(group), topic)
        pairs = list(committed)
        starts = await reader.offsets_at(pairs, begin)
        moving = {pair: starts[pair] for pair in pairs if starts[pair] < committed[pair]}
        back |= moving
        records += sum(committed[pair] - offset for pair, offset in moving.items())
        if own:
            ends = dict(committed) if until is None else await reader.offsets_at(pairs, until)
            last = {pair: min(ends[pair], committed[pair]) for pair in moving}
            found += await _handled(reader, topic, moving, last)
            if len(found) > MOST_EVENTS:
                raise Refused(f"more than {MOST_EVENTS} events: choose a shorter time")
    return Plan(
        group,
        [topic.name for topic in chosen],
        await _members(kafka, group),
        back,
        records,
        [(one.day, one.event_id) for one in found],
        await _again(surroundings, group, found) if own else Again(records, 0, 0),
    )


async def carry_out(surroundings: Surroundings, kafka: KafkaClients, plan: Plan) -> None:
    """Do what the plan says. The group must have no members.

    Raises:
        KafkaUnavailable: the brokers do not answer, or refuse because the group has members again.
    """
    if plan.is_service and plan.forget:
        async with surroundings.changing(plan.group) as connection:
            await connection.execute(
                FORGET, plan.group, [day for day, _ in plan.forget], [event_id for _, event_id in plan.forget]
            )
    consumer = kafka.consumer(group=plan.group)
    await kafka.start_consumer(consumer)
    try:
        consumer.assign(list(plan.back))
        await asyncio.wait_for(consumer.commit(plan.back), kafka.deadline_s)
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailable(f"offsets of {plan.group}: {type(error).__name__}: {error}") from error
    finally:
        await kafka.stop_consumer(consumer)


@dataclass(frozen=True, slots=True)
class Handled:
    """An event that a service has had before, by its row in the inbox."""

    day: date
    event_id: str
    key: str


async def _handled(
    reader: TopicReader, topic: Topic, start: dict[TopicPartition, int], end: dict[TopicPartition, int]
) -> list[Handled]:
    """Each event between."""
    found: list[Handled] = []
    async for record in reader.between(topic, start, end):
        try:
            envelope = decode(topic, record.key, record.headers, record.value)
        except MalformedEvent:
            continue  # it is a dead letter, and in no inbox
        found.append(Handled(envelope.time.astimezone(UTC).date(), envelope.id, envelope.key))
    return found


async def _again(surroundings: Surroundings, service: str, found: Sequence[Handled]) -> Again:
    async with surroundings.reading(service) as connection:
        row = await connection.fetchrow(
            COUNT_AGAIN, service, [one.event_id for one in found], [one.key for one in found]
        )
    assert row is not None  # noqa: S101 - a SELECT of counts has one row
    return Again(row["handled"], row["parked"], row["waiting"])


async def _members(kafka: KafkaClients, group: str) -> int:
    async with kafka.admin() as admin:
        try:
            (answer,) = await asyncio.wait_for(
                admin.describe_consumer_groups([kafka.group_name(group)]), kafka.deadline_s
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"members of {group}: {type(error).__name__}: {error}") from error
    return sum(len(one["members"]) for one in answer.to_object()["groups"])
