"""What the rigs of the services share: a service's own database and topics on the run's servers, and users' tokens."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import jwt
from aiokafka.admin import NewTopic

from deploy.local.stack import LocalStack
from weelo_common.events.topics import Topic
from weelo_common.kafka import KafkaClients
from weelo_common.migrate import migrate
from weelo_common.postgres import Database
from weelo_common.settings import RedisSettings, ServiceSettings

SESSION_TIMEOUT_S = 6  # the brokers' least: a group must not wait long for a member that a test killed
TOKEN_LIFETIME_S = 600
# Deadlines of a service's own, long enough that no stall of the machine ends what a test waits for: it has patience of
# its own. A test of such a deadline sets that, or all of them to ``AS_DEPLOYED``.
UNHURRIED: Mapping[str, float] = {
    "http_request_deadline_s": 15.0,
    "postgres_connect_deadline_s": 15.0,
    "postgres_acquire_deadline_s": 15.0,
    "postgres_statement_timeout_s": 15.0,
    "postgres_lock_timeout_s": 15.0,
    "postgres_idle_in_transaction_timeout_s": 60.0,
    "redis_deadline_s": 15.0,
}
# Nothing here speaks TLS, and reading the machine's certificates takes longer than many a test.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Deadlines(ServiceSettings, RedisSettings):
    """Whatever has one of these deadlines."""


AS_DEPLOYED: Mapping[str, float] = {name: _Deadlines.model_fields[name].default for name in UNHURRIED}
"""The services' defaults of the deadlines in ``UNHURRIED``."""


@dataclass(frozen=True)
class ServiceHome:
    """Where a module's replicas of one service live. ``values`` are those of its settings."""

    stack: LocalStack
    values: dict[str, Any]
    prefix: str

    def environment(self) -> dict[str, str]:
        """The settings as a process of its own gets them."""
        return {name.upper(): str(value) for name, value in self.values.items()}

    def token(self, role: str, user_id: str, **claims: str) -> str:
        """A user's token, good for ten minutes."""
        payload = {
            "sub": user_id,
            "role": role,
            "iss": "weelo",
            "aud": "weelo-apps",
            "exp": time.time() + TOKEN_LIFETIME_S,
        }
        return jwt.encode(payload | claims, self.stack.keys.user_key, algorithm="RS256")


HomeT = TypeVar("HomeT", bound=ServiceHome)


@contextlib.contextmanager
def service_home(
    make: Callable[[LocalStack, dict[str, Any], str], HomeT],
    stack: LocalStack,
    service: str,
    topics: Collection[Topic],
    **own: Any,
) -> Iterator[HomeT]:
    """A migrated database and fresh topics of one service with those of its dead letters, gone at the end.

    ``own`` adds to the settings that every service has, or replaces some.
    """
    prefix = f"{service[:2]}{uuid4().hex[:6]}_"
    values: dict[str, Any] = {
        "postgres_dsn": stack.provision(prefix)[service],
        "redis_url": stack.servers.redis_url,
        "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
        "kafka_producer_idempotence": stack.servers.kafka_idempotence,
        "kafka_topic_prefix": prefix.replace("_", "."),
        "kafka_session_timeout_s": SESSION_TIMEOUT_S,
        "jwt_public_key_file": stack.keys.jwt_public,
        "http_port": 0,
        **UNHURRIED,
        **own,
    }
    settings = ServiceSettings.model_validate(values)
    kafka = KafkaClients(settings, client_id="test")
    dead = [topic.dlq(service) for topic in topics if service in topic.groups]
    names = {kafka.topic_name(topic): topic.partitions for topic in (*topics, *dead)}
    try:
        asyncio.run(_prepare(settings, kafka, names, service.replace("-", "_")))
        yield make(stack, values, prefix)
    finally:
        # A broker that keeps thousands of partitions of tests runs out of memory.
        asyncio.run(_delete_topics(kafka, names))
        stack.remove(prefix)


async def _prepare(
    settings: ServiceSettings, kafka: KafkaClients, names: Mapping[str, int], package: str
) -> None:
    async with kafka.admin() as admin:
        await admin.create_topics([NewTopic(name, partitions, 1) for name, partitions in names.items()])
    async with (
        Database.open(settings, application_name="test") as database,
        database.connection() as connection,
    ):
        await migrate(connection, ["weelo_common", package])


async def _delete_topics(kafka: KafkaClients, names: Mapping[str, int]) -> None:
    async with kafka.admin() as admin:
        await admin.delete_topics(list(names))
