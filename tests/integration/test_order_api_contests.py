"""Contests over HTTP: fifty captains for one truck, an accept and the end by time in the last milliseconds, and every
step that the state table does not have."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from deploy.local.stack import LocalStack
from tests.integration.order_api_rig import (
    PATIENCE_S,
    Caller,
    Home,
    Rig,
    body,
    code,
    data,
    order_api,
    order_api_home,
    signed_offer,
)
from weelo_common.events.topics import ORDERS_EVENTS

pytestmark = pytest.mark.asyncio(loop_scope="module")
CAPTAINS = 50
CONTESTS = 10
MANY_CONTESTS = 1000
FRESH = 100  # contests with the same people: their tokens are good for ten minutes
# Around the end, in ms: the accept or the end by time that waits first for the row gets it about then. The first
# two are so long before that no machine is late for them.
MOMENTS_MS = (-10_000, -10_000, -40, -20, -10, -5, -3, -2, -1, 0, 1, 5)
COUNT_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
HOLD = "SELECT FROM orders WHERE id = $1 FOR UPDATE"
LET_END_SOON = """
UPDATE orders SET expires_at = date_trunc('milliseconds', clock_timestamp() + interval '50 ms' + $2) WHERE id = $1
"""
SLEEP_UNTIL = """
SELECT pg_sleep(greatest(0, extract(epoch FROM expires_at + $2 - clock_timestamp()))) FROM orders WHERE id = $1
"""


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with order_api(home) as running:
        yield running


async def contest(home: Home, customer: Caller, captains: list[Caller]) -> None:
    """One truck, all captains at once; then the customer cancels, and everybody is free again."""
    key = str(uuid4())
    order_id = data(await insisted(lambda: customer.create(key)))["orderId"]
    answers = await asyncio.gather(
        *(
            insisted(partial(captain.accept, order_id, signed_offer(home, order_id, captain.user_id)))
            for captain in captains
        )
    )
    told = Counter(answer.status_code if answer.is_success else code(answer) for answer in answers)
    assert told == {200: 1, (409, "TRUCK_REQUEST_TAKEN"): CAPTAINS - 1}
    (won,) = (answer for answer in answers if answer.is_success)
    order = data(await insisted(lambda: customer.get(f"/orders/{order_id}")))
    assert order["truckRequests"] == [data(won)["truckRequest"]]
    assert order["order"]["trucksFilled"] == 1
    assert (await insisted(lambda: customer.post(f"/orders/{order_id}/cancel"))).status_code == 200


async def insisted(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer. A 503 says that the machine is too busy, and nothing of the contest: phones try again."""
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await ask()).status_code == 503:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.1)
    return answer


async def contests(home: Home, rig: Rig, count: int) -> None:
    for number in range(count):
        if number % FRESH == 0:
            customer, captains = rig.customer(), [rig.captain() for _ in range(CAPTAINS)]
        await contest(home, customer, captains)


async def test_of_fifty_captains_for_one_truck_one_gets_a_200_and_49_are_told_it_is_taken(
    home: Home, rig: Rig
) -> None:
    await contests(home, rig, CONTESTS)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_of_fifty_captains_for_one_truck_one_gets_a_200_a_thousand_times(home: Home) -> None:
    async with order_api(home, creates_per_minute=100_000) as rig:
        rig.http.event_hooks = {}  # no look at the document: the short version has one
        await contests(home, rig, MANY_CONTESTS)


@pytest.mark.parametrize("accept_first", [True, False], ids=["accept first", "end first"])
async def test_around_the_last_millisecond_an_accept_wins_only_before_the_end(
    rig: Rig, accept_first: bool
) -> None:
    """Both wait for the order's row, in either order; it is let go at a moment near the end."""
    seen: Counter[bool] = Counter()
    for moment_ms in MOMENTS_MS:
        customer, captain = rig.customer(), rig.captain()
        order_id = data(await insisted(customer.create))["orderId"]
        racers: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda c=captain, o=order_id: c.accept(o, rig.offer(o, c)),  # type: ignore[misc]
            lambda c=customer, o=order_id: c.post(f"/orders/{o}/cancel"),  # type: ignore[misc]
        ]
        before_end = timedelta(milliseconds=max(0, -moment_ms))
        async with rig.database.transaction() as holder:
            await holder.execute(HOLD, order_id)
            racing = []
            for racer in racers if accept_first else reversed(racers):
                racing.append(asyncio.ensure_future(racer()))
                await waiting(rig, len(racing))
            # Both wait already, however long that took.
            await holder.execute(LET_END_SOON, order_id, before_end)
            await holder.execute(SLEEP_UNTIL, order_id, timedelta(milliseconds=moment_ms))
        answers = await asyncio.gather(*racing)
        accepted, cancelled = answers if accept_first else reversed(answers)
        seen[accepted.is_success] += 1
        await judge_last_moment(rig, order_id, accepted, cancelled)
    if accept_first:
        assert seen[True] > 0
    assert seen[False] > 0


async def judge_last_moment(
    rig: Rig, order_id: str, accepted: httpx.Response, cancelled: httpx.Response
) -> None:
    """The end by time comes as a cancel that finds the order overdue; both must tell the same story.

    Whoever waited first mostly gets the row first. PostgreSQL does not promise it: the row was changed meanwhile, and
    both go on to its new version.
    """
    row: Any
    async with rig.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT o.status, o.search_end, o.expires_at, t.assigned_at FROM orders o "
            "JOIN truck_requests t ON t.order_id = o.id WHERE o.id = $1",
            order_id,
        )
    if accepted.is_success:
        assert row["assigned_at"] < row["expires_at"]
        assert (
            cancelled.status_code == 200
        )  # won, and not started: it may be cancelled, after the end as well
        assert row["search_end"] == "filled"
        last, count = "TruckReleased", 5
    elif cancelled.is_success:
        assert code(accepted) == (409, "ORDER_CANCELLED")
        assert row["search_end"] == "cancelled"
        last, count = "OrderCancelled", 2
    else:
        assert code(accepted) == (409, "ORDER_EXPIRED")
        assert code(cancelled) == (409, "ORDER_NOT_CANCELLABLE")
        assert (row["status"], row["search_end"]) == ("expired", "time")
        last, count = "OrderExpired", 2
    events = [e.event for e in await rig.events(ORDERS_EVENTS, order_id, last)]
    assert [event.order_version for event in events if event] == list(range(1, count + 1))  # type: ignore[attr-defined]


async def waiting(rig: Rig, count: int) -> None:
    """Until so many transactions of this service wait for a lock."""
    async with rig.database.connection() as connection, asyncio.timeout(PATIENCE_S):
        while await connection.fetchval(COUNT_WAITING) < count:  # noqa: ASYNC110 - PostgreSQL sends no signal
            await asyncio.sleep(0.002)


TRUCK_STATES = ("searching", "assigned", "in_progress", "completed", "expired", "cancelled", "released")
GIVEN = {
    # What each command gives in each state: a status where it is granted (again, too), else the code.
    "start": {
        "searching": "NOT_FOUND",
        "assigned": "in_progress",
        "in_progress": "in_progress",
        "completed": "INVALID_TRANSITION",
        "expired": "NOT_FOUND",
        "cancelled": "INVALID_TRANSITION",
        "released": "NOT_FOUND",
    },
    "complete": {
        "searching": "NOT_FOUND",
        "assigned": "INVALID_TRANSITION",
        "in_progress": "completed",
        "completed": "completed",
        "expired": "NOT_FOUND",
        "cancelled": "INVALID_TRANSITION",
        "released": "NOT_FOUND",
    },
    "release": {
        "searching": "NOT_FOUND",
        "assigned": "searching",
        "in_progress": "INVALID_TRANSITION",
        "completed": "INVALID_TRANSITION",
        "expired": "NOT_FOUND",
        "cancelled": "INVALID_TRANSITION",
        "released": "cancelled",
    },
    "release by ops": {
        "searching": "INVALID_TRANSITION",
        "assigned": "searching",
        "in_progress": "INVALID_TRANSITION",
        "completed": "INVALID_TRANSITION",
        "expired": "INVALID_TRANSITION",
        "cancelled": "INVALID_TRANSITION",
        "released": "cancelled",
    },
    "accept": {
        "searching": "assigned",
        "assigned": "assigned",
        "in_progress": "in_progress",
        "completed": "completed",
        "expired": "ORDER_EXPIRED",
        "cancelled": "ORDER_CANCELLED",
        "released": "TRUCK_REQUEST_TAKEN",  # the search ended because the order was full
    },
    "cancel": {
        "searching": "cancelled",
        "assigned": "cancelled",
        "in_progress": "ORDER_NOT_CANCELLABLE",
        "completed": "ORDER_NOT_CANCELLABLE",
        "expired": "ORDER_NOT_CANCELLABLE",
        "cancelled": "cancelled",
        "released": "cancelled",
    },
}


async def truck_in(rig: Rig, state: str, customer: Caller, captain: Caller) -> tuple[str, str]:
    """An order of two trucks, the captain's in this state; ids of order and truck request."""
    order_id = data(await customer.create(content=body(2)))["orderId"]
    truck_id: str = data(await customer.get(f"/orders/{order_id}"))["truckRequests"][0]["id"]
    if state == "released":  # another holds the second one, so that the order lives on
        other = rig.captain()
        truck_id = (await rig.win(order_id, captain))["id"]
        await rig.win(order_id, other)
        assert (await captain.post(f"/truck-requests/{truck_id}/release", {"reason": "x"})).is_success
        return order_id, truck_id
    if state in ("assigned", "in_progress", "completed", "cancelled"):
        truck_id = (await rig.win(order_id, captain))["id"]
    for step, states in (("start", ("in_progress", "completed")), ("complete", ("completed",))):
        if state in states:
            assert (await captain.post(f"/truck-requests/{truck_id}/{step}")).is_success
    if state == "cancelled":
        assert (await customer.post(f"/orders/{order_id}/cancel")).is_success
    if state == "expired":
        await rig.make_overdue(order_id)
    return order_id, truck_id


@pytest.mark.parametrize("state", TRUCK_STATES)
async def test_each_step_in_each_state_is_the_state_tables_or_a_typed_409(rig: Rig, state: str) -> None:
    for command, given in GIVEN.items():
        customer, captain = rig.customer(), rig.captain()
        order_id, truck_id = await truck_in(rig, state, customer, captain)
        before = await rig.value("SELECT version FROM orders WHERE id = $1", order_id)
        match command:
            case "accept":
                answer = await captain.accept(order_id, rig.offer(order_id, captain))
            case "cancel":
                answer = await customer.post(f"/orders/{order_id}/cancel")
            case "release by ops":
                answer = await rig.ops().post(f"/truck-requests/{truck_id}/release", {"reason": "x"})
            case "release":
                answer = await captain.post(f"/truck-requests/{truck_id}/release", {"reason": "x"})
            case step:
                answer = await captain.post(f"/truck-requests/{truck_id}/{step}")
        expected = given[state]
        if expected.isupper():
            status = 404 if expected == "NOT_FOUND" else 409
            assert code(answer) == (status, expected), f"{command} of a truck that is {state}"
            ended = 1 if state == "expired" else 0  # whoever touches an overdue order ends its search
            after = await rig.value("SELECT version FROM orders WHERE id = $1", order_id)
            assert after == before + ended, f"{command} of a truck that is {state} wrote something"
            if expected in ("INVALID_TRANSITION", "ORDER_NOT_CANCELLABLE"):
                assert set(answer.json()["error"]["data"]) == {"status"}
        else:
            found = data(answer)
            told = found["status"] if command == "cancel" else found["truckRequest"]["status"]
            assert told == expected, f"{command} of a truck that is {state}"
