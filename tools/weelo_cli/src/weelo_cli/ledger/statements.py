"""The statements of the ledger. Each is a pure function that returns what speaks against it; nothing means it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from weelo_cli.ledger.facts import Facts, LoggedEvent
from weelo_cli.ledger.report import LedgerReport
from weelo_common.events.orders import (
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderEvent,
    OrderExpired,
    OrderFullyFilled,
    TruckAssigned,
    TruckReleased,
)

WON = frozenset({"assigned", "in_progress", "completed"})
RUNNING = frozenset({"assigned", "in_progress"})
TERMINAL = frozenset({"expired", "cancelled", "completed"})
CREATED = 201  # the status that an honest retry gets again

Statement = Callable[[Facts], list[str]]


def every_201_is_an_order(facts: Facts) -> list[str]:
    """Every order id that a client was given exists."""
    return [
        f"order {order_id} was answered and is not there"
        for order_id in sorted(facts.answered_201 - facts.orders.keys())
    ]


def every_idempotency_record_has_its_one_order(facts: Facts) -> list[str]:
    """A kept answer belongs to one order of the same customer, and names it."""
    against: list[str] = []
    times = Counter(answer.order_id for answer in facts.answers)
    against += [f"order {order_id} has {count} records" for order_id, count in times.items() if count > 1]
    for answer in facts.answers:
        order = facts.orders.get(answer.order_id)
        if order is None:
            against.append(f"the record of order {answer.order_id} has no order")
        elif order.customer_id != answer.customer_id:
            against.append(f"the record of order {answer.order_id} is another customer's")
        elif answer.status == CREATED and answer.answered_order_id != answer.order_id:
            against.append(f"the record of order {answer.order_id} answers with {answer.answered_order_id}")
    return against


def orders_are_created_events_are_the_dispatchers_view(facts: Facts) -> list[str]:
    """The same orders in order-api, as distinct ``created`` events, and in the dispatcher's view."""
    created = {
        order_id: len({one.event_id for one in log if isinstance(one.event, OrderCreated)})
        for order_id, log in facts.events.items()
    }
    announced = {order_id for order_id, count in created.items() if count}
    return [
        *_each(facts.orders.keys() - announced, "has no created event"),
        *_each(announced - facts.orders.keys(), "has a created event and is not there"),
        *_each((order_id for order_id, count in created.items() if count > 1), "has several created events"),
        *_each(facts.orders.keys() - facts.dispatcher_orders, "is unknown to the dispatcher"),
        *_each(facts.dispatcher_orders - facts.orders.keys(), "is known to the dispatcher alone"),
    ]


def versions_of_each_order_run_1_2_3(facts: Facts) -> list[str]:
    """In the log's own order, repeats apart; and the row stands at the last of them."""
    against: list[str] = []
    for order_id, log in facts.events.items():
        versions = [one.event.order_version for one in _distinct(log)]
        if versions != list(range(1, len(versions) + 1)):
            against.append(f"order {order_id} has the versions {_some(versions)}")
        order = facts.orders.get(order_id)
        if order is not None and versions and order.version != max(versions):
            against.append(
                f"order {order_id} stands at version {order.version}, its events at {max(versions)}"
            )
    return against


def each_search_ended_at_most_once(facts: Facts) -> list[str]:
    """By filling, by time or by a cancel; and a search that is over never begins again."""
    against: list[str] = []
    for order_id, log in facts.events.items():
        events = _in_order(log)
        ends = sum(isinstance(event, (OrderFullyFilled, OrderExpired)) for event in events)
        for before, event in pairwise(events):
            ends += isinstance(event, OrderCancelled) and before.searching
            if event.searching and not before.searching:
                against.append(f"order {order_id} searches again at version {event.order_version}")
        if ends > 1:
            against.append(f"the search of order {order_id} ended {ends} times")
    return against


def at_most_one_terminal_status_per_order(facts: Facts) -> list[str]:
    """``expired``, ``cancelled`` or ``completed``: reached once, never left, and the row's own."""
    against: list[str] = []
    for order_id, log in facts.events.items():
        events = _in_order(log)
        statuses = [event.status for event in events]
        reached = {status for status in statuses if status in TERMINAL}
        against += [
            f"order {order_id} has several {kind.TYPE}"
            for kind in (OrderExpired, OrderCancelled, OrderCompleted)
            if sum(isinstance(event, kind) for event in events) > 1
        ]
        if len(reached) > 1:
            against.append(f"order {order_id} was {', then '.join(sorted(reached))}")
        elif reached and statuses[-1] not in reached:
            against.append(f"order {order_id} was {reached.pop()}, then {statuses[-1]}")
        order = facts.orders.get(order_id)
        if order is not None and statuses and order.status != statuses[-1]:
            against.append(f"order {order_id} is {order.status}, its last event says {statuses[-1]}")
    return against


def no_order_searches_past_its_time(facts: Facts) -> list[str]:
    """By order-api's database clock."""
    late = (order.id for order in facts.orders.values() if order.searching and order.overdue)
    return _each(late, "is still searching past its time")


def trucks_filled_counts_the_trucks_won(facts: Facts) -> list[str]:
    """Won and not released; the last event says the same."""
    won = Counter(truck.order_id for truck in facts.trucks if truck.status in WON)
    against = [
        f"order {order.id} says {order.trucks_filled} filled, {won[order.id]} are won"
        for order in facts.orders.values()
        if order.trucks_filled != won[order.id]
    ]
    for order_id, log in facts.events.items():
        order, events = facts.orders.get(order_id), _in_order(log)
        if order is not None and events and events[-1].trucks_filled != order.trucks_filled:
            against.append(
                f"order {order_id} says {order.trucks_filled} filled, its last event {events[-1].trucks_filled}"
            )
    return against


def no_captain_is_on_two_running_trips(facts: Facts) -> list[str]:
    """A captain holds at most one truck request that is assigned or in progress."""
    running = Counter(
        truck.captain_id for truck in facts.trucks if truck.status in RUNNING and truck.captain_id
    )
    return [
        f"captain {captain_id} is on {count} running trips"
        for captain_id, count in running.items()
        if count > 1
    ]


def no_truck_request_has_two_captains(facts: Facts) -> list[str]:
    """Between two assignments of a truck request lies a release by the first captain; the row names the last."""
    against: list[str] = []
    holder: dict[str, str | None] = {}
    for log in facts.events.values():
        for event in _in_order(log):
            if isinstance(event, TruckAssigned):
                if holder.get(event.truck_request_id) is not None:
                    against.append(f"truck request {event.truck_request_id} was won twice")
                holder[event.truck_request_id] = event.captain_id
            elif isinstance(event, TruckReleased):
                if holder.get(event.truck_request_id) != event.captain_id:
                    against.append(f"truck request {event.truck_request_id} was released by another captain")
                holder[event.truck_request_id] = None
    against += [
        f"truck request {truck.id} is another captain's in the events"
        for truck in facts.trucks
        if truck.status in RUNNING and holder.get(truck.id) != truck.captain_id
    ]
    return against


def nothing_is_left_in_an_outbox(facts: Facts) -> list[str]:
    """Every event was published, and every timer that is due has fired."""
    return [f"{count} wait in {where}" for where, count in facts.waiting.items() if count]


def every_consumer_has_caught_up(facts: Facts) -> list[str]:
    """No record waits for a consumer group; the statements above would not mean much."""
    return [f"{where} is {count} records behind" for where, count in facts.lag.items() if count]


def consumed_adds_up_for_every_consumer(facts: Facts) -> list[str]:
    """consumed = applied + duplicate + ignored + parked + dead, in every process."""
    return [
        f"{one.consumer} in {one.process} consumed {one.consumed:g}, its outcomes are {dict(one.outcomes)}"
        for one in facts.consumers
        if one.consumed != sum(one.outcomes.values())
    ]


def every_stream_runs_1_2_3(facts: Facts) -> list[str]:
    """All offsets of a user from the first kept one to the head are there, once."""
    return [
        f"the stream of user {one.user_id} keeps {one.kept} frames of {one.first} to {one.last}, "
        f"and should have {one.floor + 1} to {one.head}"
        for one in facts.streams
        if one.kept != one.head - one.floor
        or (one.kept and (one.first, one.last) != (one.floor + 1, one.head))
    ]


STATEMENTS: tuple[Statement, ...] = (
    every_201_is_an_order,
    every_idempotency_record_has_its_one_order,
    orders_are_created_events_are_the_dispatchers_view,
    versions_of_each_order_run_1_2_3,
    each_search_ended_at_most_once,
    at_most_one_terminal_status_per_order,
    no_order_searches_past_its_time,
    trucks_filled_counts_the_trucks_won,
    no_captain_is_on_two_running_trips,
    no_truck_request_has_two_captains,
    nothing_is_left_in_an_outbox,
    every_consumer_has_caught_up,
    consumed_adds_up_for_every_consumer,
    every_stream_runs_1_2_3,
)


def judge(facts: Facts) -> LedgerReport:
    """Every statement by its name."""
    against = {
        statement.__name__: [*facts.unreadable.get(statement.__name__, ()), *statement(facts)]
        for statement in STATEMENTS
    }
    return LedgerReport(
        statements={name: not evidence for name, evidence in against.items()},
        evidence={name: evidence for name, evidence in against.items() if evidence},
        counts={
            "orders": len(facts.orders),
            "order_events": sum(len(log) for log in facts.events.values()),
            "answered_201": len(facts.answered_201),
            "idempotency_records": len(facts.answers),
            "streams": len(facts.streams),
            "consumers": len(facts.consumers),
        },
    )


def _distinct(log: Sequence[LoggedEvent]) -> list[LoggedEvent]:
    """Each event once, where it came first: delivery is at least once."""
    first: dict[str, LoggedEvent] = {}
    for one in log:
        first.setdefault(one.event_id, one)
    return list(first.values())


def _in_order(log: Sequence[LoggedEvent]) -> list[OrderEvent]:
    return sorted((one.event for one in _distinct(log)), key=lambda event: event.order_version)


def _each(order_ids: Iterable[str], what: str) -> list[str]:
    return [f"order {order_id} {what}" for order_id in sorted(order_ids)]


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (" …" if len(numbers) > 20 else "")
