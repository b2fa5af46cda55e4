"""The rules of an order's life, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from order_api.decision import Decision, Refusal
from order_api.domain import (
    Claim,
    Line,
    NewOrder,
    accept,
    cancel,
    complete,
    create,
    end_if_overdue,
    release,
    reschedule_expiry,
    start,
)
from order_api.model import Order, OrderStatus, SearchEnd, TruckStatus
from weelo_common.events import (
    Event,
    OrderCancelled,
    OrderCreated,
    OrderEvent,
    OrderExpired,
    Place,
    TimerCancelled,
    TimerScheduled,
    TruckReleased,
)
from weelo_common.ids import new_id

NOW = datetime(2026, 2, 3, 10, 8, 28, 123_000, tzinfo=UTC)
LIFETIME = timedelta(seconds=60)
LATER = NOW + timedelta(seconds=10)
OVER = NOW + LIFETIME
ACE = Line("TRUCK", "TATA_ACE", 1, 500)


def new_order(*lines: Line) -> Decision:
    wish = NewOrder(
        customer_id="c-1",
        customer_name="",
        customer_phone="",
        pickup=Place(latitude=28.5355, longitude=77.391, address="Noida"),
        drop=Place(latitude=28.6139, longitude=77.209, address="Delhi"),
        distance_km=25,
        goods_type=None,
        cargo_weight_kg=None,
        lines=lines or (ACE,),
    )
    return create(wish, now=NOW, lifetime=LIFETIME, new_id=new_id)


def order_for(trucks: int) -> Order:
    return new_order(Line("TRUCK", "TATA_ACE", trucks, 500)).order


def claim(captain: str, subtype: str = "TATA_ACE") -> Claim:
    return Claim(captain, f"offer-{captain}", "t-1", "TRUCK", subtype, "DL1AB1234")


def won_by(order: Order, *captains: str) -> Order:
    for captain in captains:
        decision = accept(order, claim(captain), captain_is_busy=False, now=LATER)
        assert decision.refusal is None
        order = decision.order
    return order


def truck_of(order: Order, captain: str) -> str:
    return next(truck.id for truck in order.trucks if truck.captain_id == captain)


def kinds(decision: Decision) -> list[str]:
    return [type(event).__name__ for event in decision.events]


def order_events(events: tuple[Event, ...]) -> list[OrderEvent]:
    return [event for event in events if isinstance(event, OrderEvent)]


def test_a_new_order_searches_for_one_truck_request_a_truck_and_schedules_its_end() -> None:
    decision = new_order(Line("TRUCK", "TATA_ACE", 2, 500), Line("TRUCK", "EICHER", 1, 900))
    order = decision.order
    created, timer = decision.events
    assert isinstance(created, OrderCreated)
    assert isinstance(timer, TimerScheduled)
    assert (order.status, order.searching, order.version) == (OrderStatus.ACTIVE, True, 1)
    assert [truck.request_number for truck in order.trucks] == [1, 2, 3]
    assert order.total_amount == created.total_amount == 1900
    assert created.expires_at == timer.due_at == NOW + LIFETIME
    assert (timer.timer_key, timer.owner, timer.version) == (f"order-expiry:{order.id}", "order-api", 1)


@pytest.mark.parametrize(("left_ms", "seconds"), [(60_000, 60), (59_001, 60), (1, 1), (0, 0), (-5_000, 0)])
def test_the_seconds_left_are_rounded_up_and_never_below_nothing(left_ms: int, seconds: int) -> None:
    assert order_for(1).seconds_left(OVER - timedelta(milliseconds=left_ms)) == seconds
    assert won_by(order_for(1), "a").seconds_left(NOW) == 0  # the search is over


def test_the_last_truck_won_fills_the_order_and_ends_the_search() -> None:
    first = accept(order_for(2), claim("a"), captain_is_busy=False, now=LATER)
    second = accept(first.order, claim("b"), captain_is_busy=False, now=LATER)
    assert kinds(first) == ["TruckAssigned"]
    assert first.order.status is OrderStatus.PARTIALLY_FILLED
    assert kinds(second) == ["TruckAssigned", "OrderFullyFilled", "TimerCancelled"]
    assert (second.order.status, second.order.searching) == (OrderStatus.FULLY_FILLED, False)
    assert second.order.version == 4


def test_events_of_one_decision_all_carry_the_state_after_it() -> None:
    decision = accept(order_for(1), claim("a"), captain_is_busy=False, now=LATER)
    told = [(e.order_version, e.status, e.searching, e.trucks_filled) for e in order_events(decision.events)]
    assert told == [(2, "fully_filled", False, 1), (3, "fully_filled", False, 1)]


def test_a_captain_gets_only_a_truck_of_his_own_kind() -> None:
    order = new_order(ACE, Line("TRUCK", "EICHER", 1, 900)).order
    decision = accept(order, claim("a", "EICHER"), captain_is_busy=False, now=LATER)
    assert decision.truck is not None
    assert decision.truck.vehicle_subtype == "EICHER"
    again = accept(decision.order, claim("b", "EICHER"), captain_is_busy=False, now=LATER)
    assert again.refusal is Refusal.TRUCK_REQUEST_TAKEN


def test_a_repeated_accept_gives_the_same_truck_and_no_event_even_after_the_search() -> None:
    order = won_by(order_for(1), "a")
    decision = accept(order, claim("a"), captain_is_busy=True, now=OVER + LIFETIME)
    assert decision.refusal is None
    assert decision.truck is not None
    assert decision.truck.captain_id == "a"
    assert decision.events == ()


def test_a_repeated_accept_of_an_overdue_order_ends_its_search_and_is_still_granted() -> None:
    order = won_by(order_for(2), "a")
    decision = accept(order, claim("a"), captain_is_busy=False, now=OVER)
    assert decision.refusal is None
    assert kinds(decision) == ["OrderExpired", "TimerCancelled"]


@pytest.mark.parametrize(("before_end_ms", "granted"), [(1, True), (0, False), (-1, False)])
def test_an_accept_wins_only_before_the_end(before_end_ms: int, granted: bool) -> None:
    now = OVER - timedelta(milliseconds=before_end_ms)
    decision = accept(order_for(1), claim("a"), captain_is_busy=False, now=now)
    assert (decision.refusal is None) is granted
    if not granted:
        assert decision.refusal is Refusal.ORDER_EXPIRED
        assert decision.order.status is OrderStatus.EXPIRED


def test_a_lost_accept_names_the_first_reason_that_holds() -> None:
    filled = won_by(order_for(1), "a")
    cancelled = cancel(won_by(order_for(2), "a"), text=None, now=LATER).order
    expired = end_if_overdue(order_for(1), OVER).order
    ended_by_time_then_cancelled = cancel(won_by(order_for(2), "a"), text=None, now=OVER).order
    assert ended_by_time_then_cancelled.search_end is SearchEnd.TIME

    def refused(order: Order, now: datetime = LATER) -> Refusal | None:
        return accept(order, claim("z"), captain_is_busy=True, now=now).refusal

    assert refused(cancelled, OVER) is Refusal.ORDER_CANCELLED
    assert refused(ended_by_time_then_cancelled, OVER) is Refusal.ORDER_CANCELLED
    assert refused(expired, OVER) is Refusal.ORDER_EXPIRED
    assert refused(filled) is Refusal.TRUCK_REQUEST_TAKEN
    assert refused(filled, OVER) is Refusal.TRUCK_REQUEST_TAKEN
    assert refused(order_for(1)) is Refusal.CAPTAIN_BUSY


def test_cancelling_frees_every_captain_who_won() -> None:
    decision = cancel(won_by(order_for(3), "a", "b"), text="found another", now=LATER)
    assert kinds(decision) == ["OrderCancelled", "TruckReleased", "TruckReleased", "TimerCancelled"]
    assert decision.order.status is OrderStatus.CANCELLED
    assert {truck.status for truck in decision.order.trucks} == {TruckStatus.CANCELLED}
    assert decision.order.trucks_filled == 0
    told = decision.events[0]
    assert isinstance(told, OrderCancelled)
    assert told.reason == "customer"  # what people typed stays here
    released = [event for event in decision.events if isinstance(event, TruckReleased)]
    assert {(event.reason, event.truck_request_status) for event in released} == {("cancelled", "cancelled")}


def test_cancelling_again_changes_nothing_and_keeps_the_first_reason() -> None:
    first = cancel(order_for(1), text="one", now=LATER)
    again = cancel(first.order, text="two", now=OVER)
    assert again.events == ()
    assert again.refusal is None
    assert again.order.cancellation == first.order.cancellation


def test_a_full_order_may_be_cancelled_until_a_trip_starts() -> None:
    order = won_by(order_for(2), "a", "b")
    assert cancel(order, text=None, now=OVER).refusal is None
    started = start(order, truck_of(order, "a"), captain_id="a", now=LATER).order
    assert cancel(started, text=None, now=OVER).refusal is Refusal.NOT_CANCELLABLE


def test_an_overdue_order_with_nothing_won_expires_instead_of_being_cancelled() -> None:
    decision = cancel(order_for(1), text=None, now=OVER)
    assert decision.refusal is Refusal.NOT_CANCELLABLE
    assert decision.order.status is OrderStatus.EXPIRED
    assert kinds(decision) == ["OrderExpired", "TimerCancelled"]


def test_an_overdue_order_with_a_truck_won_ends_its_search_and_is_cancelled_at_once() -> None:
    decision = cancel(won_by(order_for(2), "a"), text=None, now=OVER)
    assert kinds(decision) == ["OrderExpired", "OrderCancelled", "TruckReleased", "TimerCancelled"]
    assert {event.status for event in order_events(decision.events)} == {"cancelled"}
    assert [truck.status for truck in decision.order.trucks] == [TruckStatus.CANCELLED, TruckStatus.EXPIRED]


def test_the_end_by_time_expires_only_open_truck_requests() -> None:
    order = won_by(order_for(3), "a")
    decision = end_if_overdue(order, OVER)
    expired = decision.events[0]
    assert isinstance(expired, OrderExpired)
    assert expired.expired_truck_request_ids == tuple(truck.id for truck in order.trucks[1:])
    assert expired.status == decision.order.status == OrderStatus.PARTIALLY_FILLED
    assert decision.order.search_end is SearchEnd.TIME


def test_the_end_by_time_comes_once_and_not_before_its_time() -> None:
    order = order_for(1)
    assert end_if_overdue(order, OVER - timedelta(milliseconds=1)).events == ()
    ended = end_if_overdue(order, OVER)
    assert end_if_overdue(ended.order, OVER + LIFETIME).events == ()


def test_a_fired_timer_needs_no_cancelling() -> None:
    assert kinds(end_if_overdue(order_for(1), OVER, timer_fired=True)) == ["OrderExpired"]


def test_a_timer_scheduled_again_has_a_higher_version_and_so_has_its_cancelling() -> None:
    decision = reschedule_expiry(order_for(1), sender_ahead=timedelta(seconds=5))
    timer = decision.events[0]
    assert isinstance(timer, TimerScheduled)
    assert (timer.version, timer.due_at) == (2, OVER + timedelta(seconds=5))
    assert decision.order.version == 1  # a timer's scheduling is no event of the order
    cancelled = cancel(decision.order, text=None, now=LATER).events[-1]
    assert isinstance(cancelled, TimerCancelled)
    assert cancelled.version == 2


def test_trips_start_and_complete_in_turn_and_the_last_completes_the_order_once() -> None:
    order = won_by(order_for(2), "a", "b")
    a, b = truck_of(order, "a"), truck_of(order, "b")
    order = start(order, a, captain_id="a", now=LATER).order
    assert order.status is OrderStatus.IN_PROGRESS
    order = complete(order, a, captain_id="a", now=LATER).order
    assert order.status is OrderStatus.IN_PROGRESS
    order = start(order, b, captain_id="b", now=LATER).order
    last = complete(order, b, captain_id="b", now=LATER)
    assert kinds(last) == ["TruckReleased", "OrderCompleted"]
    assert last.order.status is OrderStatus.COMPLETED
    assert complete(last.order, b, captain_id="b", now=LATER).events == ()


def test_a_trip_may_be_done_while_the_order_still_searches_and_completes_it_when_the_search_ends() -> None:
    order = won_by(order_for(2), "a")
    truck = truck_of(order, "a")
    order = start(order, truck, captain_id="a", now=LATER).order
    order = complete(order, truck, captain_id="a", now=LATER).order
    assert order.status is OrderStatus.PARTIALLY_FILLED
    ended = end_if_overdue(order, OVER, timer_fired=True)
    assert kinds(ended) == ["OrderExpired", "OrderCompleted"]
    assert ended.order.status is OrderStatus.COMPLETED


def test_starting_and_completing_are_repeatable() -> None:
    order = won_by(order_for(1), "a")
    truck = truck_of(order, "a")
    order = start(order, truck, captain_id="a", now=LATER).order
    again = start(order, truck, captain_id="a", now=LATER)
    assert (again.events, again.refusal) == ((), None)


@pytest.mark.parametrize(
    ("reached", "step"),
    [
        ("assigned", "complete"),
        ("completed", "start"),
        ("completed", "release"),
        ("in_progress", "release"),
        ("cancelled", "start"),
        ("cancelled", "complete"),
        ("cancelled", "release"),
    ],
)
def test_a_step_that_the_state_table_does_not_have_is_refused(reached: str, step: str) -> None:
    order = won_by(order_for(2), "a")
    truck = truck_of(order, "a")
    if reached in ("in_progress", "completed"):
        order = start(order, truck, captain_id="a", now=LATER).order
    if reached == "completed":
        order = complete(order, truck, captain_id="a", now=LATER).order
    if reached == "cancelled":
        order = cancel(order, text=None, now=LATER).order
    decision = {
        "start": lambda: start(order, truck, captain_id="a", now=LATER),
        "complete": lambda: complete(order, truck, captain_id="a", now=LATER),
        "release": lambda: release(order, truck, captain_id="a", reason="tyre", now=LATER),
    }[step]()
    assert decision.refusal is Refusal.INVALID_TRANSITION
    assert decision.truck is not None
    assert decision.truck.status == reached
    assert decision.order == order


def test_another_captains_truck_request_is_not_found() -> None:
    order = won_by(order_for(2), "a")
    truck = truck_of(order, "a")
    assert start(order, truck, captain_id="b", now=LATER).refusal is Refusal.NOT_YOURS
    assert complete(order, truck, captain_id="b", now=LATER).refusal is Refusal.NOT_YOURS
    assert release(order, truck, captain_id="b", reason="x", now=LATER).refusal is Refusal.NOT_YOURS


def test_a_release_while_searching_opens_the_truck_again() -> None:
    order = won_by(order_for(2), "a")
    truck = truck_of(order, "a")
    decision = release(order, truck, captain_id="a", reason="tyre", now=LATER)
    assert kinds(decision) == ["TruckReleased"]
    assert decision.truck is not None
    assert (decision.truck.status, decision.truck.captain_id) == (TruckStatus.SEARCHING, None)
    assert decision.order.status is OrderStatus.ACTIVE
    assert accept(decision.order, claim("b"), captain_is_busy=False, now=LATER).refusal is None


def test_a_release_is_repeatable_while_nobody_else_took_the_truck() -> None:
    order = won_by(order_for(2), "a")
    truck = truck_of(order, "a")
    order = release(order, truck, captain_id="a", reason="tyre", now=LATER).order
    assert release(order, truck, captain_id="a", reason="tyre", now=LATER).events == ()
    assert release(order, truck, captain_id=None, reason="tyre", now=LATER).refusal is None
    retaken = won_by(order, "b")
    assert release(retaken, truck, captain_id="a", reason="tyre", now=LATER).refusal is Refusal.NOT_YOURS


def test_a_release_after_the_search_cancels_the_truck_and_with_the_last_one_the_order() -> None:
    order = won_by(order_for(2), "a", "b")
    first = release(order, truck_of(order, "a"), captain_id=None, reason="ops", now=OVER)
    assert first.order.status is OrderStatus.PARTIALLY_FILLED
    last = release(first.order, truck_of(order, "b"), captain_id="b", reason="tyre", now=OVER)
    assert kinds(last) == ["TruckReleased", "OrderCancelled"]
    told = last.events[1]
    assert isinstance(told, OrderCancelled)
    assert told.reason == "no_truck_left"
    assert last.order.status is OrderStatus.CANCELLED


def test_a_release_that_leaves_only_completed_trips_completes_the_order() -> None:
    order = won_by(order_for(2), "a", "b")
    a, b = truck_of(order, "a"), truck_of(order, "b")
    order = complete(start(order, a, captain_id="a", now=LATER).order, a, captain_id="a", now=LATER).order
    last = release(order, b, captain_id="b", reason="tyre", now=LATER)
    assert kinds(last) == ["TruckReleased", "OrderCompleted"]


def test_a_release_of_an_overdue_order_first_ends_its_search() -> None:
    order = won_by(order_for(2), "a")
    decision = release(order, truck_of(order, "a"), captain_id="a", reason="tyre", now=OVER)
    assert kinds(decision) == ["OrderExpired", "TruckReleased", "OrderCancelled", "TimerCancelled"]
    assert {event.status for event in order_events(decision.events)} == {"cancelled"}
    assert [event.order_version for event in order_events(decision.events)] == [3, 4, 5]


def test_ops_cannot_release_a_truck_that_nobody_won() -> None:
    order = order_for(1)
    decision = release(order, order.trucks[0].id, captain_id=None, reason="ops", now=LATER)
    assert decision.refusal is Refusal.INVALID_TRANSITION
