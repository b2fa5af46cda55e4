"""The index's start and its topics: what PostgreSQL holds, what came meanwhile, and what is rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from dispatcher.follower import Follower
from dispatcher.live_fleet import CaptainColumns, LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import fleet as fleet_store
from tests.integration.dispatcher_orders import PICKUP
from tests.integration.dispatcher_rig import PATIENCE_S, Home, dispatcher_home
from weelo_common.clock import Clock, SystemClock, epoch_ms
from weelo_common.consumer import ConsumerMetrics
from weelo_common.events import CaptainState, encode, seal
from weelo_common.events.positions import Position, captain_fingerprint, pack
from weelo_common.events.topics import CAPTAINS_LOCATIONS, CAPTAINS_STATE, Topic
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Database

INSERT_TRANSPORTER = (
    "INSERT INTO transporters (transporter_id, name, active, verified) VALUES ($1, 'T', $2, $3)"
)
INSERT_CAPTAIN = """
INSERT INTO captains (captain_id, transporter_id, name, vehicle_type, vehicle_subtype, vehicle_number, confirmed,
                      available, busy, idle_since)
VALUES ($1, $2, 'C', 'TRUCK', $3, 'DL1', $4, $5, $6, clock_timestamp() - $7 * interval '1.001 seconds')
"""


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at


class SlowFleet(LiveFleet):
    """A fleet so large that each page of it takes long to load."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__()
        self._clock = clock

    def load(self, page: CaptainColumns) -> None:
        super().load(page)
        self._clock.at += timedelta(seconds=90)


class Replica:
    """An index of its own that follows the topics, and the other side of them."""

    def __init__(self, home: Home, database: Database, clock: Clock, fleet: LiveFleet) -> None:
        settings = home.settings()
        self.fleet = fleet
        self.clock = clock
        self.registry = CollectorRegistry()
        self.kafka = KafkaClients(settings, client_id="test")
        self.follower = Follower(
            fleet,
            database,
            self.kafka,
            settings,
            clock,
            ConsumerMetrics(self.registry),
            DispatcherMetrics(self.registry),
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def free(self, subtype: str) -> list[str]:
        proposal = self.fleet.propose(
            "TRUCK", subtype, *PICKUP, k=100, not_free=0, radius_m=1000, now_ms=epoch_ms(self.clock.now())
        )
        return [near.captain_id for near in proposal.near]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """From when it has caught up."""
        stop = asyncio.Event()
        running = asyncio.create_task(self.follower.run(stop))
        try:
            await asyncio.wait_for(self.follower.caught_up.wait(), PATIENCE_S)
            yield
        finally:
            stop.set()
            await asyncio.wait_for(running, PATIENCE_S)

    async def until(self, name: str, count: float, **labels: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.metric(name, **labels) < count:
            assert time.monotonic() < deadline, f"{name} {labels} is {self.metric(name, **labels)}"
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def database(home: Home) -> AsyncIterator[Database]:
    async with Database.open(home.settings(), application_name="test") as database:
        yield database


@pytest.fixture
async def producer(home: Home) -> AsyncIterator[AIOKafkaProducer]:
    kafka = KafkaClients(home.settings(), client_id="test")
    producer = await kafka.start_producer()
    yield producer
    await kafka.stop_producer(producer)


@pytest.fixture
def subtype() -> str:
    return f"S_{uuid4().hex[:8]}"


def state_of(captain_id: str, subtype: str, version: int, *, busy: bool = False) -> CaptainState:
    return CaptainState(
        captain_id=captain_id,
        version=version,
        transporter_id="t",
        vehicle_type="TRUCK",
        vehicle_subtype=subtype,
        available=True,
        eligible=True,
        busy=busy,
    )


async def tell(
    producer: AIOKafkaProducer, kafka: KafkaClients, state: CaptainState, at: datetime | None = None
) -> None:
    at = at or datetime.now(UTC)
    headers, value = encode(seal(state, source="test", time=at))
    await producer.send_and_wait(
        kafka.topic_name(CAPTAINS_STATE),
        value,
        key=state.captain_id.encode(),
        headers=headers,
        timestamp_ms=epoch_ms(at),
    )


async def tell_positions(
    producer: AIOKafkaProducer, kafka: KafkaClients, *captain_ids: str, at: datetime | None = None
) -> None:
    at_ms = epoch_ms(at or datetime.now(UTC))
    value = pack([Position(captain_fingerprint(captain_id), *PICKUP, at_ms) for captain_id in captain_ids])
    await producer.send_and_wait(kafka.topic_name(CAPTAINS_LOCATIONS), value, timestamp_ms=at_ms)


async def test_the_load_takes_each_captain_as_his_announced_state_would(
    home: Home, database: Database, subtype: str
) -> None:
    async with database.connection() as connection:
        for active, verified in itertools.product((True, False), repeat=2):
            await connection.execute(INSERT_TRANSPORTER, f"t-{active}-{verified}-{subtype}", active, verified)
        for number, (active, verified, confirmed, available, busy) in enumerate(
            itertools.product((True, False), repeat=5)
        ):
            transporter = f"t-{active}-{verified}-{subtype}"
            await connection.execute(
                INSERT_CAPTAIN,
                f"k-{number}-{subtype}",
                transporter,
                subtype,
                confirmed,
                available,
                busy,
                number,
            )
        await connection.execute(
            INSERT_CAPTAIN, f"k-x-{subtype}", "of nobody", subtype, True, True, False, 99
        )
        captains = [
            await fleet_store.get_captain(connection, f"k-{one}-{subtype}") for one in [*range(32), "x"]
        ]
    loaded = Replica(home, database, SystemClock(), LiveFleet())
    assert await loaded.follower.load() >= len(captains)
    told = LiveFleet()
    now_ms = epoch_ms(datetime.now(UTC))
    for captain in captains:
        assert captain is not None
        idle_since_ms = epoch_ms(captain.idle_since)
        told.apply_state(captain.state(), now_ms, idle_since_ms=idle_since_ms)
        for fleet in (told, loaded.fleet):
            fleet.apply_position(Position(captain_fingerprint(captain.captain_id), *PICKUP, now_ms), now_ms)
    both = [
        fleet.propose("TRUCK", subtype, *PICKUP, k=100, not_free=100, radius_m=10, now_ms=now_ms).near
        for fleet in (told, loaded.fleet)
    ]
    assert len(both[0]) == len(captains)
    assert both[1] == both[0]
    assert [near.captain_id for near in both[0] if near.free] == [f"k-1-{subtype}"]


async def test_a_restart_follows_from_sixty_seconds_before_its_load_began(
    home: Home, database: Database, producer: AIOKafkaProducer, subtype: str
) -> None:
    async with database.connection() as connection:
        for one in ("changed", "stays", "silent"):
            await connection.execute(INSERT_TRANSPORTER, f"t-{one}-{subtype}", True, True)
            await connection.execute(
                INSERT_CAPTAIN, f"{one}-{subtype}", f"t-{one}-{subtype}", subtype, True, True, False, 0
            )
    clock = SetClock()
    replica = Replica(home, database, clock, SlowFleet(clock))
    began = clock.at
    await tell_positions(producer, replica.kafka, f"silent-{subtype}", at=began - timedelta(seconds=61))
    await tell_positions(
        producer, replica.kafka, f"changed-{subtype}", f"stays-{subtype}", at=began + timedelta(seconds=80)
    )
    # Announced while the load was under way, of a captain whose page had been taken already.
    changed = state_of(f"changed-{subtype}", subtype, version=2, busy=True)
    await tell(producer, replica.kafka, changed, began + timedelta(seconds=1))
    async with replica.following():
        assert replica.free(subtype) == [f"stays-{subtype}"]
        assert replica.fleet.last_position(f"silent-{subtype}") is None
        assert replica.fleet.last_position(f"changed-{subtype}") is not None


async def test_rubbish_in_the_fleets_topics_is_logged_and_counted_as_ignored_and_never_stops_the_reader(
    home: Home,
    database: Database,
    producer: AIOKafkaProducer,
    subtype: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    replica = Replica(home, database, SystemClock(), LiveFleet())
    consumer = "dispatcher-index"
    rubbish = [b"", b"\x00", b"\x01short", b"\x02" + bytes(32), b"\x01" + b"\x7f" * 32, None]
    async with replica.following():
        before = {
            name: replica.metric(f"weelo_consumer_{name}_total", consumer=consumer)
            for name in ("consumed", "applied", "ignored")
        }
        with caplog.at_level(logging.WARNING, "dispatcher.follower"):
            for value in rubbish:
                await producer.send_and_wait(replica.kafka.topic_name(CAPTAINS_LOCATIONS), value, key=b"k")
                await producer.send_and_wait(replica.kafka.topic_name(CAPTAINS_STATE), value, key=b"k")
            await tell_positions(producer, replica.kafka, f"nobody-{subtype}")
            await tell(producer, replica.kafka, state_of(f"k-{subtype}", subtype, version=1))
            await tell_positions(producer, replica.kafka, f"k-{subtype}")
            await replica.until(
                "weelo_consumer_consumed_total", before["consumed"] + 2 * len(rubbish) + 3, consumer=consumer
            )
        assert replica.free(subtype) == [f"k-{subtype}"]
        assert replica.follower.trouble() is None
        assert replica.metric("weelo_consumer_ignored_total", consumer=consumer) == before[
            "ignored"
        ] + 2 * len(rubbish)
        assert replica.metric("weelo_consumer_applied_total", consumer=consumer) == before["applied"] + 3
        assert replica.metric("weelo_dispatcher_positions_total", outcome="ignored") == 1  # of nobody known
    told = [record.__dict__["topic"] for record in caplog.records if "Malformed" in record.message]
    assert sorted(told) == [
        CAPTAINS_LOCATIONS.name,
        CAPTAINS_STATE.name,
    ]  # once a topic: they may be full of it


class CountingFleet(LiveFleet):
    """Counts the pages of captains that it was given."""

    pages = 0

    def load(self, page: CaptainColumns) -> None:
        super().load(page)
        self.pages += 1


@pytest.mark.parametrize(("topic", "loads"), [(CAPTAINS_LOCATIONS, 1), (CAPTAINS_STATE, 2)])
async def test_a_quiet_partition_whose_unread_records_were_deleted_is_caught_up_and_states_are_loaded_again(
    home: Home, database: Database, producer: AIOKafkaProducer, subtype: str, topic: Topic, loads: int
) -> None:
    async with database.connection() as connection:
        await connection.execute(INSERT_TRANSPORTER, f"t-{subtype}", True, True)
        await connection.execute(
            INSERT_CAPTAIN, f"k-{subtype}", f"t-{subtype}", subtype, True, True, False, 0
        )
    fleet = CountingFleet()
    replica = Replica(home, database, SystemClock(), fleet)
    async with replica.following():
        pages = fleet.pages
    for number in range(topic.partitions):
        name = replica.kafka.topic_name(topic)
        sent = await producer.send_and_wait(name, b"deleted before it is read", partition=number)
        async with replica.kafka.admin() as admin:
            await admin.delete_records({TopicPartition(name, number): RecordsToDelete(sent.offset + 1)})
    replica.follower.caught_up.clear()
    async with replica.following():
        assert replica.follower.trouble() is None
    assert fleet.pages == pages + loads * pages
