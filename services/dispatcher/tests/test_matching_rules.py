"""The rules of matching and of an order's view: pure decisions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import domain
from dispatcher.candidates import Prospect, Refusal, Standing, choose, judge
from dispatcher.domain import (
    EndReason,
    Line,
    Offer,
    OfferStatus,
    OrderView,
    SearchPlan,
    TruckRequest,
    TruckState,
)
from weelo_common.events import OrderEvent, OrderFullyFilled, Place, TruckAssigned, TruckReleased

NOON = datetime(2026, 2, 3, 12, 0, tzinfo=UTC)
PLACE = Place(latitude=28.6, longitude=77.2, address="A")
PLAN = SearchPlan(PLACE, PLACE, 25, NOON, NOON + timedelta(seconds=60))
ORDER = OrderView("o-1", "c-1", 1, "active", True, PLAN, 0, 0, False)
GOOD = Standing(
    captain_id="k-1",
    transporter_id="t-1",
    vehicle_type="TRUCK",
    vehicle_subtype="TATA_ACE",
    vehicle_number="DL1",
    available=True,
    confirmed=True,
    transporter_active=True,
    transporter_verified=True,
    busy=False,
    open_offers=0,
    idle_since=NOON,
)
VEHICLE = ("TRUCK", "TATA_ACE")


def refusal_of(standing: Standing | None, *, fresh: bool = True, **more: object) -> Refusal | None:
    options: dict[str, object] = {"vehicle": VEHICLE, "offered_before": (), "given": {}}
    return judge(Prospect("k-1", 100, fresh), standing, **(options | more))  # type: ignore[arg-type]


def event(version: int, status: str, *, searching: bool, filled: int = 0, total: int = 2) -> OrderEvent:
    return OrderFullyFilled(
        order_id="o-1",
        order_version=version,
        customer_id="c-1",
        status=status,
        searching=searching,
        trucks_filled=filled,
        total_trucks=total,
        occurred_at=NOON,
    )


def test_an_offer_may_be_declined_while_it_is_live_and_its_order_searches_and_not_from_its_end_on() -> None:
    offer = Offer(
        offer_id="o",
        order_id="o-1",
        captain_id="k-1",
        transporter_id="t-1",
        vehicle_type="TRUCK",
        vehicle_subtype="TATA_ACE",
        vehicle_number="DL1",
        wave=1,
        distance_m=100,
        price_per_truck=500,
        open_trucks=1,
        status=OfferStatus.LIVE,
        expires_at=PLAN.expires_at,
    )
    before, at_the_end = PLAN.expires_at - timedelta(milliseconds=1), PLAN.expires_at
    assert domain.may_decline(offer, ORDER, before)
    assert not domain.may_decline(offer, ORDER, at_the_end)
    assert not domain.may_decline(offer, replace(ORDER, searching=False), before)
    for status in set(OfferStatus) - {OfferStatus.LIVE}:
        assert not domain.may_decline(replace(offer, status=status), ORDER, before)


@pytest.mark.parametrize(
    ("open_trucks", "target"), [(0, 0), (1, 5), (2, 6), (3, 9), (6, 18), (7, 20), (50, 20)]
)
def test_a_line_is_brought_to_five_or_three_per_open_truck_but_never_beyond_twenty(
    open_trucks: int, target: int
) -> None:
    assert domain.target_offers(open_trucks) == target


def test_a_line_with_more_live_offers_than_its_target_wants_none_and_takes_none_back() -> None:
    assert domain.wanted_offers(Line(*VEHICLE, 500, open_trucks=1, live_offers=9)) == 0
    assert domain.wanted_offers(Line(*VEHICLE, 500, open_trucks=2, live_offers=4)) == 2


def test_six_waves_come_one_each_sixth_of_the_orders_life_and_widen() -> None:
    assert [domain.wave_due(PLAN, wave) - NOON for wave in range(1, 7)] == [
        timedelta(seconds=second) for second in (0, 10, 20, 30, 40, 50)
    ]
    assert [domain.wave_radius_m(wave) for wave in range(1, 7)] == [2000, 5000, 10000, 25000, 50000, 50000]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"available": False}, Refusal.UNAVAILABLE),
        ({"confirmed": False}, Refusal.UNCONFIRMED),
        ({"busy": True}, Refusal.BUSY),
        ({"open_offers": 3}, Refusal.CAP),
        ({"transporter_active": False}, Refusal.TRANSPORTER_INACTIVE),
        ({"transporter_verified": False}, Refusal.UNVERIFIED),
        ({"transporter_active": None, "transporter_verified": None}, Refusal.TRANSPORTER_UNKNOWN),
        ({"vehicle_subtype": "tata_ace"}, Refusal.WRONG_VEHICLE),
    ],
)
def test_a_captain_whom_the_database_rules_out_is_refused(change: dict[str, object], reason: Refusal) -> None:
    assert refusal_of(replace(GOOD, **change)) is reason  # type: ignore[arg-type]


def test_a_captain_may_be_offered_an_order_once_and_only_while_he_is_heard_of() -> None:
    assert refusal_of(GOOD) is None
    assert refusal_of(None) is Refusal.UNKNOWN
    assert refusal_of(GOOD, fresh=False) is Refusal.STALE
    assert refusal_of(GOOD, offered_before={"k-1"}) is Refusal.ALREADY_OFFERED


def test_offers_made_in_the_same_transaction_count_towards_the_cap() -> None:
    assert refusal_of(replace(GOOD, open_offers=1), given={"k-1": 1}) is None
    assert refusal_of(replace(GOOD, open_offers=1), given={"k-1": 2}) is Refusal.CAP


def test_the_nearest_are_chosen_and_of_equals_the_longest_idle() -> None:
    standings = {
        name: replace(GOOD, captain_id=name, idle_since=NOON - timedelta(minutes=idle))
        for name, idle in (("far", 90), ("just-back", 1), ("long-idle", 30), ("busy", 99))
    }
    standings["busy"] = replace(standings["busy"], busy=True)
    near = [
        Prospect(name, distance, True)
        for name, distance in (("far", 300), ("just-back", 100), ("long-idle", 100), ("busy", 1))
    ]
    verdicts = choose(near, standings, wanted=2, vehicle=VEHICLE, offered_before=(), given={})
    assert [(verdict.captain_id, verdict.refusal) for verdict in verdicts] == [
        ("busy", Refusal.BUSY),
        ("long-idle", None),
        ("just-back", None),
        ("far", Refusal.FARTHER),
    ]


@pytest.mark.parametrize(
    ("status", "filled", "reason"),
    [
        ("cancelled", 0, EndReason.CANCELLED),
        ("fully_filled", 2, EndReason.FILLED),
        ("expired", 0, EndReason.EXPIRED),
        ("partially_filled", 1, EndReason.EXPIRED),
    ],
)
def test_why_a_search_ended_follows_from_the_state_that_the_event_tells(
    status: str, filled: int, reason: EndReason
) -> None:
    after, ended = domain.follow(ORDER, event(2, status, searching=False, filled=filled))
    assert (after.searching, after.status, ended) == (False, status, reason)


@given(st.permutations([2, 3, 4, 5]))
def test_in_whatever_order_events_come_the_newest_holds_and_the_search_ends_once(versions: list[int]) -> None:
    states = {
        2: ("partially_filled", True),
        3: ("active", True),
        4: ("cancelled", False),
        5: ("cancelled", False),
    }
    order, endings = ORDER, []
    for version in versions:
        status, searching = states[version]
        order, ended = domain.follow(order, event(version, status, searching=searching))
        endings.append(ended)
    assert (order.version, order.status, order.searching) == (5, "cancelled", False)
    assert [ended for ended in endings if ended] == [EndReason.CANCELLED]


def trip(version: int, captain: str, *, taken: bool) -> TruckAssigned | TruckReleased:
    common = {
        "order_id": "o-1",
        "order_version": version,
        "customer_id": "c-1",
        "status": "active",
        "searching": True,
        "trucks_filled": 0,
        "total_trucks": 1,
        "occurred_at": NOON,
        "truck_request_id": "r-1",
        "captain_id": captain,
    }
    if not taken:
        return TruckReleased.model_validate(
            common | {"reason": "released", "truck_request_status": "searching"}
        )
    return TruckAssigned.model_validate(
        common
        | {
            "transporter_id": "t-1",
            "vehicle_type": "TRUCK",
            "vehicle_subtype": "TATA_ACE",
            "vehicle_number": "DL1",
            "offer_id": "f-1",
            "pickup": PLACE,
            "drop": PLACE,
        }
    )


def apply(truck: TruckRequest | None, change: TruckAssigned | TruckReleased) -> TruckRequest | None:
    if isinstance(change, TruckAssigned):
        return domain.assign(truck, change) or truck
    return domain.release(truck, change) or truck


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_truck_request_has_the_holder_that_the_newest_event_tells(order: tuple[int, ...]) -> None:
    changes = [trip(2, "k-1", taken=True), trip(3, "k-1", taken=False), trip(4, "k-2", taken=True)]
    truck: TruckRequest | None = None
    for number in order:
        truck = apply(truck, changes[number])
        truck = apply(truck, changes[number])  # a repeat changes nothing
    assert truck is not None
    assert (truck.state, truck.captain_id, truck.version) == (TruckState.TAKEN, "k-2", 4)


def test_nobody_is_left_to_ask_only_after_the_last_wave_with_no_live_offer_and_an_open_truck() -> None:
    last, before = replace(ORDER, wave=6), replace(ORDER, wave=5)
    empty, live = Line(*VEHICLE, 500, 1, 0), Line("TRUCK", "EICHER", 500, 1, 1)
    done = Line(*VEHICLE, 500, 0, 0)
    assert domain.is_exhausted(last, [empty])
    assert not domain.is_exhausted(last, [empty, live])
    assert not domain.is_exhausted(before, [empty])
    assert not domain.is_exhausted(last, [done])


def test_no_offers_are_made_from_the_orders_end_on() -> None:
    assert domain.may_search(ORDER, PLAN.expires_at - timedelta(milliseconds=1))
    assert not domain.may_search(ORDER, PLAN.expires_at)
    assert not domain.may_search(replace(ORDER, searching=False), NOON)
    assert not domain.may_search(replace(ORDER, plan=None), NOON)
