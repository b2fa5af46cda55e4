"""Whatever is done to an order, in whatever order: what the ledger checks holds after each step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from order_api.decision import Decision
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
    start,
)
from order_api.model import STARTED, TERMINAL, WON, OrderStatus, TruckStatus, status_of
from weelo_common.events import (
    OrderCompleted,
    OrderEvent,
    OrderExpired,
    OrderFullyFilled,
    Place,
    TimerCancelled,
    TruckAssigned,
    TruckReleased,
)
from weelo_common.events.orders import OrderCancelled
from weelo_common.ids import new_id

NOW = datetime(2026, 2, 3, 10, 8, 28, tzinfo=UTC)
CAPTAINS = st.sampled_from(["a", "b", "c", "d"])
KINDS = ("ACE", "EICHER")
STEPS = {
    TruckStatus.SEARCHING: {TruckStatus.ASSIGNED, TruckStatus.EXPIRED, TruckStatus.CANCELLED},
    TruckStatus.ASSIGNED: {TruckStatus.IN_PROGRESS, TruckStatus.SEARCHING, TruckStatus.CANCELLED},
    TruckStatus.IN_PROGRESS: {TruckStatus.COMPLETED},
    TruckStatus.COMPLETED: set[TruckStatus](),
    TruckStatus.EXPIRED: set[TruckStatus](),
    TruckStatus.CANCELLED: set[TruckStatus](),
}
"""What one step may do to a truck request; a decision that first ends an overdue search makes two."""


class OrderLife(RuleBasedStateMachine):
    """Random commands at random times on one order."""

    @initialize(quantities=st.lists(st.integers(1, 3), min_size=1, max_size=2))
    def make(self, quantities: list[int]) -> None:
        place = Place(latitude=28.5, longitude=77.3, address="x")
        lines = tuple(
            Line("TRUCK", kind, quantity, 100) for kind, quantity in zip(KINDS, quantities, strict=False)
        )
        wish = NewOrder("c-1", "", "", place, place, 5, None, None, lines)
        self.now = NOW
        decision = create(wish, now=NOW, lifetime=timedelta(seconds=60), new_id=new_id)
        self.order = decision.order
        self.events = [event for event in decision.events if isinstance(event, OrderEvent)]
        self.cancelled_timers = 0
        self.busy: dict[str, str] = {}

    @rule(seconds=st.integers(1, 25))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(captain=CAPTAINS, kind=st.sampled_from(KINDS), elsewhere=st.booleans())
    def accept(self, captain: str, kind: str, elsewhere: bool) -> None:
        overdue = self.order.overdue(self.now)
        claim = Claim(captain, f"offer-{captain}", "t", "TRUCK", kind, "DL1")
        decision = self.take(accept(self.order, claim, captain_is_busy=elsewhere, now=self.now))
        assigned = [event for event in decision.events if isinstance(event, TruckAssigned)]
        assert not (assigned and overdue)
        if decision.refusal is None:
            assert decision.truck is not None
            assert decision.truck.captain_id == captain

    @rule()
    def cancel(self) -> None:
        self.take(cancel(self.order, text="no longer needed", now=self.now))

    @rule()
    def end(self) -> None:
        self.take(end_if_overdue(self.order, self.now))

    @rule(number=st.integers(0, 5), captain=CAPTAINS)
    def start(self, number: int, captain: str) -> None:
        self.take(start(self.order, self.truck_id(number), captain_id=captain, now=self.now))

    @rule(number=st.integers(0, 5), captain=CAPTAINS)
    def complete(self, number: int, captain: str) -> None:
        self.take(complete(self.order, self.truck_id(number), captain_id=captain, now=self.now))

    @rule(number=st.integers(0, 5), captain=st.one_of(st.none(), CAPTAINS))
    def release(self, number: int, captain: str | None) -> None:
        self.take(release(self.order, self.truck_id(number), captain_id=captain, reason="tyre", now=self.now))

    def truck_id(self, number: int) -> str:
        return self.order.trucks[number % self.order.total_trucks].id

    def take(self, decision: Decision) -> Decision:
        before, after = self.order, decision.order
        for old, new in zip(before.trucks, after.trucks, strict=True):
            through = STEPS[old.status] | {step for middle in STEPS[old.status] for step in STEPS[middle]}
            assert new.status is old.status or new.status in through
        assert not (after.searching and not before.searching)
        new_events = [event for event in decision.events if isinstance(event, OrderEvent)]
        if before != after:
            assert new_events
        for event in new_events:
            assert (event.status, event.searching, event.trucks_filled) == (
                after.status,
                after.searching,
                after.trucks_filled,
            )
            if isinstance(event, TruckAssigned):
                assert event.truck_request_id not in self.busy
                self.busy[event.truck_request_id] = event.captain_id
            if isinstance(event, TruckReleased):
                assert self.busy.pop(event.truck_request_id) == event.captain_id
        self.cancelled_timers += sum(isinstance(event, TimerCancelled) for event in decision.events)
        self.order = after
        self.events += new_events
        return decision

    @invariant()
    def versions_run_without_gap_or_repeat(self) -> None:
        assert [event.order_version for event in self.events] == list(range(1, len(self.events) + 1))
        assert self.order.version == len(self.events)

    @invariant()
    def the_status_follows_the_table(self) -> None:
        order = self.order
        assert order.status is status_of(
            [truck.status for truck in order.trucks],
            searching=order.searching,
            cancelled=order.cancellation is not None,
        )
        statuses = [truck.status for truck in order.trucks]
        if order.status is OrderStatus.FULLY_FILLED:
            assert set(statuses) == {TruckStatus.ASSIGNED}
        if order.status is OrderStatus.EXPIRED:
            assert set(statuses) == {TruckStatus.EXPIRED}
        if order.status is OrderStatus.CANCELLED:
            assert not set(statuses) & set(WON)
        if order.status is OrderStatus.ACTIVE:
            assert order.searching
        if not order.searching:
            assert TruckStatus.SEARCHING not in statuses
        if order.status is OrderStatus.COMPLETED:
            assert set(statuses) & set(STARTED) == {TruckStatus.COMPLETED}

    @invariant()
    def one_terminal_status_at_most_and_nothing_after_it(self) -> None:
        reached = [event.status for event in self.events]
        terminal = {status for status in reached if OrderStatus(status) in TERMINAL}
        assert len(terminal) <= 1
        if terminal:
            first = reached.index(terminal.pop())
            assert len(set(reached[first:])) == 1

    @invariant()
    def each_search_ends_once_and_its_timer_is_cancelled_once(self) -> None:
        counts = {
            kind: sum(isinstance(event, kind) for event in self.events)
            for kind in (OrderExpired, OrderFullyFilled, OrderCompleted, OrderCancelled)
        }
        assert all(count <= 1 for count in counts.values())
        assert counts[OrderExpired] + counts[OrderFullyFilled] <= 1
        assert counts[OrderCompleted] + counts[OrderCancelled] <= 1
        assert self.cancelled_timers == (not self.order.searching)

    @invariant()
    def the_captains_told_of_are_the_captains_who_run(self) -> None:
        running = {
            truck.id: truck.captain_id
            for truck in self.order.trucks
            if truck.status in (TruckStatus.ASSIGNED, TruckStatus.IN_PROGRESS)
        }
        assert running == self.busy
        assert len(set(running.values())) == len(running)


OrderLife.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestOrderLife = OrderLife.TestCase
