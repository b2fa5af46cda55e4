"""Brings the brokers' topics to what ``events/topics.py`` declares, and says where they differ.

``weelo topics check`` and ``weelo topics apply`` are this for people; ``python -m weelo_common.topics`` is the job that
applies it before the services start. What is missing is created and a setting that differs is changed. A topic whose
number of partitions differs is never touched, because another number would break the order per key: then nothing at
all is changed, and the topic is named.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from weelo_common.events.topics import Topic, declared_topics
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.settings import KafkaSettings, load
from weelo_common.telemetry import configure_logging

log = logging.getLogger(__name__)

PATIENCE_S = 60.0  # how long the job waits for brokers that are still starting
RETRY_PAUSE_S = 0.5
REQUEST_MS = 30_000  # creating many topics may take a small broker a while
BROKERS_DEFAULT = -1  # as a replication factor
AUTO_CREATION = "auto.create.topics.enable"
_SET_ON_THE_TOPIC = 1  # Kafka's config source DYNAMIC_TOPIC_CONFIG


class TopicsDiffer(Exception):
    """Topics stand with another number of partitions than declared; nothing was changed."""


class Kind(StrEnum):
    """How a topic can differ from its declaration."""

    MISSING = "missing"
    PARTITIONS = "partitions"
    SETTING = "setting"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which one topic differs; ``name`` is the topic's on these brokers."""

    name: str
    kind: Kind
    what: str
    declared: str
    standing: str | None

    def __str__(self) -> str:
        if self.kind is Kind.MISSING:
            return f"{self.name} is missing"
        if self.kind is Kind.PARTITIONS:
            return f"{self.name} has {self.standing} partitions, not {self.declared}"
        return f"{self.name} has {self.what}={self.standing}, not {self.declared}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A topic as it stands on the brokers. ``settings`` is None where they do not tell."""

    partitions: int
    settings: Mapping[str, str] | None
    overrides: Mapping[str, str] | None
    """Those of the settings that were set on the topic itself."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the brokers say. ``auto_creation`` is None where they do not tell."""

    topics: Mapping[str, Standing]
    auto_creation: bool | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done, by the topics' names on these brokers, and what to worry about."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    warnings: tuple[str, ...]


def declared_settings(topic: Topic) -> dict[str, str]:
    """The settings that we set on a topic, as Kafka writes them."""
    return {"retention.ms": str(topic.retention_ms), "cleanup.policy": "delete"}


def differences(wanted: Mapping[str, Topic], topics: Mapping[str, Standing]) -> list[Difference]:
    """Where the brokers' topics differ from the declared ones; topics that nobody declared are others' business."""
    found: list[Difference] = []
    for name, topic in wanted.items():
        standing = topics.get(name)
        if standing is None:
            found.append(Difference(name, Kind.MISSING, "topic", f"{topic.partitions} partitions", None))
            continue
        if standing.partitions != topic.partitions:
            found.append(
                Difference(
                    name, Kind.PARTITIONS, "partitions", str(topic.partitions), str(standing.partitions)
                )
            )
        if standing.settings is not None:
            found += [
                Difference(name, Kind.SETTING, setting, value, standing.settings.get(setting))
                for setting, value in declared_settings(topic).items()
                if standing.settings.get(setting) != value
            ]
    return found


def warnings(cluster: Cluster) -> tuple[str, ...]:
    """What an operator should know beyond the topics themselves."""
    found: list[str] = []
    if cluster.auto_creation:
        danger = "a misspelt name becomes a topic with the wrong partitions"
        found.append(f"the brokers create topics by themselves ({AUTO_CREATION}=true): {danger}; turn it off")
    if cluster.auto_creation is None:
        found.append(f"the brokers do not tell whether they create topics by themselves ({AUTO_CREATION})")
    if untold := sorted(name for name, standing in cluster.topics.items() if standing.settings is None):
        found.append(f"the brokers do not tell the settings of {', '.join(untold)}")
    return tuple(found)


def wanted_topics(kafka: KafkaClients) -> dict[str, Topic]:
    """The declared topics by their names on these brokers."""
    return {kafka.topic_name(topic): topic for topic in declared_topics()}


async def look(kafka: KafkaClients) -> Cluster:
    """Ask the brokers; changes nothing. Only declared topics are in the answer.

    Raises:
        KafkaUnavailable: they did not answer.
    """
    async with kafka.admin() as admin:
        try:
            return await _look(admin, wanted_topics(kafka))
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error


async def apply_topics(kafka: KafkaClients, *, replication_factor: int) -> Applied:
    """Create what is missing and change settings that differ.

    Raises:
        TopicsDiffer: a topic has another number of partitions than declared; nothing was changed.
        KafkaUnavailable: the brokers did not answer, or refused.
    """
    wanted = wanted_topics(kafka)
    async with kafka.admin() as admin:
        try:
            cluster = await _look(admin, wanted)
            found = differences(wanted, cluster.topics)
            if refused := [str(one) for one in found if one.kind is Kind.PARTITIONS]:
                raise TopicsDiffer("; ".join(refused))
            created = sorted(one.name for one in found if one.kind is Kind.MISSING)
            changed = sorted({one.name for one in found if one.kind is Kind.SETTING})
            if created:
                await _create(admin, {name: wanted[name] for name in created}, replication_factor)
            for name in changed:
                await _change(admin, name, wanted[name], cluster.topics[name])
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error
    return Applied(tuple(created), tuple(changed), warnings(cluster))


async def create_topics(kafka: KafkaClients, *, replication_factor: int) -> list[str]:
    """``apply_topics`` for callers to whom only the new topics matter; returns their names."""
    return list((await apply_topics(kafka, replication_factor=replication_factor)).created)


async def _look(admin: Any, wanted: Mapping[str, Topic]) -> Cluster:
    # All topics, because asking for a missing one by name would create it where brokers do that.
    there = {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}
    names = [name for name in wanted if name in there]
    settings = await _describe(admin, [ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    brokers = (await admin.describe_cluster())[
        "brokers"
    ]  # fails where it was no refusal: the brokers are away
    asked = [
        ConfigResource(ConfigResourceType.BROKER, broker["node_id"], {AUTO_CREATION: None})
        for broker in brokers
    ]
    told = [entries.get(AUTO_CREATION) for entries in (await _describe(admin, asked)).values()]
    known = [one[0] == "true" for one in told if one is not None]
    return Cluster(
        topics={name: _standing(there[name], settings.get(name)) for name in names},
        auto_creation=any(known) if known else None,
    )


def _standing(partitions: int, entries: Mapping[str, tuple[str, int]] | None) -> Standing:
    if entries is None:
        return Standing(partitions, None, None)
    return Standing(
        partitions,
        settings={name: value for name, (value, _) in entries.items()},
        overrides={name: value for name, (value, source) in entries.items() if source == _SET_ON_THE_TOPIC},
    )


async def _describe(admin: Any, resources: list[ConfigResource]) -> dict[str, dict[str, tuple[str, int]]]:
    """Value and source of each setting, by resource; a resource that the brokers do not tell of is absent.

    Some brokers refuse the question or hang up on it (Tansu does): topics must be creatable there all the same.
    """
    found: dict[str, dict[str, tuple[str, int]]] = {}
    if not resources:
        return found
    try:
        responses = await admin.describe_configs(resources)
    except KafkaError as error:
        log.debug("Settings are not told", extra={"reason": str(error)})
        return found
    for response in responses:
        for resource in response.to_object()["resources"]:
            entries = resource["config_entries"]
            if resource["error_code"] or not entries:
                continue
            found[resource["resource_name"]] = {
                entry["config_names"]: (entry["config_value"], entry["config_source"]) for entry in entries
            }
    return found


async def _create(admin: Any, missing: Mapping[str, Topic], replication_factor: int) -> None:
    answer = await admin.create_topics(
        [
            NewTopic(
                name=name,
                num_partitions=topic.partitions,
                replication_factor=replication_factor,
                # aiokafka takes -1, the brokers' own default, only beside an assignment, be it an empty one.
                replica_assignments={} if replication_factor == BROKERS_DEFAULT else None,
                topic_configs=declared_settings(topic),
            )
            for name, topic in missing.items()
        ],
        timeout_ms=REQUEST_MS,
    )
    for name, code, *rest in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise KafkaUnavailable(f"{name}: {error.__name__} {' '.join(map(str, rest))}")


async def _change(admin: Any, name: str, topic: Topic, standing: Standing) -> None:
    """Set what is declared. Kafka's request replaces all that was set on a topic, so the rest is sent again."""
    settings = {**(standing.overrides or {}), **declared_settings(topic)}
    for response in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, settings)]):
        for resource in response.to_object()["resources"]:
            if code := resource["error_code"]:
                raise KafkaUnavailable(f"{name}: {for_code(code).__name__} {resource['error_message'] or ''}")


async def _run(settings: KafkaSettings) -> None:
    kafka = KafkaClients(settings, client_id="weelo-topics")
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            done = await apply_topics(kafka, replication_factor=settings.kafka_replication_factor)
        except KafkaUnavailable as error:
            if time.monotonic() > give_up_at:
                raise
            log.warning("Topics job waits for Kafka", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            for warning in done.warnings:
                log.warning("Topics job warns", extra={"reason": warning})
            log.info(
                "Topics are as declared",
                extra={"topicsCreated": list(done.created), "topicsChanged": list(done.changed)},
            )
            return


def main() -> None:
    """Apply the declaration; exit 1 with one line where that cannot be."""
    settings = load(KafkaSettings)
    configure_logging("topics", "INFO")
    try:
        asyncio.run(_run(settings))
    except (TopicsDiffer, KafkaUnavailable) as error:
        sys.exit(f"topics: {error}")


if __name__ == "__main__":
    main()
