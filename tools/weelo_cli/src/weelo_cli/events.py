"""``weelo events tail|replay``: look at events as they are, and hand a group old ones again."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer
from aiokafka import TopicPartition

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import STREAMED, Answer, BadInput, Json, Refused, Yes, json_text, preview, run
from weelo_cli.dispatch import order_id_of
from weelo_cli.moments import moment_of
from weelo_cli.reading import TopicReader, open_reader
from weelo_cli.redaction import shown_event, shown_raw
from weelo_cli.replay import Plan, carry_out, make_plan
from weelo_common.clock import format_time
from weelo_common.events import MalformedEvent, decode
from weelo_common.events.topics import (
    CAPTAINS_LOCATIONS,
    CAPTAINS_STATE,
    DISPATCH_OFFERS,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    Topic,
)
from weelo_common.parking import Record

ORDER_TOPICS = (ORDERS_EVENTS, DISPATCH_OFFERS, TIMERS_COMMANDS, TIMERS_FIRED)
TOPICS = {topic.name: topic for topic in (*ORDER_TOPICS, CAPTAINS_STATE)}
MOST = 100_000  # events that a tail holds in memory to put them in order

app = typer.Typer(help="The events in Kafka.", no_args_is_help=True)

TopicsOption = Annotated[
    list[str] | None, typer.Option("--topic", help=f"Of {', '.join(TOPICS)}; default: all but the last.")
]
TypeOption = Annotated[
    str | None, typer.Option("--type", help="A ce_type, or a pattern: 'weelo.order.*', '*expired*'.")
]
OrderOption = Annotated[str | None, typer.Option("--order", help="Of this order alone; found at once.")]
Since = Annotated[str, typer.Option("--since", help="10m, 2h, 3d (ago), an RFC 3339 time, or beginning.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MOST, help="The last so many, at most.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events, until Ctrl-C.")]
GroupOption = Annotated[str, typer.Option("--group", help="The consumer group, without KAFKA_TOPIC_PREFIX.")]
From = Annotated[
    str, typer.Option("--from", help="Where to go back to: a time like --since of weelo events tail.")
]
To = Annotated[
    str | None,
    typer.Option("--to", help="For a service's group: events up to here are applied again; default: all."),
]


@app.command()
def tail(
    topics: TopicsOption = None,
    event_type: TypeOption = None,
    order: OrderOption = None,
    since: Since = "10m",
    limit: Limit = 1000,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """Show events, decoded, in the order of their arrival; with --json one JSON document a line. Reads only.

    Ids, numbers and states are shown; addresses, places, number plates, tokens and free text are hidden.

    Example: weelo events tail --order 0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e --since beginning
    """
    run(_tail(topics or [], event_type, order, since, limit, follow, as_json), as_json)


@app.command()
def replay(
    group: GroupOption,
    start: From,
    end: To = None,
    topics: TopicsOption = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Move a consumer group back, so that it gets events again. Its members must be stopped meanwhile.

    A service's group forgets that it handled the events from --from up to --to, and so applies them again; versions
    keep an old event from undoing a newer one. Repeats after --to do nothing. Another team's group simply gets
    everything from --from on, once more.

    Example: weelo events replay --group notifier --from 2026-02-03T10:00:00Z --to 2026-02-03T10:05:00Z
    """
    run(_replay(group, start, end, topics or [], yes), as_json)


async def _tail(
    names: list[str],
    event_type: str | None,
    order: str | None,
    since: str,
    limit: int,
    follow: bool,
    as_json: bool,
) -> Answer:
    topics = [_topic(name) for name in names] or list(ORDER_TOPICS)
    key = None if order is None else order_id_of(order)
    begin = moment_of(since, "--since", datetime.now(UTC))
    kafka = Surroundings.found().kafka()
    async with open_reader(kafka) as reader:
        start: dict[TopicPartition, int] = {}
        end: dict[TopicPartition, int] = {}
        newest: list[tuple[datetime, str, int, int, dict[str, Any]]] = []
        for topic in topics:
            pairs = reader.partitions(topic) if key is None else [reader.partition_of(topic, key)]
            starts, ends = await reader.offsets_at(pairs, begin), await reader.ends(pairs)
            start |= starts
            end |= ends
            async for record in reader.between(topic, starts, ends):
                if (found := _matching(record, event_type, key)) is not None:
                    place = (record.received_at, topic.name, record.partition, record.offset, found)
                    heapq.heappush(newest, place)
                    if len(newest) > limit:
                        heapq.heappop(newest)
        for *_, found in sorted(newest, key=lambda place: place[:4]):
            _print(found, as_json)
        if follow:
            by_name = {kafka.topic_name(topic): topic for topic in topics}
            async for found in _new(reader, by_name, end, event_type, key):
                _print(found, as_json)
    return STREAMED


async def _new(
    reader: TopicReader,
    topics: Mapping[str, Topic],
    start: Mapping[TopicPartition, int],
    event_type: str | None,
    key: str | None,
) -> AsyncIterator[dict[str, Any]]:
    async for record in reader.follow(topics, start):
        if (found := _matching(record, event_type, key)) is not None:
            yield found


def _topic(name: str) -> Topic:
    if name == CAPTAINS_LOCATIONS.name:
        raise BadInput(f"{name} holds packed positions, where captains are, and no events")
    if name not in TOPICS:
        raise BadInput(f"no topic {name[:64]!r}: there are {', '.join(TOPICS)}")
    return TOPICS[name]


def _matching(record: Record, event_type: str | None, key: str | None) -> dict[str, Any] | None:
    if key is not None and record.key != key.encode():
        return None
    found = shown_record(record)
    if event_type is not None and not fnmatchcase(found["type"] or "", event_type):
        return None
    return found


def shown_record(record: Record) -> dict[str, Any]:
    """A record as an operator may see it, decoded where an event class fits."""
    shown: dict[str, Any] = {
        "topic": record.topic.name,
        "partition": record.partition,
        "offset": record.offset,
        "receivedAt": format_time(record.received_at),
    }
    try:
        envelope = decode(record.topic, record.key, record.headers, record.value)
    except MalformedEvent as error:
        return shown | {"type": None, "malformed": str(error), "data": shown_raw(record.value)}
    return shown | {
        "at": format_time(envelope.time),
        "type": envelope.type,
        "id": envelope.id,
        "key": envelope.key,
        "traceparent": envelope.traceparent,
        "data": shown_raw(record.value) if envelope.event is None else shown_event(envelope.event),
    }


def _print(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json_text(found))
        return
    what = found["type"] or f"malformed ({found['malformed']})"
    typer.echo(
        f"{found['receivedAt']} {found['topic']} {found['partition']}/{found['offset']} {what} "
        f"{json_text(found['data'])}"
    )


async def _replay(group: str, start: str, end: str | None, names: list[str], yes: bool) -> Answer:
    now = datetime.now(UTC)
    begin = moment_of(start, "--from", now)
    until = None if end is None else moment_of(end, "--to", now)
    if until is not None and until <= begin:
        raise BadInput("--to must come after --from")
    surroundings = Surroundings.found()
    kafka = surroundings.kafka()
    async with open_reader(kafka) as reader:
        plan = await make_plan(
            surroundings, kafka, reader, group, begin, until, [_topic(name) for name in names]
        )
    if not plan.back:
        raise Refused(f"group {group} has handled nothing from there on: there is nothing to move back")
    if not yes:
        return preview(plan.document(), plan.lines())
    _check_members(plan)
    await carry_out(surroundings, kafka, plan)
    return Answer(
        {"done": True, **plan.document()},
        [f"moved {group} back by {plan.records} records; start its members again"],
    )


def _check_members(plan: Plan) -> None:
    if plan.members:
        raise Refused(
            f"group {plan.group} has {plan.members} members, who would overwrite it: stop them first, all of them"
        )
