"""Ops are told, for each wave, who was considered, offered or passed over, and why; and it stays small."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.local.stack import LocalStack
from dispatcher.handlers.explanation import ROUNDS_TOLD
from tests.integration.dispatcher_orders import Order
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home, until
from weelo_common.ids import new_id


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def explanation(rig: Rig, order: Order) -> dict[str, Any]:
    answer = await rig.caller("ops").call("GET", f"/dispatch/orders/{order.order_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


async def busy_captain(rig: Rig, north_m: float) -> str:
    captain = await rig.captain(north_m)
    await rig.publish(*rig.order().assigned(captain.user_id, new_id()))

    async def is_busy() -> bool:
        me = await captain.call("GET", "/captains/me")
        return bool(me.json()["data"]["captain"]["busy"])

    await rig.eventually(is_busy, bool)
    return captain.user_id


async def silent_captain(rig: Rig, north_m: float) -> str:
    """Heard of for the last time 61 seconds ago."""
    captain = await rig.captain(north_m, placed=False)
    before = rig.metric("weelo_dispatcher_positions_total", outcome="indexed")
    await rig.tell_position(captain.user_id, north_m, datetime.now(UTC) - timedelta(seconds=61))
    await until(
        lambda: rig.metric("weelo_dispatcher_positions_total", outcome="indexed") > before, "his last word"
    )
    return captain.user_id


async def test_each_wave_tells_of_everybody_near_whether_he_was_offered_the_order_and_why_not(
    rig: Rig,
) -> None:
    capped = await rig.captain(50)
    for order in (others := [rig.order() for _ in range(3)]):
        await rig.publish(order.created())
    for order in others:
        await rig.live(order, 1)
    offered = [await rig.captain(north_m) for north_m in (100, 200, 300, 400, 500)]
    ops = rig.caller("ops")
    unconfirmed, pausing = await rig.captain(110), await rig.captain(120)
    await ops.call("PUT", f"/transporters/t-good/captains/{unconfirmed.user_id}", {"confirmed": False})
    await pausing.call("PUT", "/captains/me/availability", {"available": False})
    stopped = await rig.captain(130, transporter_id=f"t-{rig.subtype}")
    unverified = await rig.captain(140, transporter_id=f"u-{rig.subtype}")
    for transporter, standing in (
        (f"t-{rig.subtype}", {"active": False, "verified": True}),
        (f"u-{rig.subtype}", {"active": True, "verified": False}),
    ):
        answer = await ops.call("PUT", f"/transporters/{transporter}", {"name": "T"} | standing)
        assert answer.status_code == 200
    busy, silent = await busy_captain(rig, 150), await silent_captain(rig, 160)
    farther = await rig.captain(600)
    order = rig.order(created_ago_s=10)
    await rig.publish(order.created())
    await rig.live(order, 5)
    (wave,) = (await explanation(rig, order))["waves"]
    (line,) = wave["lines"]
    assert (wave["wave"], wave["radiusM"], wave["cause"], wave["leftOut"]) == (1, 2000, "wave", 0)
    assert (line["target"], line["liveBefore"], line["wanted"], line["offered"]) == (5, 0, 5, 5)
    assert line["cellsLookedAt"] > 0
    assert len(line["cells"]) == min(16, line["cellsLookedAt"])
    expected = {captain.user_id: None for captain in offered} | {
        capped.user_id: "cap",
        unconfirmed.user_id: "unconfirmed",
        pausing.user_id: "unavailable",
        stopped.user_id: "transporter_inactive",
        unverified.user_id: "unverified",
        busy: "busy",
        silent: "stale",
        farther.user_id: "farther_than_kth",
    }
    assert {entry["captainId"]: entry.get("reason") for entry in line["captains"]} == expected
    assert line["candidates"] == len(expected)
    assert line["reasons"] == {reason or "offered": 1 for reason in expected.values()} | {"offered": 5}
    # The next wave: nothing is missing, so nobody is looked for; then somebody declines.
    await rig.publish(await rig.timer(order, 2))
    await rig.eventually(lambda: explanation(rig, order), lambda told: told["wavesMade"] == 2)
    offers = await rig.offers(order)
    assert (await offered[0].decline(offers[offered[0].user_id])).status_code == 200
    told = await explanation(rig, order)
    assert [(entry["wave"], entry["cause"]) for entry in told["waves"]] == [
        (1, "wave"),
        (2, "wave"),
        (2, "declined"),
    ]
    assert [entry["lines"][0]["wanted"] for entry in told["waves"]] == [5, 0, 1]
    (replacement,) = told["waves"][2]["lines"]
    reasons = {entry["captainId"]: entry.get("reason") for entry in replacement["captains"]}
    assert reasons[farther.user_id] is None
    assert {reasons[captain.user_id] for captain in offered} == {"already_offered"}
    outcomes = {
        entry["captainId"]: (entry["offer"]["status"], entry["offer"]["reason"])
        for wave in told["waves"]
        for line in wave["lines"]
        for entry in line["captains"]
        if entry["offered"]
    }
    assert outcomes == {captain.user_id: ("live", None) for captain in [*offered, farther]} | {
        offered[0].user_id: ("declined", "NOT_AVAILABLE")
    }
    assert told["nextWave"]["wave"] == 3


async def test_replacements_beyond_those_told_are_counted_and_the_next_wave_is_told_again(rig: Rig) -> None:
    captains = [await rig.captain(10 * number) for number in range(1, ROUNDS_TOLD + 8)]
    order = rig.order(created_ago_s=10)
    await rig.publish(order.created())
    offers = await rig.live(order, 5)
    for captain in captains[: ROUNDS_TOLD + 2]:  # whoever is asked says no
        assert (await captain.decline(offers[captain.user_id])).status_code == 200
        offers = await rig.offers(order)
    await rig.publish(await rig.timer(order, 2))
    told = await rig.eventually(lambda: explanation(rig, order), lambda told: told["wavesMade"] == 2)
    assert [entry["wave"] for entry in told["waves"]] == [1] * ROUNDS_TOLD + [2]
    assert [entry["leftOut"] for entry in told["waves"]] == [0] * (ROUNDS_TOLD - 1) + [3, 0]
    offers = await rig.offers(order)
    last = next(captain for captain in captains if captain.user_id in offers)
    assert (await last.decline(offers[last.user_id])).status_code == 200
    told = await explanation(rig, order)
    assert [(entry["wave"], entry["cause"]) for entry in told["waves"]][-2:] == [(2, "wave"), (2, "declined")]
    assert [entry["leftOut"] for entry in told["waves"]][-3:] == [3, 0, 0]


async def test_only_ops_may_ask_and_an_order_never_seen_is_not_found(rig: Rig) -> None:
    order = rig.order()
    for role in ("customer", "captain", "transporter"):
        answer = await rig.caller(role).call("GET", f"/dispatch/orders/{order.order_id}")
        assert answer.status_code == 403
    answer = await rig.caller("ops").call("GET", f"/dispatch/orders/{order.order_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_an_order_of_which_only_a_later_event_came_is_explained_as_far_as_it_is_known(rig: Rig) -> None:
    order = rig.order()
    order.created()  # on its way
    await rig.publish(order.cancelled())
    await rig.eventually(
        lambda: rig.rows("SELECT FROM orders WHERE order_id = $1", order.order_id), lambda rows: bool(rows)
    )
    told = await explanation(rig, order)
    assert (told["status"], told["searching"], told["orderVersion"]) == ("cancelled", False, 2)
    assert (told["expiresAt"], told["nextWave"], told["waves"]) == (None, None, [])
