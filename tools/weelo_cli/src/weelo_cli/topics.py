"""``weelo topics check`` and ``weelo topics apply``: the topics on the brokers against the one topics file.

Exit codes: 0 all is as declared, 1 it is not (or a change was refused), 2 a bad setting or argument, 3 the brokers
did not answer.
"""

from __future__ import annotations

from typing import Any

import typer

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import EXIT_NOT_WELL, Answer, Json, Refused, Yes, preview, run
from weelo_common.events.topics import Topic
from weelo_common.topics import (
    Applied,
    Cluster,
    Difference,
    Kind,
    TopicsDiffer,
    apply_topics,
    differences,
    look,
    wanted_topics,
    warnings,
)

app = typer.Typer(help="The Kafka topics, as declared in one file.", no_args_is_help=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Say where the brokers' topics differ from the declaration. Changes nothing; exits 1 where they do.

    Example: KAFKA_BOOTSTRAP_SERVERS=kafka:9092 weelo topics check
    """
    run(_check(), as_json)


@app.command()
def apply(yes: Yes = False, as_json: Json = False) -> None:
    """Create what is missing and change retention. Refuses, and changes nothing, where partitions differ.

    Example: weelo topics apply --yes
    """
    run(_apply(yes), as_json)


async def _check() -> Answer:
    kafka = Surroundings.found().kafka()
    wanted = wanted_topics(kafka)
    cluster = await look(kafka)
    found = differences(wanted, cluster.topics)
    lines: list[str] = []
    for name, topic in wanted.items():
        mine = [str(one) for one in found if one.name == name]
        count = f"{topic.partitions} partition{'' if topic.partitions == 1 else 's'}"
        lines += mine or [f"{name} is as declared ({count})"]
    _warn(warnings(cluster))
    return Answer(checked(wanted, cluster, found), lines, EXIT_NOT_WELL if found else 0)


async def _apply(yes: bool) -> Answer:
    surroundings = Surroundings.found()
    kafka = surroundings.kafka()
    if not yes:
        return await _would_apply(wanted_topics(kafka), await look(kafka))
    try:
        done = await apply_topics(
            kafka, replication_factor=surroundings.kafka_settings().kafka_replication_factor
        )
    except TopicsDiffer as error:
        raise _refused(str(error)) from None
    lines = [*(f"created {name}" for name in done.created), *(f"changed {name}" for name in done.changed)]
    _warn(done.warnings)
    return Answer(applied(done), lines or ["all topics are as declared"])


async def _would_apply(wanted: dict[str, Topic], cluster: Cluster) -> Answer:
    found = differences(wanted, cluster.topics)
    if partitions := [str(one) for one in found if one.kind is Kind.PARTITIONS]:
        raise _refused("; ".join(partitions))
    if not found:
        return Answer({"done": False, "would": {}}, ["all topics are as declared"])
    would = {
        "create": sorted(one.name for one in found if one.kind is Kind.MISSING),
        "change": sorted({one.name for one in found if one.kind is Kind.SETTING}),
    }
    lines = [f"would {what} {name}" for what, names in would.items() for name in names]
    return preview(would, lines)


def _refused(why: str) -> Refused:
    return Refused(
        f"refused, nothing was changed: {why}. Another number of partitions would send a key's new events "
        "elsewhere than its old ones: make a topic of the next version instead."
    )


def checked(wanted: dict[str, Topic], cluster: Cluster, found: list[Difference]) -> dict[str, Any]:
    """What ``check --json`` answers."""
    return {
        "asDeclared": not found,
        "topics": [
            {
                "name": name,
                "present": name in cluster.topics,
                "differences": [
                    {"what": one.what, "declared": one.declared, "standing": one.standing}
                    for one in found
                    if one.name == name and one.kind is not Kind.MISSING
                ],
            }
            for name in wanted
        ],
        "warnings": list(warnings(cluster)),
    }


def applied(done: Applied) -> dict[str, Any]:
    """What ``apply --json`` answers."""
    return {
        "applied": True,
        "created": list(done.created),
        "changed": list(done.changed),
        "warnings": list(done.warnings),
    }


def _warn(found: tuple[str, ...]) -> None:
    for one in found:
        typer.echo(f"warning: {one}", err=True)
