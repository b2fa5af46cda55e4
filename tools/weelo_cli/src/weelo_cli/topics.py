"""``weelo topics check`` and ``weelo topics apply``: the topics on the brokers against the one topics file.

Exit codes: 0 all is as declared, 1 it is not (or a change was refused), 2 a bad setting or argument, 3 the brokers
did not answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from weelo_common.events.topics import Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.settings import KafkaSettings, load
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

EXIT_DIFFERENT = 1
EXIT_BAD_SETTING = 2
EXIT_UNAVAILABLE = 3

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]

app = typer.Typer(help="The Kafka topics, as declared in one file.", no_args_is_help=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Say where the brokers' topics differ from the declaration. Changes nothing; exits 1 where they do."""
    kafka = KafkaClients(_settings(), client_id="weelo-cli")
    wanted = wanted_topics(kafka)
    cluster = _run(look(kafka), as_json)
    found = differences(wanted, cluster.topics)
    told = warnings(cluster)
    if as_json:
        _print_json(checked(wanted, cluster, found))
    else:
        for name, topic in wanted.items():
            mine = [str(one) for one in found if one.name == name]
            count = f"{topic.partitions} partition{'' if topic.partitions == 1 else 's'}"
            typer.echo("\n".join(mine) if mine else f"{name} is as declared ({count})")
        _warn(told)
    if found:
        raise typer.Exit(EXIT_DIFFERENT)


@app.command()
def apply(as_json: Json = False) -> None:
    """Create what is missing and change retention. Refuses, and changes nothing, where partitions differ."""
    settings = _settings()
    kafka = KafkaClients(settings, client_id="weelo-cli")
    try:
        done = _run(apply_topics(kafka, replication_factor=settings.kafka_replication_factor), as_json)
    except TopicsDiffer as error:
        if as_json:
            _print_json({"applied": False, "refused": str(error)})
        typer.echo(
            f"refused, nothing was changed: {error}. Another number of partitions would send a key's new events "
            "elsewhere than its old ones: make a topic of the next version instead.",
            err=True,
        )
        raise typer.Exit(EXIT_DIFFERENT) from None
    if as_json:
        _print_json(applied(done))
    else:
        for name in done.created:
            typer.echo(f"created {name}")
        for name in done.changed:
            typer.echo(f"changed {name}")
        if not (done.created or done.changed):
            typer.echo("all topics are as declared")
        _warn(done.warnings)


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


def _settings() -> KafkaSettings:
    try:
        return load(KafkaSettings)
    except SystemExit as error:  # the services' way to stop; a bad setting must not look like a difference
        typer.echo(error.code, err=True)
        raise typer.Exit(EXIT_BAD_SETTING) from None


def _run(work: Coroutine[Any, Any, T], as_json: bool) -> T:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, we say below
    try:
        return asyncio.run(work)
    except KafkaUnavailable as error:
        if as_json:
            _print_json({"error": f"Kafka is not available: {error}"})
        typer.echo(f"Kafka is not available: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None


def _print_json(answer: dict[str, Any]) -> None:
    typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))


def _warn(found: tuple[str, ...]) -> None:
    for one in found:
        typer.echo(f"warning: {one}", err=True)
