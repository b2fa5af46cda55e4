"""The demo counts honestly: events once, races and retries by the answers, and it says what it did not show."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.demo.captains import Broadcast, Decision
from tools.demo.feed import EventCounts
from tools.demo.phone import Addresses, read_answer
from tools.demo.report import REQUIRED, make_report, missing
from tools.demo.settings import DemoError, Surroundings
from tools.demo.stage import Meeting
from tools.demo.tally import Latency, Tally
from tools.demo.world import DELHI
from weelo_cli.ledger import LedgerReport
from weelo_common.events import (
    DispatchExhausted,
    Event,
    Offer,
    OffersMade,
    OffersWithdrawn,
    OrderCancelled,
    OrderCreated,
    OrderExpired,
    Place,
    WithdrawnOffer,
)

SURROUNDINGS = Surroundings(
    Addresses("http://o", "http://d", "http://n", "ws://n/ws"),
    Path(),
    "Apache Kafka 4",
    "PostgreSQL",
    "Valkey",
)
LEDGER = LedgerReport({}, {}, {})
PLACE = Place(latitude=28.6, longitude=77.2, address="Delhi")
NOW = datetime(2026, 2, 3, 10, 8, 28, tzinfo=UTC)


def order_state(customer_id: str, *, trucks_filled: int = 0) -> dict[str, Any]:
    return {
        "order_id": "o-1",
        "order_version": 2,
        "customer_id": customer_id,
        "status": "any",
        "searching": False,
        "trucks_filled": trucks_filled,
        "total_trucks": 2,
        "occurred_at": NOW,
    }


def offer(captain_id: str) -> Offer:
    return Offer(
        offer_id=f"offer-{captain_id}",
        captain_id=captain_id,
        transporter_id="t-1",
        vehicle_type="TRUCK",
        vehicle_subtype="TATA_ACE",
        pickup_distance_m=120,
        price_per_truck=500,
        open_trucks=1,
        offer_token="token",
        expires_at=NOW,
    )


def test_an_event_that_comes_twice_counts_once() -> None:
    tally = Tally()
    counts = EventCounts(tally, "demo1-")
    for _ in range(2):
        counts.add("event-1", OrderCancelled(**order_state("demo1-c-1"), reason="customer"))
    assert tally.orders.cancelled == 1


def test_another_evenings_people_do_not_count() -> None:
    tally = Tally()
    counts = EventCounts(tally, "demo1-")
    counts.add("event-1", made(1, 2_000, "demo1-k-1", "demo2-k-1"))
    counts.add("event-2", OrderCancelled(**order_state("demo2-c-1"), reason="customer"))
    withdrawn = tuple(WithdrawnOffer(offer_id=f"{who}", captain_id=who) for who in ("demo1-k-1", "demo2-k-1"))
    counts.add("event-3", OffersWithdrawn(order_id="o-1", reason="filled", offers=withdrawn))
    assert (tally.offers.made, tally.offers.withdrawn, tally.orders.cancelled) == (1, 1, 0)


def test_a_search_that_ends_by_time_is_expired_without_trucks_and_partially_filled_with_some() -> None:
    tally = Tally()
    counts = EventCounts(tally, "demo1-")
    counts.add("event-1", OrderExpired(**order_state("demo1-c-1"), expired_truck_request_ids=("r-1", "r-2")))
    counts.add(
        "event-2",
        OrderExpired(**order_state("demo1-c-2", trucks_filled=1), expired_truck_request_ids=("r-1",)),
    )
    assert (tally.orders.expired, tally.orders.partially_filled) == (1, 1)


def test_an_order_whose_first_reply_was_lost_counts_as_created_by_its_replay() -> None:
    tally = Tally()
    tally.replayed("o-1")
    tally.replayed("o-1")
    assert (tally.orders.created, tally.orders.replayed, tally.answered) == (1, 2, {"o-1"})


def test_the_reply_that_made_an_order_may_arrive_after_its_replay() -> None:
    tally = Tally()
    tally.replayed("o-1")
    tally.created("o-1", sent_at=1.0, seconds=0.1)
    assert (tally.orders.created, tally.surprise_count) == (1, 0)


def test_two_replies_that_each_made_the_same_order_are_a_surprise() -> None:
    tally = Tally()
    tally.created("o-1", sent_at=1.0, seconds=0.1)
    tally.created("o-1", sent_at=1.0, seconds=0.1)
    assert (tally.orders.created, tally.surprise_count) == (1, 1)


def test_the_time_to_the_first_offer_counts_from_the_sending_and_by_the_first_phone() -> None:
    tally = Tally()
    tally.offer_on_a_phone("o-1", at=10.25)  # it may come before the reply to the create
    tally.created("o-1", sent_at=10.0, seconds=0.5)
    tally.offer_on_a_phone("o-1", at=11.0)
    tally.created("o-2", sent_at=12.0, seconds=0.5)
    assert tally.create_to_offer().samples == [0.25]


def test_an_order_that_waited_for_a_later_wave_is_left_out_of_the_time_to_a_captain_who_is_near() -> None:
    tally = Tally()
    for order_id, wave in (("o-1", 1), ("o-2", 4)):
        tally.created(order_id, sent_at=10.0, seconds=0.5)
        tally.dispatch.wave(order_id, 1, 2_000, 1 if wave == 1 else 0)
        tally.dispatch.wave(order_id, wave, 25_000, 1)
    tally.offer_on_a_phone("o-1", at=10.25)
    tally.offer_on_a_phone("o-2", at=21.0)
    assert tally.create_to_near_offer().samples == [0.25]
    assert tally.create_to_offer().samples == [0.25, 11.0]


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0)])
def test_percentiles_are_nearest_rank_in_ms(percent: int, expected: float) -> None:
    assert Latency([number / 1000 for number in range(1, 101)]).percentile_ms(percent) == expected


def test_nothing_measured_has_no_percentile() -> None:
    assert Latency().percentile_ms(99) is None


def test_the_report_has_the_fields_its_readers_know() -> None:
    report = make_report(Tally(), SURROUNDINGS, LedgerReport({"orders_have_events": True}, {}, {}))
    assert list(report) == [
        "kafka",
        "postgres",
        "redis",
        "orders",
        "offers",
        "dispatch",
        "pushed",
        "latency_ms",
        "ledger",
    ]
    assert set(report["orders"]) == {
        "created",
        "replayed",
        "concurrent_rejected",
        "active_rejected",
        "fully_filled",
        "partially_filled",
        "cancelled",
        "expired",
    }
    assert set(report["offers"]) == {"made", "accepted", "declined", "withdrawn", "lost_races"}
    assert {name: set(times) for name, times in report["latency_ms"].items()} == {
        "create": {"p50", "p99"},
        "create_to_offer": {"p50", "p99"},
        "create_to_near_offer": {"p50", "p99"},
        "accept": {"p50", "p99"},
    }
    assert report["ledger"] == {"ok": True, "orders_have_events": True}


def made(wave: int, radius_m: int, *captains: str) -> OffersMade:
    return OffersMade(
        order_id="o-1",
        wave=wave,
        radius_m=radius_m,
        offers=tuple(offer(captain) for captain in captains),
        pickup=PLACE,
        drop=PLACE,
        distance_km=3,
    )


def created(customer_id: str) -> OrderCreated:
    state = order_state(customer_id) | {"order_version": 1, "searching": True}
    return OrderCreated(
        **state, pickup=PLACE, drop=PLACE, distance_km=3, total_amount=1, expires_at=NOW, truck_requests=()
    )


@pytest.mark.parametrize("created_comes", [0, 2, 5])
def test_waves_replacements_and_the_end_of_a_search_are_told_apart(created_comes: int) -> None:
    tally = Tally()
    counts = EventCounts(tally, "demo1-")
    events: list[Event] = [
        made(1, 2_000, "demo1-k-1"),
        made(1, 2_000, "demo1-k-2"),  # in the place of one who declined
        made(2, 5_000),
        made(3, 10_000, "demo1-k-3", "demo1-k-4"),
        DispatchExhausted(order_id="o-1", waves=6),
    ]
    events.insert(created_comes, created("demo1-c-1"))  # another topic: read sooner or later
    for number, event in enumerate(events):
        counts.add(f"event-{number}", event)
    waves = {
        number: (count.radius_m, count.orders, count.offers) for number, count in tally.dispatch.waves.items()
    }
    assert waves == {1: (2_000, 1, 1), 2: (5_000, 1, 0), 3: (10_000, 1, 2)}
    assert (tally.dispatch.replacements, tally.dispatch.exhausted) == (1, 1)
    report = make_report(tally, SURROUNDINGS, LEDGER)["dispatch"]
    assert report["offers_of_later_waves"] == 2
    assert report["waves"][2] == {"wave": 3, "radius_km": 10.0, "orders": 1, "offers": 2}


def test_waves_of_another_evenings_orders_do_not_count() -> None:
    tally = Tally()
    counts = EventCounts(tally, "demo1-")
    counts.add("event-1", created("demo2-c-1"))
    counts.add("event-2", made(1, 2_000, "demo2-k-1"))
    assert tally.dispatch.waves == {}


def test_what_an_evening_did_not_show_is_named() -> None:
    tally = Tally()
    assert missing(make_report(tally, SURROUNDINGS, LEDGER)) == [f"{g}.{n}" for g, n in REQUIRED]
    for group, name in REQUIRED:
        if name == "offers_of_later_waves":
            tally.dispatch.wave("o-1", 2, 5_000, 1)
        else:
            setattr(getattr(tally, group), name, 1)
    assert missing(make_report(tally, SURROUNDINGS, LEDGER)) == []


async def test_captains_of_a_race_all_answer_once_the_last_is_there() -> None:
    meeting = Meeting(2)
    broadcast = Broadcast("offer", "token", "o-1", DELHI, DELHI)
    first = meeting.decide("k-1", broadcast)
    second = meeting.decide("k-2", broadcast)
    assert set(await asyncio.gather(first, second)) == {Decision.ACCEPT}


def test_an_answer_that_is_no_envelope_is_told_apart() -> None:
    assert read_answer(httpx.Response(502, text="Bad Gateway"), 0.1).code == "NOT_AN_ENVELOPE"
    failure = {"success": False, "error": {"code": "NOT_FOUND", "message": "no"}}
    assert read_answer(httpx.Response(404, json=failure), 0.1).code == "NOT_FOUND"


def test_a_missing_address_is_named() -> None:
    with pytest.raises(DemoError, match="WEELO_STACK_FILE"):
        Surroundings.from_environment({})
