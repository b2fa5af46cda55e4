"""How late searches end is a promise, and an alarm hangs on it; how far orders come is what a dashboard shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry

from order_api.domain import Claim as Offer
from order_api.domain import Line, NewOrder, accept, create, end_if_overdue, release, start
from order_api.metrics import STEPS, OrderMetrics
from order_api.model import Order
from weelo_common.events import OrderEvent, Place
from weelo_common.ids import new_id

NAME = "weelo_order_api_ended_late_seconds"
NOW = datetime(2026, 2, 3, 10, 8, 28, tzinfo=UTC)
LIFETIME = timedelta(seconds=60)


def order_for_two() -> Order:
    wish = NewOrder(
        customer_id="c-1",
        customer_name="",
        customer_phone="",
        pickup=Place(latitude=28.5355, longitude=77.391, address="Noida"),
        drop=Place(latitude=28.6139, longitude=77.209, address="Delhi"),
        distance_km=25,
        goods_type=None,
        cargo_weight_kg=None,
        lines=(Line("TRUCK", "TATA_ACE", 2, 500),),
    )
    return create(wish, now=NOW, lifetime=LIFETIME, new_id=new_id).order


def test_a_search_that_ends_by_time_is_counted_with_who_noticed_and_how_late_it_was() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    metrics.search_ended("timer", timedelta(milliseconds=8))
    metrics.search_ended("sweep", timedelta(seconds=2.1))
    assert registry.get_sample_value("weelo_order_api_searches_ended_total", {"noticed_by": "sweep"}) == 1
    assert registry.get_sample_value(f"{NAME}_bucket", {"le": "2.0"}) == 1
    assert registry.get_sample_value(f"{NAME}_count") == 2


def test_each_step_of_an_order_is_told_with_its_time_since_the_creation() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    order = order_for_two()
    claim = Offer("k-1", new_id(), "t-1", "TRUCK", "TATA_ACE", "DL 1")
    won = accept(order, claim, captain_is_busy=False, now=NOW + timedelta(seconds=4))
    metrics.told(won.events, order, NOW + timedelta(seconds=4), noticed_by="accept")
    truck_id = won.truck.id if won.truck else ""
    begun = start(won.order, truck_id, captain_id="k-1", now=NOW + timedelta(seconds=40))
    metrics.told(begun.events, won.order, NOW + timedelta(seconds=40), noticed_by="trip")
    over = NOW + LIFETIME + timedelta(milliseconds=8)
    ended = end_if_overdue(begun.order, over)
    metrics.told(ended.events, begun.order, over, noticed_by="timer")

    def seconds(step: str) -> float | None:
        return registry.get_sample_value("weelo_order_api_step_seconds_sum", {"step": step})

    assert (seconds("assigned"), seconds("started")) == (4.0, 40.0)
    assert seconds("expired") is not None
    assert registry.get_sample_value("weelo_order_api_searches_ended_total", {"noticed_by": "timer"}) == 1
    assert registry.get_sample_value(f"{NAME}_bucket", {"le": "0.01"}) == 1


def test_a_truck_given_back_is_a_step_and_one_whose_order_ended_is_none() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    order = order_for_two()
    claim = Offer("k-1", new_id(), "t-1", "TRUCK", "TATA_ACE", "DL 1")
    won = accept(order, claim, captain_is_busy=False, now=NOW)
    given_back = release(
        won.order, won.truck.id if won.truck else "", captain_id="k-1", reason="a flat tyre", now=NOW
    )
    metrics.told(given_back.events, won.order, NOW, noticed_by="trip")
    (released,) = (event for event in given_back.events if getattr(event, "reason", None) == "released")
    metrics.told([replace_reason(released, "cancelled")], won.order, NOW, noticed_by="trip")
    assert registry.get_sample_value("weelo_order_api_step_seconds_count", {"step": "released"}) == 1


def replace_reason(event: object, reason: str) -> OrderEvent:
    assert isinstance(event, OrderEvent)
    return event.model_copy(update={"reason": reason})


def test_every_event_that_ends_or_moves_an_order_is_a_step() -> None:
    """A new one must be thought of: it is a step, or it is named here."""
    no_steps = {"OrderCreated", "TruckReleased"}
    known = {event.__name__ for event in STEPS} | no_steps
    assert {event.__name__ for event in OrderEvent.__subclasses__()} == known
