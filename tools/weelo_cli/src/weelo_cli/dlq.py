"""``weelo dlq list|show|retry|drop``: what a service could never handle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from weelo_cli.connections import SERVICES, Surroundings, known_service
from weelo_cli.conventions import Answer, BadInput, Json, Refused, Yes, json_text, preview, run
from weelo_cli.dead_letters import DeadLetter, dead_letter_topics, drop, read_dead_letters, send_again
from weelo_cli.reading import open_reader
from weelo_common.events.topics import ALL_TOPICS
from weelo_common.kafka import KafkaClients

app = typer.Typer(help="Dead letters: records that a service could never handle.", no_args_is_help=True)

TopicOption = Annotated[str | None, typer.Option("--topic", help="Of this topic alone.")]
GroupOption = Annotated[str | None, typer.Option("--group", help=f"Of one of {', '.join(SERVICES)}.")]
Settled = Annotated[bool, typer.Option("--settled", help="Also those that were retried or dropped.")]
TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic it stood in.")]
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The service that could not handle it.")]
OffsetArgument = Annotated[
    int | None, typer.Argument(metavar="OFFSET", min=0, help="Its offset, as weelo dlq list shows it.")
]
All = Annotated[bool, typer.Option("--all", help="Every open dead letter of this group on this topic.")]


@app.command("list")
def list_letters(
    topic: TopicOption = None, group: GroupOption = None, settled: Settled = False, as_json: Json = False
) -> None:
    """The open dead letters: where from, which event, and why. Reads only.

    Example: weelo dlq list --group expiry
    """
    run(_list(topic, group, settled), as_json)


@app.command()
def show(topic: TopicArgument, group: GroupArgument, offset: OffsetArgument, as_json: Json = False) -> None:
    """One dead letter with its body: ids, numbers and states; addresses, plates and tokens are hidden. Reads only.

    Example: weelo dlq show timers.commands.v1 expiry 0
    """
    run(_show(topic, group, offset), as_json)


@app.command()
def retry(
    topic: TopicArgument,
    group: GroupArgument,
    offset: OffsetArgument = None,
    all_letters: All = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put dead letters back into their topic, as they were. Every reader of that topic sees them once more.

    Those that handled the record already drop it by its ce_id. Repair what failed first. It comes later than newer
    events of its key; versions tell which is newer.

    Example: weelo dlq retry timers.commands.v1 expiry 0 --yes
    """
    run(_retry(topic, group, offset, all_letters, yes), as_json)


@app.command("drop")
def drop_letters(
    topic: TopicArgument,
    group: GroupArgument,
    offset: OffsetArgument = None,
    all_letters: All = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Say of dead letters that nobody will retry them; they leave the list, and the topic when its time is over.

    Example: weelo dlq drop timers.commands.v1 expiry --all --yes
    """
    run(_drop(topic, group, offset, all_letters, yes), as_json)


async def _list(topic: str | None, group: str | None, settled: bool) -> Answer:
    _check(topic, group)
    kafka = Surroundings.found().kafka()
    found: list[dict[str, Any]] = []
    async with open_reader(kafka) as reader:
        for source, name in dead_letter_topics(topic, group):
            letters = await read_dead_letters(reader, source, name)
            found += [one.document() for one in letters if settled or one.resolution is None]
    return Answer({"deadLetters": found}, [_line(one) for one in found] or ["no open dead letters"])


async def _show(topic: str, group: str, offset: int | None) -> Answer:
    (letter,) = await _chosen(Surroundings.found().kafka(), topic, group, offset, False, settled=True)
    document = letter.document() | {"body": letter.body()}
    return Answer(document, [_line(document), json_text(document["body"], indent=2)])


async def _retry(topic: str, group: str, offset: int | None, all_letters: bool, yes: bool) -> Answer:
    kafka = Surroundings.found().kafka()
    letters = await _chosen(kafka, topic, group, offset, all_letters)
    if cut := [one.record.offset for one in letters if one.is_truncated]:
        raise Refused(
            f"offset {cut[0]} is only part of a very large record: the whole stands in {topic}, while that is kept"
        )
    documents = [one.document() for one in letters]
    if not yes:
        readers = ", ".join(letters[0].source.groups)
        return preview(
            {"retry": documents},
            [
                *map(_line, documents),
                f"would put {len(letters)} back into {topic}; {readers} and other teams see them once more",
            ],
        )
    await send_again(kafka, letters)
    return Answer({"done": True, "retried": documents}, [f"put {len(letters)} back into {topic}"])


async def _drop(topic: str, group: str, offset: int | None, all_letters: bool, yes: bool) -> Answer:
    kafka = Surroundings.found().kafka()
    letters = await _chosen(kafka, topic, group, offset, all_letters)
    documents = [one.document() for one in letters]
    if not yes:
        return preview(
            {"drop": documents}, [*map(_line, documents), f"would drop {len(letters)} dead letters, for good"]
        )
    await drop(kafka, letters)
    return Answer({"done": True, "dropped": documents}, [f"dropped {len(letters)} dead letters"])


async def _chosen(
    kafka: KafkaClients,
    topic: str,
    group: str,
    offset: int | None,
    all_letters: bool,
    *,
    settled: bool = False,
) -> Sequence[DeadLetter]:
    """The dead letters that the arguments name.

    Raises:
        BadInput: they name none that could be.
        Refused: there is none, or it is settled.
    """
    _check(topic, group)
    if (offset is None) != all_letters:
        raise BadInput("name an OFFSET, or --all")
    pairs = dead_letter_topics(topic, group)
    if not pairs:
        raise BadInput(f"{group} does not read {topic}")
    async with open_reader(kafka) as reader:
        letters = await read_dead_letters(reader, *pairs[0])
    chosen = [one for one in letters if offset in (None, one.record.offset)]
    if not settled:
        done = [one for one in chosen if one.resolution is not None]
        if done and not all_letters:
            raise Refused(f"offset {offset} was {done[0].resolution} already")
        chosen = [one for one in chosen if one.resolution is None]
    if not chosen:
        raise Refused(
            f"no such dead letter of {group} on {topic}" if offset is not None else "no open dead letters"
        )
    return chosen


def _check(topic: str | None, group: str | None) -> None:
    names = [one.name for one in ALL_TOPICS if one.groups]
    if topic is not None and topic not in names:
        raise BadInput(f"no topic {topic[:64]!r} with dead letters: there are {', '.join(names)}")
    if group is not None:
        known_service(group)


def _line(one: dict[str, Any]) -> str:
    settled = f" [{one['resolution']}]" if one["resolution"] else ""
    return (
        f"{one['topic']} {one['group']} {one['offset']}{settled}: {one['type'] or 'no type'} "
        f"key {one['key']} at {one['at']:%Y-%m-%d %H:%M:%S}, from {one['from']}: {one['reason']}"
    )
