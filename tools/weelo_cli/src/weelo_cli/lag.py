"""``weelo lag``: how far each consumer group is behind. Reads only."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import Answer, BadInput, Json, run
from weelo_cli.reading import TopicReader, open_reader
from weelo_common.events.topics import ALL_TOPICS, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable

Group = Annotated[str | None, typer.Option(help="One group alone; any team's, by its name on the brokers.")]


def lag(group: Group = None, as_json: Json = False) -> None:
    """How many records each consumer group has not handled yet, by topic and partition.

    Example: weelo lag --group dispatcher
    """
    run(_lag(group), as_json)


async def _lag(group: str | None) -> Answer:
    kafka = Surroundings.found().kafka()
    declared = {kafka.group_name(name) for topic in ALL_TOPICS for name in topic.groups}
    names = sorted(declared) if group is None else [kafka.group_name(group)]
    rows: list[dict[str, Any]] = []
    async with open_reader(kafka) as reader:
        for name in names:
            rows += await _lag_of(kafka, reader, name, ours=name in declared)
    if not rows:
        raise BadInput(f"group {group} has committed nothing on the declared topics")
    lines = [
        f"{row['group']:<16} {row['topic']:<22} {row['lag']:>8} behind"
        + (f"  (most: {row['worst']['lag']} on partition {row['worst']['partition']})" if row["lag"] else "")
        for row in rows
    ]
    return Answer({"groups": rows}, lines)


async def _lag_of(
    kafka: KafkaClients, reader: TopicReader, group: str, *, ours: bool
) -> list[dict[str, Any]]:
    """One row a topic. Of a group that is not ours only the topics it has committed on."""
    rows: list[dict[str, Any]] = []
    for topic in ALL_TOPICS:
        expected = ours and group in {kafka.group_name(name) for name in topic.groups}
        committed = await committed_offsets(kafka, reader, group, topic)
        if not (expected or committed):
            continue
        pairs = reader.partitions(topic)
        starts, ends = await reader.beginnings(pairs), await reader.ends(pairs)
        partitions = [
            {
                "partition": pair.partition,
                "committed": committed.get(pair),
                "end": ends[pair],
                "lag": max(0, ends[pair] - max(starts[pair], committed.get(pair, 0))),
            }
            for pair in pairs
        ]
        rows.append(
            {
                "group": group,
                "topic": topic.name,
                "lag": sum(one["lag"] or 0 for one in partitions),
                "worst": max(partitions, key=lambda one: one["lag"] or 0),
                "partitions": partitions,
            }
        )
    return rows


async def committed_offsets(
    kafka: KafkaClients, reader: TopicReader, group: str, topic: Topic
) -> dict[TopicPartition, int]:
    """What a group, by its name on the brokers, has committed on a topic; partitions without a word are left out.

    Raises:
        KafkaUnavailable: the brokers do not answer.
    """
    async with kafka.admin() as admin:
        try:
            answer = await asyncio.wait_for(
                admin.list_consumer_group_offsets(group, partitions=reader.partitions(topic)),
                kafka.deadline_s,
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"offsets of {group}: {error}") from error
    return {pair: found.offset for pair, found in answer.items() if found.offset >= 0}
