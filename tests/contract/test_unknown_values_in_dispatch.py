"""The dispatcher meets statuses and reasons that it does not know: what an event says otherwise still counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.stack import LocalStack
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def test_a_search_that_ends_with_an_unknown_status_is_over_all_the_same(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    assert (await rig.live(order, 1)).keys() == {captain.user_id}
    await rig.publish(order.expired().model_copy(update={"status": "teleported"}))
    await rig.live(order, 0)
    assert rig.metric("weelo_consumer_parked_total", consumer="dispatcher") == 0


async def test_a_captain_released_for_an_unknown_reason_is_free_again(rig: Rig) -> None:
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    offers = await rig.live(order, 1)
    assigned = order.assigned(captain.user_id, offers[captain.user_id])

    async def busy() -> bool:
        me = (await captain.call("GET", "/captains/me")).json()["data"]["captain"]
        return bool(me["busy"])

    await rig.publish(*assigned)
    await rig.eventually(busy, lambda he_is: he_is)
    released = order.released(captain.user_id, searching=False)
    await rig.publish(released.model_copy(update={"reason": "sunspots", "truck_request_status": "beamed"}))
    await rig.eventually(busy, lambda he_is: not he_is)
    assert rig.metric("weelo_consumer_parked_total", consumer="dispatcher") == 0
