"""Streams on a real PostgreSQL: offsets, repeats, facts that overtake, retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from services.notifier.tests.events import assigned, offer_id, offers_made, order_event, withdrawn

from deploy.local.stack import LocalStack
from notifier import retention, store
from notifier.consumers import handlers
from notifier.handlers import Handlers
from notifier.store import Appended, StoredFrame
from tests.integration.notifier_rig import Ground, ground, order_id, soon, user
from weelo_common.delivery import Delivery, Outcome
from weelo_common.events import Event, OfferDeclined, OrderCancelled, OrderCompleted, seal
from weelo_common.postgres import Database

pytestmark = pytest.mark.asyncio


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

    def _push(self, appended: Sequence[Appended]) -> None:
        self.pushed.extend(appended)


@pytest.fixture(scope="module")
def here(stack: LocalStack) -> Iterator[Ground]:
    with ground(stack) as fresh:
        yield fresh


@pytest.fixture
async def rig(here: Ground) -> AsyncIterator[Rig]:
    async with Database.open(here.settings(), application_name="test") as database:
        yield Rig(database)


async def test_offsets_of_a_user_are_1_2_3_however_many_transactions_append_at_once(rig: Rig) -> None:
    captains = [user() for _ in range(4)]
    waves = [offers_made(*captains, order_id=order_id()) for _ in range(25)]
    await asyncio.gather(*(rig.handle(wave) for wave in waves))
    for captain in captains:
        assert [frame.offset for frame in await rig.stream(captain)] == list(range(1, 26))
    pushed = sorted((one.user_id, one.frame.offset) for one in rig.pushed)
    assert pushed == sorted((captain, offset) for captain in captains for offset in range(1, 26))


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
