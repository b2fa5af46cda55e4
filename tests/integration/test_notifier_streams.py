"""Streams on a real PostgreSQL: offsets, repeats, facts that overtake, retention."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from services.notifier.tests.events import assigned, offer_id, offers_made, order_event, withdrawn

from notifier import retention, store
from notifier.consumers import handlers
from notifier.handlers import Handlers
from notifier.main import SESSION
from notifier.store import Appended, StoredFrame
from tests.integration import notifier_rig
from tests.integration.notifier_rig import PATIENCE_S, Ground, order_id, soon, user
from weelo_common.delivery import Delivery, Outcome
from weelo_common.events import Event, OfferDeclined, OrderCancelled, OrderCompleted, seal
from weelo_common.postgres import Database

pytestmark = pytest.mark.asyncio
here = notifier_rig.here
COUNT_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
HOLD_STREAM = "SELECT FROM streams WHERE user_id = $1 FOR UPDATE"
PREPARE_APPEND = f"""
PREPARE append_one (text[], text[], text[], text[], timestamptz[], text, text, timestamptz, text) AS {store.APPEND}
"""
APPEND_ONE = """
EXECUTE append_one (ARRAY['d-1'], ARRAY['trip_assigned'], ARRAY['{}'], ARRAY[NULL], ARRAY[NULL]::timestamptz[],
                    gen_random_uuid()::text, 'an order', clock_timestamp(), NULL)
"""
MANY_FRAMES = """
INSERT INTO notifications (user_id, stream_offset, event_id, event, body, order_id, event_time)
SELECT 'd-' || number % 500, number, gen_random_uuid()::text, 'trip_assigned', '{}', 'an order', clock_timestamp()
  FROM generate_series(2, 20000) AS number
"""
FEW_BLOCKS = 60  # an index of those frames has some 200, the table more


class Rig:
    """Handlers on a database, without Kafka: what one event does in one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pushed: list[Appended] = []
        self._handlers = handlers(Handlers(self._push))

    async def handle(self, event: Event, *, event_id: str | None = None, commits: bool = True) -> Outcome:
        envelope = seal(event, source="test", time=datetime.now(UTC), event_id=event_id)
        delivery = Delivery(envelope, event, 0, 0, datetime.now(UTC))
        async with self.database.transaction() as connection:
            outcome = await self._handlers[type(event)](connection, delivery)
            if not commits:
                raise ZeroDivisionError
        delivery.committed()
        return outcome

    async def stream(self, user_id: str) -> list[StoredFrame]:
        async with self.database.connection() as connection:
            return await store.read_stream(connection, user_id, after=0, limit=10_000)

    async def told(self, user_id: str) -> list[tuple[str, bool]]:
        return [(frame.event, frame.dead) for frame in await self.stream(user_id)]

    @contextlib.asynccontextmanager
    async def held(self, user_id: str) -> AsyncIterator[None]:
        """Keep a user's stream locked."""
        async with self.database.transaction() as connection:
            await connection.execute(HOLD_STREAM, user_id)
            yield

    async def all_ended_or_wait(self, *handling: asyncio.Task[Outcome]) -> None:
        """Until each of them has ended or waits for a lock."""
        async with asyncio.timeout(PATIENCE_S), self.database.connection() as connection:
            while True:
                waiting = await connection.fetchval(COUNT_WAITING)
                if waiting == sum(not one.done() for one in handling):
                    return
                await asyncio.sleep(0.005)

    def _push(self, appended: Sequence[Appended]) -> None:
        self.pushed.extend(appended)


@pytest.fixture
async def rig(here: Ground) -> AsyncIterator[Rig]:
    async with Database.open(here.settings(), application_name="test", session=SESSION) as database:
        yield Rig(database)


async def test_offsets_of_a_user_are_1_2_3_however_many_transactions_append_at_once(rig: Rig) -> None:
    captains = [user() for _ in range(4)]
    waves = [offers_made(*captains, order_id=order_id()) for _ in range(25)]
    await asyncio.gather(*(rig.handle(wave) for wave in waves))
    for captain in captains:
        assert [frame.offset for frame in await rig.stream(captain)] == list(range(1, 26))
    pushed = sorted((one.user_id, one.frame.offset) for one in rig.pushed)
    assert pushed == sorted((captain, offset) for captain in captains for offset in range(1, 26))


async def test_two_events_with_first_frames_of_the_same_users_never_wait_for_each_other(rig: Rig) -> None:
    """Both are held up half-way, each at a stream of its own, while a third event makes a stream that both want."""
    mark = user()
    new, gate, between, other_gate = (f"{mark}-{place}" for place in range(4))
    for known in (gate, other_gate):
        await rig.handle(withdrawn("filled", known, order_id=order_id()))

    def begin(*users: str) -> asyncio.Task[Outcome]:
        return asyncio.create_task(rig.handle(withdrawn("filled", *users, order_id=order_id())))

    async with rig.held(other_gate):
        async with rig.held(gate):
            one = begin(new, gate, between)
            await rig.all_ended_or_wait(one)
            third = begin(between)
            await rig.all_ended_or_wait(one, third)
            other = begin(between, new, other_gate)
            await rig.all_ended_or_wait(one, third, other)
        await rig.all_ended_or_wait(one, third, other)
    assert set(await asyncio.gather(one, third, other)) == {Outcome.APPLIED}
    assert [frame.offset for frame in await rig.stream(between)] == [1, 2, 3]


async def test_an_append_reads_little_though_its_plan_was_made_while_there_were_no_frames(rig: Rig) -> None:
    told = "[]"
    with contextlib.suppress(ZeroDivisionError):
        async with rig.database.transaction() as connection:
            await connection.execute("TRUNCATE notifications")
            await connection.execute(PREPARE_APPEND)
            await connection.execute(APPEND_ONE)
            await connection.execute(MANY_FRAMES)
            told = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {APPEND_ONE}")
            await connection.execute("DEALLOCATE append_one")
            raise ZeroDivisionError  # leave nothing behind
    (explained,) = json.loads(told)
    assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < FEW_BLOCKS


async def test_what_is_pushed_is_what_is_stored(rig: Rig) -> None:
    captain = user()
    await rig.handle(offers_made(captain, order_id=order_id()))
    assert [one.frame for one in rig.pushed] == await rig.stream(captain)


async def test_nothing_is_pushed_or_stored_where_the_commit_fails(rig: Rig) -> None:
    captain = user()
    with pytest.raises(ZeroDivisionError):
        await rig.handle(offers_made(captain, order_id=order_id()), commits=False)
    assert rig.pushed == []
    assert await rig.stream(captain) == []


async def test_an_event_that_comes_again_adds_nothing(rig: Rig) -> None:
    captain, order = user(), order_id()
    for _ in range(2):
        await rig.handle(withdrawn("filled", captain, order_id=order), event_id="same")
    await rig.handle(withdrawn("filled", captain, order_id=order), event_id="another")
    assert [frame.offset for frame in await rig.stream(captain)] == [1, 2]


async def test_an_offer_that_ended_before_it_was_announced_is_never_announced(rig: Rig) -> None:
    captain, other, order = user(), user(), order_id()
    await rig.handle(assigned(order, captain=captain))
    await rig.handle(offers_made(captain, other, order_id=order))
    assert await rig.told(captain) == [("trip_assigned", False)]
    assert await rig.told(other) == [("new_broadcast", False)]


@pytest.mark.parametrize("reason", ["filled", "cancelled", "expired", "busy"])
async def test_a_dismissal_that_overtakes_is_told_and_its_offer_is_not(rig: Rig, reason: str) -> None:
    captain, order = user(), order_id()
    await rig.handle(withdrawn(reason, captain, order_id=order))
    await rig.handle(offers_made(captain, order_id=order))
    assert await rig.told(captain) == [("broadcast_dismissed", False)]


async def test_offers_of_an_order_whose_search_is_over_are_not_announced(rig: Rig) -> None:
    captain, order = user(), order_id()
    await rig.handle(
        order_event(OrderCancelled, order, 2, reason="customer", searching=False, status="cancelled")
    )
    assert await rig.handle(offers_made(captain, order_id=order)) is Outcome.IGNORED
    assert await rig.told(captain) == []


async def test_an_offer_past_its_time_is_not_announced(rig: Rig) -> None:
    captain = user()
    await rig.handle(offers_made(captain, order_id=order_id(), expires_at=soon(-0.001)))
    assert await rig.told(captain) == []


async def test_an_announced_offer_is_dead_once_it_is_declined_taken_withdrawn_or_its_order_is_over(
    rig: Rig,
) -> None:
    captain = user()
    orders = [order_id() for _ in range(5)]
    for order in orders:
        await rig.handle(offers_made(captain, order_id=order))
    declined, taken, dismissed, cancelled, _live = orders
    await rig.handle(
        OfferDeclined(
            order_id=declined, offer_id=offer_id(declined, captain), captain_id=captain, reason="OTHER"
        )
    )
    await rig.handle(assigned(taken, captain=captain))
    await rig.handle(withdrawn("filled", captain, order_id=dismissed))
    await rig.handle(order_event(OrderCancelled, cancelled, 2, reason="customer", searching=False))
    dead = [frame.dead for frame in await rig.stream(captain) if frame.event == "new_broadcast"]
    assert dead == [True, True, True, True, False]


async def test_an_overtaken_status_is_not_told(rig: Rig) -> None:
    customer, order = user("c"), order_id()
    await rig.handle(order_event(OrderCompleted, order, 9, customer_id=customer, searching=False))
    await rig.handle(assigned(order, 2, captain=user(), customer_id=customer))
    assert await rig.told(customer) == [("order_status_update", False), ("truck_assigned", False)]


async def test_a_search_that_is_over_stays_over_when_an_older_event_comes_late(rig: Rig) -> None:
    captain, order = user(), order_id()
    await rig.handle(order_event(OrderCancelled, order, 3, reason="customer", searching=False))
    await rig.handle(assigned(order, 2, captain=user()))
    await rig.handle(offers_made(captain, order_id=order))
    assert await rig.told(captain) == []


async def test_a_user_keeps_his_newest_frames_and_the_floor_tells_what_is_gone(rig: Rig) -> None:
    captain = user()
    for _ in range(12):
        await rig.handle(withdrawn("filled", captain, order_id=order_id()))
    async with rig.database.transaction() as connection:
        assert await retention.drop_surplus_frames(connection, most=10) >= 2
        assert await retention.drop_surplus_frames(connection, most=10) == 0
        stream = await store.open_stream(connection, captain)
    assert (stream.head, stream.floor) == (12, 2)
    assert [frame.offset for frame in await rig.stream(captain)] == list(range(3, 13))


async def test_aged_frames_go_with_everything_before_them(rig: Rig) -> None:
    captain = user()
    for _ in range(4):
        await rig.handle(withdrawn("filled", captain, order_id=order_id()))
    async with rig.database.connection() as connection:
        await connection.execute(
            "UPDATE notifications SET created_at = $2 WHERE user_id = $1 AND stream_offset <= 3",
            captain,
            datetime.now(UTC) - timedelta(days=2),
        )
    async with rig.database.transaction() as connection:
        assert await retention.drop_aged_frames(connection) == 3
        assert await retention.drop_aged_frames(connection) == 0
    async with rig.database.connection() as connection:
        assert (await store.open_stream(connection, captain)).floor == 3
    await rig.handle(withdrawn("filled", captain, order_id=order_id()))
    assert [frame.offset for frame in await rig.stream(captain)] == [4, 5]


async def test_facts_are_forgotten_after_their_time_and_not_before(rig: Rig) -> None:
    captain, order = user(), order_id()
    await rig.handle(withdrawn("filled", captain, order_id=order))
    async with rig.database.transaction() as connection:
        await retention.drop_old_facts(connection)
        facts = await connection.fetchval(
            "SELECT count(*) FROM ended_offers WHERE offer_id = $1", offer_id(order, captain)
        )
        assert facts == 1
        assert await retention.drop_old_facts(connection, kept_s=-1) >= 2
        assert await connection.fetchval("SELECT count(*) FROM orders WHERE order_id = $1", order) == 0
