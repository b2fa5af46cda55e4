"""The job that creates the topics: ``python -m weelo_common.topics``. Brokers create none by themselves.

It adds what is missing and touches nothing that is there: a topic whose partitions differ from the declaration is
named and refused, because another partition count would break the order per key.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from weelo_common.events.topics import Topic, declared_topics
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.settings import KafkaSettings, load
from weelo_common.telemetry import configure_logging

log = logging.getLogger(__name__)

PATIENCE_S = 60.0  # how long the job waits for brokers that are still starting
RETRY_PAUSE_S = 0.5
REQUEST_MS = 30_000  # creating many topics may take a small broker a while


class TopicsDiffer(Exception):
    """Topics stand with another number of partitions than declared."""


async def create_topics(kafka: KafkaClients, *, replication_factor: int) -> list[str]:
    """Create the topics that are missing and return their names.

    Raises:
        TopicsDiffer: a topic has other partitions than declared.
        KafkaUnavailable: the brokers did not answer.
    """
    wanted = {kafka.topic_name(topic): topic for topic in declared_topics()}
    async with kafka.admin() as admin:
        try:
            present = {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}
            wrong = [
                f"{name} has {present[name]} partitions, not {topic.partitions}"
                for name, topic in wanted.items()
                if name in present and present[name] != topic.partitions
            ]
            if wrong:
                raise TopicsDiffer("; ".join(wrong))
            missing = {name: topic for name, topic in wanted.items() if name not in present}
            if missing:
                answer = await admin.create_topics(
                    [_new_topic(name, topic, replication_factor) for name, topic in missing.items()],
                    timeout_ms=REQUEST_MS,
                )
                for name, code, *rest in answer.topic_errors:
                    error = for_code(code)
                    if code and error is not TopicAlreadyExistsError:
                        raise KafkaUnavailable(f"{name}: {error.__name__} {' '.join(map(str, rest))}")
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error
    return sorted(missing)


def _new_topic(name: str, topic: Topic, replication_factor: int) -> NewTopic:
    return NewTopic(
        name=name,
        num_partitions=topic.partitions,
        replication_factor=replication_factor,
        topic_configs={"retention.ms": str(topic.retention_ms), "cleanup.policy": "delete"},
    )


async def _run(settings: KafkaSettings) -> None:
    kafka = KafkaClients(settings, client_id="weelo-topics")
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            created = await create_topics(kafka, replication_factor=settings.kafka_replication_factor)
        except KafkaUnavailable as error:
            if time.monotonic() > give_up_at:
                raise
            log.warning("Topics job waits for Kafka", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            log.info("Topics are as declared", extra={"topicsCreated": created})
            return


def main() -> None:
    """Create what is missing; exit 1 with one line where that cannot be."""
    settings = load(KafkaSettings)
    configure_logging("topics", "INFO")
    try:
        asyncio.run(_run(settings))
    except (TopicsDiffer, KafkaUnavailable) as error:
        sys.exit(f"topics: {error}")


if __name__ == "__main__":
    main()
