"""The relay: publishes the outbox of one database to Kafka. Any number may run; a lease lets one of them work.

It reads unsent rows in id order, sends them in whole batches, and deletes exactly what Kafka acknowledged. While one
page of rows is under way the next is read and the last deleted, but never are two batches of one partition under way.
On any trouble the producer is dropped without a flush, and the next try begins at the first unsent row. It must never
produce after its lease has ended, never skip a row that Kafka refuses, and never send a later row of its partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.outage_log import OutageLog
from weelo_common.postgres import Database, DatabaseUnavailable
from weelo_common.record_batches import MAX_BATCH_BYTES, BatchSender, RecordBatch
from weelo_common.relay_metrics import RelayMetrics
from weelo_common.relay_pages import Page, lay_out
from weelo_common.settings import PostgresSettings, ServiceSettings

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.5  # after Kafka or PostgreSQL did not answer
LEASE_MARGIN_S = 0.5  # a produce ends at least this long before the lease does
PAGE_BYTES = 4 * 1024 * 1024  # of payload read in one go; two pages are in memory at most
PAGES_A_PASS = 16  # then it looks from the first row again: one may have become visible behind the last
# A pass with so many rows tells of load: the next begins RELAY_GATHER_S after it began, so that it has more of them. A
# pass costs a millisecond of CPU, and Kafka several, however few its rows. Below, every event goes at once.
GATHER_FROM_ROWS = 8
# A pass with so many rows tells of thousands a second, of work that fills the machine: passes then begin further apart.
HEAVY_FROM_ROWS = 32
HEAVY_GATHERS = 2.5  # times RELAY_GATHER_S
# A plan is kept, and is made while the outbox is nearly empty. Read whole where it holds a backlog, it was drained ten
# times slower.
SESSION = {"enable_seqscan": "off", "jit": "off"}
CONNECTIONS = 4  # reading ahead, deleting behind, measuring, and one more
NAMED_ROWS = 5  # of a refused batch, in the log
ANY_ID = 2**63 - 1

ACQUIRE_LEASE = """
UPDATE outbox_lease SET owner = $1, term = CASE WHEN owner = $1 THEN term ELSE term + 1 END,
       expires_at = clock_timestamp() + $2 * interval '1 second'
 WHERE owner = $1 OR expires_at < clock_timestamp()
RETURNING term
"""
RELEASE_LEASE = "UPDATE outbox_lease SET expires_at = '-infinity', owner = '' WHERE owner = $1"
# As many rows as asked for, or as hold so many bytes; always the first.
SELECT_UNSENT = """
SELECT id, topic, key, headers, payload, (SELECT max(id) FROM outbox) AS newest_id
  FROM (SELECT id, topic, key, headers, payload, sum(octet_length(payload))
               OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
          FROM outbox WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3) AS page
 WHERE bytes_before IS NULL OR bytes_before < $4
 ORDER BY id
"""
# It commits without waiting for the disk: a server that crashes and forgets it has the rows sent again, with their ids.
DELETE_SENT = """
DELETE FROM outbox WHERE id = ANY($1::bigint[])
   AND EXISTS (SELECT FROM outbox_lease
                WHERE owner = $2 AND term = $3 AND set_config('synchronous_commit', 'off', true) = 'off')
"""
SELECT_EVENT_IDS = "SELECT event_id FROM outbox WHERE id = ANY($1::bigint[]) ORDER BY id"


class Relay:
    """Publishes the outbox of one database, over connections of its own (``Relay.database``).

    Whoever commits events over others tells it by ``wake``.
    """

    @staticmethod
    def database(
        settings: PostgresSettings, service: str
    ) -> contextlib.AbstractAsyncContextManager[Database]:
        """A few connections for the relay alone: requests cannot keep it waiting for one, and it plans as it needs."""
        few = settings.model_copy(update={"postgres_pool_max": CONNECTIONS})
        return Database.open(few, application_name=f"{service}-relay", session=SESSION)

    def __init__(
        self, database: Database, kafka: KafkaClients, settings: ServiceSettings, metrics: RelayMetrics
    ) -> None:
        self._database = database
        self._kafka = kafka
        self._settings = settings
        self._metrics = metrics
        self._owner = str(uuid.uuid4())
        self._term = 0
        self._lease_until = 0.0  # on the monotonic clock, counted from before the lease was asked for
        self._renew_at = 0.0
        self._producer: AIOKafkaProducer | None = None
        self._sender: BatchSender  # made with each producer
        self._batch_bytes = MAX_BATCH_BYTES
        self._closely = False  # look at every row's headers, for a broker did not say what was wrong
        self._gather_until = 0.0  # the next pass begins no earlier
        self._woken = asyncio.Event()
        self._outages = OutageLog(log, begins="Relay waits", ends="Relay goes on")
        self._told_refused: set[int] = set()

    def wake(self) -> None:
        """Something was committed: look at once."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until stopped; what is unsent by then stays for the next owner."""
        async with asyncio.TaskGroup() as tasks:
            measuring = tasks.create_task(self._metrics.keep_true(self._database, stop))
            try:
                while not stop.is_set():
                    try:
                        sent = await self.run_once()
                    except (DatabaseUnavailable, KafkaUnavailable) as error:
                        self._metrics.errors.inc()
                        self._outages.waits(str(error))
                        await _wait(stop, RETRY_PAUSE_S)
                    else:
                        await self._rest(stop, busy=sent >= self._settings.relay_batch_rows)
            finally:
                measuring.cancel()
                await asyncio.shield(self._close())

    async def run_once(self) -> int:
        """Publish what waits, up to ``PAGES_A_PASS`` pages; returns how many rows, 0 where another holds the lease.

        Raises:
            DatabaseUnavailable, KafkaUnavailable: nothing was lost; call again later.
        """
        began = time.monotonic()
        if not await self._hold_lease():
            return 0
        term, sent = self._term, 0
        last, page = Page(), await self._read(after=0, up_to=ANY_ID)
        # A row with a lower id that could not be seen yet is for the next pass. So is what follows it under its key:
        # such ids are higher than any that could be seen now. Further pages must not reach them.
        newest = page.newest_id
        try:
            for left in reversed(range(PAGES_A_PASS)):
                # Under another term somebody else may have sent what we have read.
                if not page.count or not await self._hold_lease() or self._term != term:
                    break
                if self._is_full(page) and left:
                    _, _, ahead = await _all(
                        self._publish(page), self._delete(last), self._read(after=page.last_id, up_to=newest)
                    )
                else:
                    ahead = Page()
                    await self._publish(page)
                    await self._delete(last)
                if page.refused or page.trouble:
                    raise await self._failure(page)
                sent += page.count
                last, page = page, ahead
        finally:
            for done in (last, page):
                await self._delete(done)
        self._all_is_well()
        self._gather_until = began + gathering_s(sent, self._settings.relay_gather_s)
        return sent

    async def _hold_lease(self) -> bool:
        now = time.monotonic()
        if now < self._renew_at:
            return True
        async with self._database.connection() as connection:
            term: int | None = await connection.fetchval(
                ACQUIRE_LEASE, self._owner, self._settings.relay_lease_s
            )
        self._metrics.owner.set(0 if term is None else 1)
        if term is None:
            self._renew_at = 0.0
            self._metrics.refused.set(0)  # the owner tells
            return False
        self._term = term
        self._lease_until = now + self._settings.relay_lease_s
        self._renew_at = now + self._settings.relay_lease_s / 3
        return True

    @property
    def _time_left_s(self) -> float:
        """How long a produce may take: a stale owner could still produce, so it ends before the lease does."""
        return self._lease_until - LEASE_MARGIN_S - time.monotonic()

    async def _read(self, *, after: int, up_to: int) -> Page:
        """The unsent rows behind an id, up to another, as far as their topics are known.

        The first of all may ask for its topic. So a topic that no broker knows holds up what comes after it, never
        what came before.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                SELECT_UNSENT, after, up_to, self._settings.relay_batch_rows, PAGE_BYTES
            )
        if not rows:
            return Page()
        if not after:
            await self._prepare(rows[0])
        prefix = self._settings.kafka_topic_prefix
        return await lay_out(
            rows, self._sender, prefix=prefix, batch_bytes=self._batch_bytes, closely=self._closely
        )

    def _is_full(self, page: Page) -> bool:
        """Whether further rows may stand behind it."""
        return page.count == self._settings.relay_batch_rows or page.payload_bytes >= PAGE_BYTES

    async def _prepare(self, first: Any) -> None:
        """See that there is a producer, and that it knows the topic of this row.

        Raises:
            KafkaUnavailable: the brokers do not answer, or do not know the topic.
        """
        try:
            async with asyncio.timeout(self._time_left_s):
                if self._producer is None:
                    self._producer = await self._kafka.start_producer()
                    self._sender = BatchSender(self._producer)
                await self._sender.partitions(self._topic_name(first["topic"]))
        except (TimeoutError, KafkaError) as error:
            reason = f"no partitions known: {type(error).__name__}"
            connected = self._producer is not None
            await self._lose_producer()
            if connected:
                await self._name_refused([first["id"]], first["topic"], reason)
            raise KafkaUnavailable(f"{first['topic']}: {reason}") from None
        except asyncio.CancelledError:
            await asyncio.shield(self._lose_producer())
            raise

    async def _publish(self, page: Page) -> None:
        try:
            await page.send(self._sender, self._time_left_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._lose_producer())
            raise
        for name, count in page.published.items():
            self._metrics.published.labels(name.removeprefix(self._settings.kafka_topic_prefix)).inc(count)
        if page.refused or page.trouble:
            await self._lose_producer()

    async def _delete(self, page: Page) -> None:
        if page.acknowledged:
            async with self._database.connection() as connection:
                await connection.execute(DELETE_SENT, page.acknowledged, self._owner, self._term)
            page.acknowledged = []

    # --- trouble: told once, and once more when it is over ---

    async def _failure(self, page: Page) -> KafkaUnavailable:
        self._closely |= page.unexplained
        for batch, error in page.refused:
            await self._judge_refusal(batch, error)
        return KafkaUnavailable(
            f"{page.count - len(page.acknowledged)} of {page.count} events were not acknowledged, "
            f"from outbox id {page.first_id} on: {page.trouble or page.refused[0][1]}"
        )

    async def _judge_refusal(self, batch: RecordBatch, error: Exception) -> None:
        """Several events that are too large together go in smaller batches; else the events are named."""
        if isinstance(error, MessageSizeTooLargeError) and len(batch.marks) > 1:
            self._batch_bytes = min(self._batch_bytes, batch.size) // 2
        else:
            self._batch_bytes = MAX_BATCH_BYTES
            await self._name_refused(batch.marks, batch.topic, f"{type(error).__name__}: {error}")

    async def _name_refused(self, ids: Sequence[int], topic: str, reason: str) -> None:
        """Somebody has to look: nothing behind these events is sent."""
        self._metrics.refused.set(1)
        if ids[0] in self._told_refused:
            return
        self._told_refused.add(ids[0])
        named = list(ids[:NAMED_ROWS])
        async with self._database.connection() as connection:
            event_ids = [row["event_id"] for row in await connection.fetch(SELECT_EVENT_IDS, named)]
        log.error(
            "Kafka refuses events; those behind them wait",
            extra={
                "reason": reason,
                "topic": topic,
                "events": len(ids),
                "outboxIds": named,
                "eventIds": event_ids,
            },
        )

    def _all_is_well(self) -> None:
        self._outages.goes_on()
        self._closely = False
        self._told_refused.clear()
        self._metrics.refused.set(0)

    # --- waiting, measuring, ending ---

    async def _rest(self, stop: asyncio.Event, *, busy: bool) -> None:
        """Wait for a commit in this process, or for the poll that finds the rows of others.

        Where another relays there is no need to look at commits.
        """
        settings = self._settings
        if self._renew_at == 0:
            await _wait(stop, settings.relay_lease_s / 6)
        elif busy:
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.relay_poll_s):
                    await self._woken.wait()
            await asyncio.sleep(self._gather_until - time.monotonic())
            self._woken.clear()

    def _topic_name(self, topic: str) -> str:
        return f"{self._settings.kafka_topic_prefix}{topic}"

    async def _lose_producer(self) -> None:
        """Drop the producer unflushed, and ask for the lease again before the next try."""
        self._renew_at = 0.0
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._kafka.drop_producer(producer)

    async def _close(self) -> None:
        """Stop producing and give the lease back, so that another replica goes on at once.

        For no longer than the lease: then it has run out by itself.
        """
        await self._lose_producer()
        try:
            async with (
                asyncio.timeout(self._settings.relay_lease_s),
                self._database.connection() as connection,
            ):
                await connection.execute(RELEASE_LEASE, self._owner)
        except (DatabaseUnavailable, TimeoutError) as error:
            log.warning("Lease left to run out", extra={"reason": f"{type(error).__name__}: {error}"})


def gathering_s(rows: int, gather_s: float) -> float:
    """How long after its own beginning a pass of so many rows lets the next one begin; 0.0: at once."""
    if rows < GATHER_FROM_ROWS:
        return 0.0
    return gather_s if rows < HEAVY_FROM_ROWS else gather_s * HEAVY_GATHERS


async def _all(*work: Any) -> list[Any]:
    """Do these at the same time, to the end of each; then raise the first error, if there was one."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
