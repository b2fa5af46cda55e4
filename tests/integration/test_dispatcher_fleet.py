"""Captains, transporters and positions over HTTP, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.local.stack import LocalStack
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home, until
from weelo_common.clock import format_time
from weelo_common.events import CaptainState, encode, seal
from weelo_common.events.positions import captain_fingerprint
from weelo_common.events.topics import CAPTAINS_LOCATIONS, CAPTAINS_STATE, Topic

ME: dict[str, Any] = {
    "transporterId": "t-1",
    "name": "Test",
    "vehicleType": "TRUCK",
    "vehicleSubtype": "TATA_ACE",
    "vehicleNumber": "DL1AB1234",
}
HEAPS = 200  # of each kind of rubbish
PLACE: dict[str, Any] = {"latitude": 28.6, "longitude": 77.2, "recordedAt": "2026-02-03T10:08:28.123Z"}


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


@pytest.fixture
async def rig(home: Home) -> AsyncIterator[Rig]:
    async with dispatcher(home) as rig:
        yield rig


async def reasons(captain: Any) -> list[str]:
    answer = await captain.call("GET", "/captains/me")
    found: list[str] = answer.json()["data"]["captain"]["noOffersBecause"]
    return found


async def test_a_captain_is_told_every_reason_why_he_gets_no_offers_until_none_is_left(rig: Rig) -> None:
    captain, ops = rig.caller("captain"), rig.caller("ops")
    assert (await captain.call("GET", "/captains/me")).status_code == 404
    transporter = f"t-{captain.user_id}"
    answer = await captain.call("PUT", "/captains/me", ME | {"transporterId": transporter})
    assert answer.json()["data"]["captain"]["confirmed"] is False
    assert await reasons(captain) == ["unconfirmed", "transporter_unknown", "unavailable", "stale"]
    body = {"name": "T", "active": False, "verified": False}
    await ops.call("PUT", f"/transporters/{transporter}", body)
    assert await reasons(captain) == ["unconfirmed", "transporter_inactive", "unavailable", "stale"]
    await ops.call("PUT", f"/transporters/{transporter}", body | {"active": True})
    assert "unverified" in await reasons(captain)
    await ops.call("PUT", f"/transporters/{transporter}", body | {"active": True, "verified": True})
    await ops.call("PUT", f"/transporters/{transporter}/captains/{captain.user_id}", {"confirmed": True})
    await captain.call("PUT", "/captains/me/availability", {"available": True})
    assert await reasons(captain) == ["stale"]
    await rig.place(captain, 100)
    assert await reasons(captain) == []
    moved = await captain.call("PUT", "/captains/me", ME | {"transporterId": "another"})
    assert moved.json()["data"]["captain"]["confirmed"] is False


async def test_a_transporter_manages_only_himself_and_only_ops_verify(rig: Rig) -> None:
    transporter, captain = rig.caller("transporter"), rig.caller("captain")
    own = f"/transporters/{transporter.user_id}"
    body = {"name": "T", "active": True}
    assert (await transporter.call("PUT", own, body)).json()["data"]["transporter"]["verified"] is False
    assert (await transporter.call("PUT", own, body | {"verified": True})).status_code == 403
    assert (await transporter.call("PUT", own, body | {"verified": False})).status_code == 200
    assert (await transporter.call("PUT", "/transporters/other", body)).status_code == 403
    await rig.caller("ops").call("PUT", own, body | {"verified": True})
    kept = await transporter.call("PUT", own, body)
    assert kept.json()["data"]["transporter"]["verified"] is True
    await captain.call("PUT", "/captains/me", ME)
    theirs = await transporter.call("PUT", f"{own}/captains/{captain.user_id}", {"confirmed": True})
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_when_a_transporter_is_stopped_his_captains_are_no_candidates_at_once(rig: Rig) -> None:
    captain = await rig.captain(100, transporter_id="t-stopped")
    ops = rig.caller("ops")
    await ops.call("PUT", "/transporters/t-stopped", {"name": "T", "active": False, "verified": True})
    assert await reasons(captain) == ["transporter_inactive"]
    order = rig.order()
    await rig.publish(order.created())
    await rig.eventually(
        lambda: rig.rows("SELECT FROM match_rounds WHERE order_id = $1", order.order_id), bool
    )
    assert await rig.offers(order) == {}
    versions = [
        envelope.event
        for envelope in await rig.told(
            CAPTAINS_STATE, captain.user_id, lambda e: getattr(e, "version", 0) == 5
        )
    ]
    assert [getattr(state, "eligible", None) for state in versions] == [False, False, True, True, False]


async def test_positions_are_packed_many_a_record(rig: Rig) -> None:
    captain = rig.caller("captain")
    await captain.call("PUT", "/captains/me", ME)
    now = datetime.now(UTC)
    places = [PLACE | {"recordedAt": format_time(now + timedelta(seconds=n))} for n in range(100)]
    before = rig.metric("weelo_dispatcher_positions_total", outcome="sent")
    records = rig.metric("weelo_consumer_consumed_total", consumer="dispatcher-index")
    answers = await asyncio.gather(
        *(captain.call("POST", "/captains/me/locations", {"locations": places}) for _ in range(5))
    )
    assert [(answer.status_code, answer.json()["data"]) for answer in answers] == [
        (202, {"accepted": 100})
    ] * 5
    assert rig.metric("weelo_dispatcher_positions_total", outcome="sent") == before + 500
    await until(
        lambda: (
            rig.metric("weelo_dispatcher_positions_total", outcome="indexed")
            + rig.metric("weelo_dispatcher_positions_total", outcome="ignored")
            >= 500
        ),
        "500 positions read",
    )
    assert rig.metric("weelo_consumer_consumed_total", consumer="dispatcher-index") - records < 20


async def test_an_unregistered_captain_is_told_so(rig: Rig) -> None:
    stranger = rig.caller("captain")
    for method, path, body in (
        ("POST", "/captains/me/locations", {"locations": [PLACE]}),
        ("PUT", "/captains/me/availability", {"available": True}),
        ("GET", "/captains/me", None),
    ):
        answer = await stranger.call(method, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
    assert rig.metric("weelo_dispatcher_positions_total", outcome="unknown_captain") == 1
    assert (await stranger.call("GET", "/offers")).json()["data"] == {"offers": []}


BAD_LOCATIONS: list[tuple[object, str]] = [
    ([], "locations"),
    ([PLACE] * 101, "locations"),
    ([PLACE | {"latitude": 90.001}], "locations.0.latitude"),
    ([PLACE | {"latitude": "28.6"}], "locations.0.latitude"),
    ([PLACE | {"longitude": -181}], "locations.0.longitude"),
    ([PLACE | {"recordedAt": "yesterday"}], "locations.0.recordedAt"),
    ([PLACE | {"recordedAt": "2026-02-03T10:08:28"}], "locations.0.recordedAt"),
    ([PLACE | {"recordedAt": "0001-01-01T00:00:00+23:00"}], "locations.0.recordedAt"),
    ([PLACE | {"recordedAt": 1}], "locations.0.recordedAt"),
    ([{"latitude": 1, "longitude": 1}], "locations.0.recordedAt"),
    ([PLACE | {"speedMps": -1}], "locations.0.speedMps"),
    ([7], "locations.0"),
    ("all", "locations"),
]
BAD_REQUESTS: list[tuple[str, str, str, object]] = [
    ("captain", "PUT", "/captains/me", ME | {"vehicleType": ""}),
    ("captain", "PUT", "/captains/me", ME | {"vehicleSubtype": "x" * 65}),
    ("captain", "PUT", "/captains/me", ME | {"name": "a\x00b"}),
    ("captain", "PUT", "/captains/me", ME | {"transporterId": None}),
    ("captain", "PUT", "/captains/me", []),
    ("captain", "PUT", "/captains/me/availability", {"available": "yes"}),
    ("captain", "POST", "/offers/not-an-id/decline", {"reason": "OTHER"}),
    ("captain", "POST", "/offers/0190a5b2-0000-7000-8000-000000000000/decline", {"reason": "BORED"}),
    ("captain", "POST", "/offers/0190a5b2-0000-7000-8000-000000000000/decline", {"reason": 3}),
    ("captain", "POST", "/offers/0190a5b2-0000-7000-8000-000000000000/decline", {}),
    ("ops", "PUT", f"/transporters/{'x' * 65}", {"name": "T", "active": True}),
    ("ops", "PUT", "/transporters/a%00b", {"name": "T", "active": True}),
    ("ops", "PUT", "/transporters/t-1", {"name": "T", "active": 1}),
    ("ops", "GET", "/dispatch/orders/7", None),
]


async def test_a_bad_position_gets_a_400_that_names_the_field(rig: Rig) -> None:
    captain = rig.caller("captain")
    for locations, field in BAD_LOCATIONS:
        answer = await captain.call("POST", "/captains/me/locations", {"locations": locations})
        assert answer.status_code == 400, locations
        error = answer.json()["error"]
        assert error["code"] == "VALIDATION_ERROR"
        assert [detail["field"] for detail in error["details"]] == [field]


async def test_what_is_malformed_gets_a_400(rig: Rig) -> None:
    for role, method, path, body in BAD_REQUESTS:
        answer = await rig.caller(role).call(method, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), body


async def test_roles_are_kept_apart(rig: Rig) -> None:
    for role, method, path in (
        ("customer", "PUT", "/captains/me"),
        ("captain", "PUT", "/transporters/t-1"),
        ("customer", "GET", "/offers"),
        ("captain", "GET", "/dispatch/orders/0190a5b2-0000-7000-8000-000000000000/captains"),
    ):
        assert (await rig.caller(role).call(method, path, {})).status_code == 403


async def test_topics_full_of_rubbish_are_counted_named_in_the_log_once_and_passed_over(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    ignored = rig.metric("weelo_consumer_ignored_total", consumer="dispatcher-index")
    too_new = CaptainState(
        captain_id="k",
        version=2**63,
        transporter_id="t",
        vehicle_type="TRUCK",
        vehicle_subtype=rig.subtype,
        available=True,
        eligible=True,
        busy=False,
    )
    headers_of_too_new, too_new_value = encode(seal(too_new, source="test", time=datetime.now(UTC)))
    rubbish: list[tuple[Topic, bytes | None, list[tuple[str, bytes]]]] = [
        (CAPTAINS_STATE, b"{", []),
        (CAPTAINS_STATE, None, [("ce_type", b"weelo.captain.state.v1")]),
        (CAPTAINS_STATE, b"\xff\xfe", [("ce_id", b"\xff")]),
        (CAPTAINS_STATE, too_new_value, headers_of_too_new),
        (CAPTAINS_LOCATIONS, b"", []),
        (CAPTAINS_LOCATIONS, None, []),
        (CAPTAINS_LOCATIONS, b"\x02" + b"x" * 32, []),
        (CAPTAINS_LOCATIONS, b"\x01" + b"x" * 31, []),
        (CAPTAINS_LOCATIONS, b"\x01" + captain_fingerprint("k") + b"\x7f" * 16, []),
    ]
    sent = [
        await rig.producer.send(rig.kafka.topic_name(topic), value, key=b"k", headers=headers)
        for _ in range(HEAPS)
        for topic, value, headers in rubbish
    ]
    await asyncio.gather(*sent)
    await until(
        lambda: (
            rig.metric("weelo_consumer_ignored_total", consumer="dispatcher-index")
            >= ignored + HEAPS * len(rubbish)
        ),
        "the rubbish counted",
    )
    named = [record for record in caplog.records if record.getMessage() == "Malformed record ignored"]
    assert sorted(vars(record)["topic"] for record in named) == [CAPTAINS_LOCATIONS.name, CAPTAINS_STATE.name]
    assert all(vars(record)["reason"] for record in named)
    captain = await rig.captain(100)
    order = rig.order()
    await rig.publish(order.created())
    assert (await rig.live(order, 1)).keys() == {captain.user_id}


async def test_strange_vehicle_types_are_matched_exactly_or_not_at_all(rig: Rig) -> None:
    rig.subtype = f"टाटा ऐस 🚚 ' or 1=1 -- {rig.subtype}"
    captain = await rig.captain(100)
    order, other = rig.order(), rig.order()
    other.subtype = rig.subtype.upper()
    await rig.publish(order.created(), other.created())
    assert (await rig.live(order, 1)).keys() == {captain.user_id}
    await rig.eventually(
        lambda: rig.rows("SELECT FROM match_rounds WHERE order_id = $1", other.order_id), bool
    )
    assert await rig.offers(other) == {}
