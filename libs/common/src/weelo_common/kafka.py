"""The one place that makes aiokafka objects, and beside ``record_batches``, ``tolerant_records`` and
``kafka_connections`` the only one that touches its private parts.

Every talk with a broker has a deadline: aiokafka's own ``stop()``, ``commit()`` and ``send_and_wait()`` wait for ever
when the brokers are away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from weelo_common import tolerant_records
from weelo_common.events.topics import Topic
from weelo_common.kafka_connections import closed_on_failure
from weelo_common.settings import KafkaSettings

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1024 * 1024  # the brokers' default for one batch
GOODBYE_S = 2.5  # of the last words to a broker; several fit into a service's shutdown, and none is needed
METADATA_MAX_AGE_MS = 30_000  # a topic made late is found within half a minute


class KafkaUnavailable(Exception):
    """The brokers did not answer within the deadline, or refused; the same work may succeed later."""


class KafkaClients:
    """Makes producers, consumers and admin clients with one set of settings."""

    def __init__(self, settings: KafkaSettings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id

    @property
    def deadline_s(self) -> float:
        """How long one talk with a broker may take."""
        return self._settings.kafka_request_deadline_s

    @property
    def join_deadline_s(self) -> float:
        """How long joining a group may take: the broker holds the answer until a dead member's session has ended."""
        return self._settings.kafka_session_timeout_s + self._settings.kafka_request_deadline_s

    def topic_name(self, topic: Topic) -> str:
        """The topic's name on these brokers."""
        return f"{self._settings.kafka_topic_prefix}{topic.name}"

    def group_name(self, group: str) -> str:
        """The consumer group's name on these brokers."""
        return f"{self._settings.kafka_topic_prefix}{group}"

    async def start_producer(self, *, linger_ms: int = 0) -> AIOKafkaProducer:
        """A producer that is connected.

        Raises:
            KafkaUnavailable: no broker answered within the deadline.
        """
        producer = AIOKafkaProducer(
            **self._connection(),
            acks="all",
            enable_idempotence=self._settings.kafka_producer_idempotence,
            compression_type="lz4",
            linger_ms=linger_ms,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=128 * 1024,
        )
        with closed_on_failure():
            try:
                await asyncio.wait_for(producer.start(), self.deadline_s)
            except (KafkaError, OSError, TimeoutError) as error:
                await self.drop_producer(producer)
                raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error
            except asyncio.CancelledError:
                await self.drop_producer(producer)
                raise
        return producer

    async def stop_producer(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer whose sends were all awaited; cuts it off where the brokers are away.

        aiokafka's ``stop()``, broken off, leaves a task that waits for ever for what is left to be sent.
        """
        with contextlib.suppress(KafkaError, OSError, TimeoutError):  # it is cut off
            await asyncio.wait_for(producer.flush(), GOODBYE_S)
        await self.drop_producer(producer)

    async def drop_producer(self, producer: AIOKafkaProducer) -> None:
        """End a producer without flushing what it still holds: the outbox sends that again, in order.

        aiokafka's ``stop()`` would flush first, so its sender is cancelled and its connections are closed here.
        """
        producer._closed = True  # else its __del__ warns
        sender_task: asyncio.Task[None] | None = producer._sender.sender_task
        if sender_task is not None:
            sender_task.cancel()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):  # it is thrown away
            await asyncio.wait_for(producer.client.close(), GOODBYE_S)
        _end_metadata_waits(producer.client)
        if sender_task is not None:
            await asyncio.wait([sender_task], timeout=GOODBYE_S)

    def consumer(self, *, group: str | None, fetch_max_wait_ms: int | None = None) -> AIOKafkaConsumer:
        """A consumer, not started: the caller subscribes or assigns. Offsets are committed by hand.

        A group that is new starts at the beginning of its topics. ``fetch_max_wait_ms`` is for who need not hear at
        once: so long a broker may hold a fetch that has nothing yet, instead of what the settings say.
        """
        tolerant_records.install()
        settings = self._settings
        session_ms = int(settings.kafka_session_timeout_s * 1000)
        return AIOKafkaConsumer(
            **self._connection(request_deadline_s=self.join_deadline_s),
            group_id=None if group is None else self.group_name(group),
            enable_auto_commit=False,  # the default commits what was fetched, handled or not
            auto_offset_reset="earliest",  # the default skips what was there before the group
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 5,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=300_000,
            max_poll_records=settings.kafka_max_poll_records,
            fetch_max_wait_ms=fetch_max_wait_ms or settings.kafka_fetch_max_wait_ms,
        )

    async def start_consumer(self, consumer: AIOKafkaConsumer) -> None:
        """Connect a consumer.

        Raises:
            KafkaUnavailable: no broker answered within the deadline; the consumer is closed.
        """
        with closed_on_failure():
            try:
                await asyncio.wait_for(consumer.start(), self.join_deadline_s)
            except (KafkaError, OSError, TimeoutError) as error:
                await self.stop_consumer(consumer)
                raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error
            except asyncio.CancelledError:
                await asyncio.shield(self.stop_consumer(consumer))
                raise

    async def start_consumer_unless(self, stop: asyncio.Event, consumer: AIOKafkaConsumer) -> bool:
        """Connect, unless the stop comes first: brokers that are away must not hold up a shutdown.

        Raises:
            KafkaUnavailable: as ``start_consumer``.
        """
        starting = asyncio.create_task(self.start_consumer(consumer))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait([starting])
        if starting.cancelled():
            return False
        await starting
        return True

    async def commit(
        self,
        consumer: AIOKafkaConsumer,
        offsets: Mapping[TopicPartition, int],
        deadline_s: float | None = None,
    ) -> None:
        """Commit offsets, within the deadline of a talk or an own one.

        Raises:
            KafkaError, TimeoutError: whether they are committed is not known.
        """
        try:
            await asyncio.wait_for(consumer.commit(dict(offsets)), deadline_s or self.deadline_s)
        except (TimeoutError, asyncio.CancelledError):
            # aiokafka shields the request itself, which goes on; how it fails is nobody's to see any more.
            for task in asyncio.all_tasks():
                if getattr(task.get_coro(), "__name__", "") == "_do_commit_offsets":
                    task.add_done_callback(_seen)
            raise

    async def stop_consumer(self, consumer: AIOKafkaConsumer) -> None:
        """Leave the group and close; where the brokers are away it is cut off, and the session's end says goodbye.

        A ``stop()`` that is broken off leaves its tasks running: the heartbeat would hold the partitions in the name
        of a member that reads nothing. So they are ended here.
        """
        try:
            await asyncio.wait_for(consumer.stop(), GOODBYE_S)
        except (KafkaError, OSError, TimeoutError):
            await self._cut_off(consumer)

    async def _cut_off(self, consumer: AIOKafkaConsumer) -> None:
        coordinator, fetcher = consumer._coordinator, consumer._fetcher
        tasks = {
            task
            for task in (
                getattr(coordinator, "_coordination_task", None),
                getattr(coordinator, "_heartbeat_task", None),
                getattr(coordinator, "_commit_refresh_task", None),
                getattr(coordinator, "_reset_committed_task", None),
                getattr(fetcher, "_fetch_task", None),
            )
            if task is not None and not task.done()
        }
        for task in tasks:
            task.cancel()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):  # it is thrown away
            await asyncio.wait_for(consumer._client.close(), GOODBYE_S)
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=GOODBYE_S)
            for task in done:
                _seen(task)

    @contextlib.asynccontextmanager
    async def admin(self) -> Any:
        """An admin client that is connected.

        Raises:
            KafkaUnavailable: no broker answered within the deadline.
        """
        client = AIOKafkaAdminClient(**self._connection())
        try:
            with closed_on_failure():
                await asyncio.wait_for(client.start(), self.deadline_s)
        except (KafkaError, OSError, TimeoutError) as error:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):  # it never started
                await asyncio.wait_for(client.close(), self.deadline_s)
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error
        try:
            yield client
        finally:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):  # nothing of ours hangs on it
                await asyncio.wait_for(client.close(), self.deadline_s)

    def _connection(self, request_deadline_s: float | None = None) -> dict[str, Any]:
        settings = self._settings
        deadline_s = request_deadline_s or self.deadline_s
        options: dict[str, Any] = {
            "bootstrap_servers": settings.kafka_bootstrap_servers,
            "client_id": self._client_id,
            "request_timeout_ms": int(deadline_s * 1000),
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
            "security_protocol": settings.kafka_security_protocol,
        }
        if settings.kafka_security_protocol.startswith("SASL"):
            password = settings.kafka_sasl_password
            options |= {
                "sasl_mechanism": settings.kafka_sasl_mechanism,
                "sasl_plain_username": settings.kafka_sasl_username,
                "sasl_plain_password": password.get_secret_value() if password else None,
            }
        if settings.kafka_security_protocol.endswith("SSL"):
            options["ssl_context"] = create_ssl_context(
                cafile=_text(settings.kafka_ssl_cafile),
                certfile=_text(settings.kafka_ssl_certfile),
                keyfile=_text(settings.kafka_ssl_keyfile),
            )
        return options


def _end_metadata_waits(client: Any) -> None:
    """Let go of who waits for news of the cluster: a client that was closed asks for none, and they would never end."""
    waited = client._md_update_fut
    if waited is not None and not waited.done():
        waited.set_result(False)
    client._md_update_fut = ended = asyncio.get_running_loop().create_future()
    ended.set_result(False)  # for who asks from now on


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended, so that the loop does not complain that nobody did."""
    if not task.cancelled():
        task.exception()


def _text(path: object | None) -> str | None:
    return None if path is None else str(path)
