"""The ledger's statements: a true run holds, and each kind of damage makes its statement false, with evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from weelo_cli.ledger.counters import consumer_counts
from weelo_cli.ledger.facts import (
    AnswerRow,
    ConsumerCounts,
    Facts,
    LoggedEvent,
    OrderRow,
    StreamRow,
    TruckRow,
)
from weelo_cli.ledger.report import EVIDENCE_SHOWN
from weelo_cli.ledger.statements import STATEMENTS, judge
from weelo_cli.ledger.tables import answered_order_id
from weelo_common.events.orders import (
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderEvent,
    OrderExpired,
    OrderFullyFilled,
    Place,
    TruckAssigned,
    TruckReleased,
    TruckStarted,
)

NOW = datetime(2026, 2, 3, 10, 0, tzinfo=UTC)
PLACE = Place(latitude=28.6, longitude=77.2, address="Delhi")
NOTHING = {"applied": 0.0, "duplicate": 0.0, "ignored": 0.0, "parked": 0.0, "dead": 0.0}


class History:
    """Writes an order's events, one version after the other."""

    def __init__(self, order_id: str, trucks: int = 1) -> None:
        self._order_id, self._trucks = order_id, trucks
        self.log: list[LoggedEvent] = []

    def add(
        self, kind: type[OrderEvent], status: str, *, searching: bool = False, filled: int = 0, **more: object
    ) -> History:
        version = len(self.log) + 1
        body = {
            "order_id": self._order_id,
            "order_version": version,
            "customer_id": "c-1",
            "status": status,
            "searching": searching,
            "trucks_filled": filled,
            "total_trucks": self._trucks,
            "occurred_at": NOW,
        }
        self.log.append(LoggedEvent(f"{self._order_id}-{version}", kind.model_validate(body | more)))
        return self

    def created(self) -> History:
        return self.add(
            OrderCreated,
            "active",
            searching=True,
            pickup=PLACE,
            drop=PLACE,
            distance_km=5,
            total_amount=500,
            expires_at=NOW,
            truck_requests=(),
        )

    def assigned(
        self, truck: str, captain: str, status: str, *, searching: bool = False, filled: int = 1
    ) -> History:
        return self.add(
            TruckAssigned,
            status,
            searching=searching,
            filled=filled,
            truck_request_id=truck,
            captain_id=captain,
            transporter_id="t-1",
            vehicle_type="TRUCK",
            vehicle_subtype="ACE",
            vehicle_number="DL 1",
            offer_id=f"offer-{truck}-{captain}",
            pickup=PLACE,
            drop=PLACE,
        )

    def released(self, truck: str, captain: str, reason: str, status: str, **more: object) -> History:
        return self.add(
            TruckReleased,
            status,
            truck_request_id=truck,
            captain_id=captain,
            reason=reason,
            truck_request_status="searching",
            **more,  # type: ignore[arg-type]
        )


def completed_order() -> list[LoggedEvent]:
    """A truck is won, given back, won again, and does its trip."""
    return (
        History("done")
        .created()
        .assigned("t-done", "k-1", "partially_filled", searching=True)
        .released("t-done", "k-1", "released", "active", searching=True)
        .assigned("t-done", "k-2", "fully_filled")
        .add(OrderFullyFilled, "fully_filled", filled=1)
        .add(TruckStarted, "in_progress", filled=1, truck_request_id="t-done", captain_id="k-2")
        .released("t-done", "k-2", "completed", "completed", filled=1)
        .add(OrderCompleted, "completed", filled=1)
        .log
    )


def true_run() -> Facts:
    """Four orders that ended in four ways, and one that runs."""
    histories = {
        "done": completed_order(),
        "late": History("late")
        .created()
        .add(OrderExpired, "expired", expired_truck_request_ids=("t-late",))
        .log,
        "off": (
            History("off", 2)
            .created()
            .assigned("t-off", "k-3", "partially_filled", searching=True)
            .add(OrderCancelled, "cancelled", reason="customer")
            .released("t-off", "k-3", "cancelled", "cancelled")
            .log
        ),
        "runs": (
            History("runs")
            .created()
            .assigned("t-runs", "k-1", "fully_filled")
            .add(OrderFullyFilled, "fully_filled", filled=1)
            .log
        ),
        "new": History("new").created().log,
    }
    histories["done"] = [*histories["done"], histories["done"][0]]  # delivered twice
    return Facts(
        answered_201=frozenset({"done", "late"}),
        orders={
            "done": OrderRow("done", "c-1", "completed", False, False, 8, 1),
            "late": OrderRow("late", "c-1", "expired", False, False, 2, 0),
            "off": OrderRow("off", "c-1", "cancelled", False, False, 4, 0),
            "runs": OrderRow("runs", "c-1", "fully_filled", False, False, 3, 1),
            "new": OrderRow("new", "c-1", "active", True, False, 1, 0),
        },
        trucks=[
            TruckRow("t-done", "done", "completed", "k-2"),
            TruckRow("t-late", "late", "expired", None),
            TruckRow("t-off", "off", "cancelled", None),
            TruckRow("t-runs", "runs", "assigned", "k-1"),
            TruckRow("t-new", "new", "searching", None),
        ],
        answers=[AnswerRow("c-1", "key-1", 201, "done", "done")],
        dispatcher_orders=frozenset(histories),
        events=histories,
        streams=[StreamRow("k-1", 0, 3, 3, 1, 3), StreamRow("c-1", 4, 4, 0, None, None)],
        waiting={"the outbox of order-api": 0},
        lag={"dispatcher on orders.events.v1": 0},
        consumers=[
            ConsumerCounts("dispatcher", "dispatcher", 9, NOTHING | {"applied": 7.0, "duplicate": 2.0})
        ],
    )


def with_log(facts: Facts, order_id: str, log: list[LoggedEvent]) -> Facts:
    return replace(facts, events={**facts.events, order_id: log})


def with_order(facts: Facts, order_id: str, **changes: object) -> Facts:
    changed = replace(facts.orders[order_id], **changes)  # type: ignore[arg-type]
    return replace(facts, orders={**facts.orders, order_id: changed})


def without_version(facts: Facts, order_id: str, version: int) -> Facts:
    log = [one for one in facts.events[order_id] if one.event.order_version != version]
    return with_log(facts, order_id, log)


def swapped(facts: Facts) -> Facts:
    log = list(facts.events["runs"])
    return with_log(facts, "runs", [log[0], log[2], log[1]])


def doubled_version(facts: Facts) -> Facts:
    log = list(facts.events["runs"])
    return with_log(facts, "runs", [*log, replace(log[2], event_id="another")])


def reopened(facts: Facts) -> Facts:
    log = History("late").created().add(OrderExpired, "expired", expired_truck_request_ids=())
    log.add(TruckStarted, "expired", searching=True, truck_request_id="t-late", captain_id="k-9")
    return with_order(with_log(facts, "late", log.log), "late", version=3)


def ended_twice(facts: Facts) -> Facts:
    log = History("late").created()
    for _ in range(2):
        log.add(OrderExpired, "expired", expired_truck_request_ids=())
    return with_order(with_log(facts, "late", log.log), "late", version=3)


def cancelled_after_it_expired(facts: Facts) -> Facts:
    log = History("late").created().add(OrderExpired, "expired", expired_truck_request_ids=())
    log.add(OrderCancelled, "cancelled", reason="customer")
    return with_order(with_log(facts, "late", log.log), "late", version=3, status="cancelled")


def won_twice(facts: Facts) -> Facts:
    log = History("runs").created().assigned("t-runs", "k-9", "fully_filled")
    log.assigned("t-runs", "k-1", "fully_filled")
    return with_log(facts, "runs", log.log)


def released_by_another_captain(facts: Facts) -> Facts:
    log = History("runs").created().assigned("t-runs", "k-9", "fully_filled")
    log.released("t-runs", "k-8", "released", "active", searching=True)
    return with_log(facts, "runs", log.assigned("t-runs", "k-1", "fully_filled").log)


def filled_and_then_expired(facts: Facts) -> Facts:
    log = History("runs").created().assigned("t-runs", "k-1", "fully_filled")
    log.add(OrderFullyFilled, "fully_filled", filled=1)
    log.add(OrderExpired, "fully_filled", filled=1, expired_truck_request_ids=())
    return with_order(with_log(facts, "runs", log.log), "runs", version=4)


def cancelled_and_then_expired(facts: Facts) -> Facts:
    log = History("late").created().add(OrderCancelled, "cancelled", reason="customer")
    log.add(OrderExpired, "cancelled", expired_truck_request_ids=())
    return with_order(with_log(facts, "late", log.log), "late", version=3, status="cancelled")


def alive_again_after_it_expired(facts: Facts) -> Facts:
    log = History("late").created().add(OrderExpired, "expired", expired_truck_request_ids=())
    log.add(TruckStarted, "in_progress", truck_request_id="t-late", captain_id="k-9")
    return with_order(with_log(facts, "late", log.log), "late", version=3, status="in_progress")


def cancelled_twice(facts: Facts) -> Facts:
    log = History("late").created()
    for _ in range(2):
        log.add(OrderCancelled, "cancelled", reason="customer")
    return with_order(with_log(facts, "late", log.log), "late", version=3, status="cancelled")


def created_twice(facts: Facts) -> Facts:
    log = facts.events["new"]
    return with_log(facts, "new", [*log, replace(log[0], event_id="another")])


def last_event_counts_another_truck(facts: Facts) -> Facts:
    log = History("late").created().add(OrderExpired, "expired", filled=1, expired_truck_request_ids=())
    return with_log(facts, "late", log.log)


DAMAGE: list[tuple[str, Callable[[Facts], Facts]]] = [
    ("every_201_is_an_order", lambda f: replace(f, answered_201=f.answered_201 | {"lost"})),
    (
        "every_idempotency_record_has_its_one_order",
        lambda f: replace(f, answers=[AnswerRow("c-1", "key-1", 201, "nowhere", "nowhere")]),
    ),
    (
        "every_idempotency_record_has_its_one_order",
        lambda f: replace(f, answers=[AnswerRow("c-1", "key-1", 201, "done", "late")]),
    ),
    (
        "every_idempotency_record_has_its_one_order",
        lambda f: replace(f, answers=[AnswerRow("c-2", "key-1", 201, "done", "done")]),
    ),
    (
        "every_idempotency_record_has_its_one_order",
        lambda f: replace(f, answers=[*f.answers, AnswerRow("c-1", "key-2", 201, "done", "done")]),
    ),
    (
        "orders_are_created_events_are_the_dispatchers_view",
        lambda f: replace(f, dispatcher_orders=f.dispatcher_orders - {"late"}),
    ),
    (
        "orders_are_created_events_are_the_dispatchers_view",
        lambda f: replace(f, dispatcher_orders=f.dispatcher_orders | {"ghost"}),
    ),
    ("orders_are_created_events_are_the_dispatchers_view", lambda f: with_log(f, "new", [])),
    ("orders_are_created_events_are_the_dispatchers_view", created_twice),
    ("versions_of_each_order_run_1_2_3", lambda f: without_version(f, "done", 3)),
    ("versions_of_each_order_run_1_2_3", swapped),
    ("versions_of_each_order_run_1_2_3", doubled_version),
    ("versions_of_each_order_run_1_2_3", lambda f: with_order(f, "new", version=2)),
    ("each_search_ended_at_most_once", reopened),
    ("each_search_ended_at_most_once", ended_twice),
    ("each_search_ended_at_most_once", filled_and_then_expired),
    ("each_search_ended_at_most_once", cancelled_and_then_expired),
    ("at_most_one_terminal_status_per_order", cancelled_after_it_expired),
    ("at_most_one_terminal_status_per_order", alive_again_after_it_expired),
    ("at_most_one_terminal_status_per_order", cancelled_twice),
    ("at_most_one_terminal_status_per_order", lambda f: with_order(f, "late", status="active")),
    ("no_order_searches_past_its_time", lambda f: with_order(f, "new", overdue=True)),
    ("trucks_filled_counts_the_trucks_won", lambda f: with_order(f, "done", trucks_filled=0)),
    (
        "trucks_filled_counts_the_trucks_won",
        lambda f: replace(f, trucks=[t for t in f.trucks if t.id != "t-done"]),
    ),
    (
        "no_captain_is_on_two_running_trips",
        lambda f: replace(f, trucks=[*f.trucks, TruckRow("t-x", "runs", "in_progress", "k-1")]),
    ),
    ("trucks_filled_counts_the_trucks_won", last_event_counts_another_truck),
    ("no_truck_request_has_two_captains", won_twice),
    ("no_truck_request_has_two_captains", released_by_another_captain),
    (
        "no_truck_request_has_two_captains",
        lambda f: replace(
            f, trucks=[replace(t, captain_id="k-7") if t.id == "t-runs" else t for t in f.trucks]
        ),
    ),
    ("nothing_is_left_in_an_outbox", lambda f: replace(f, waiting={"the outbox of expiry": 2})),
    ("every_consumer_has_caught_up", lambda f: replace(f, lag={"notifier on orders.events.v1": 3})),
    (
        "consumed_adds_up_for_every_consumer",
        lambda f: replace(f, consumers=[ConsumerCounts("expiry", "expiry", 1, NOTHING)]),
    ),
    ("every_stream_runs_1_2_3", lambda f: replace(f, streams=[StreamRow("k-1", 0, 3, 2, 1, 3)])),
    ("every_stream_runs_1_2_3", lambda f: replace(f, streams=[StreamRow("k-1", 0, 3, 3, 2, 4)])),
]


def test_a_true_run_holds() -> None:
    report = judge(true_run())
    assert report.ok, report.lines()
    assert report.statements.keys() == {statement.__name__ for statement in STATEMENTS}
    assert report.evidence == {}


@pytest.mark.parametrize(("statement", "damage"), DAMAGE)
def test_damage_makes_its_statement_false_with_evidence(
    statement: str, damage: Callable[[Facts], Facts]
) -> None:
    report = judge(damage(true_run()))
    assert not report.ok
    assert not report.statements[statement]
    assert report.evidence[statement]


def test_every_statement_can_be_broken() -> None:
    assert {name for name, _ in DAMAGE} == {statement.__name__ for statement in STATEMENTS}


def test_what_could_not_be_read_makes_its_statement_false() -> None:
    facts = replace(
        true_run(), unreadable={"consumed_adds_up_for_every_consumer": ["expiry gave no metrics"]}
    )
    assert judge(facts).evidence == {"consumed_adds_up_for_every_consumer": ["expiry gave no metrics"]}


def test_the_report_shows_only_the_first_offenders() -> None:
    lost = frozenset(f"lost-{number}" for number in range(50))
    lines = judge(replace(true_run(), answered_201=lost)).lines()
    assert sum("lost-" in line for line in lines) == EVIDENCE_SHOWN
    assert any("and 45 more" in line for line in lines)


def test_counters_of_a_process_are_read_from_its_metrics() -> None:
    exposition = (
        "# TYPE weelo_consumer_consumed counter\n"
        'weelo_consumer_consumed_total{consumer="expiry"} 5.0\n'
        "# TYPE weelo_consumer_applied counter\n"
        'weelo_consumer_applied_total{consumer="expiry"} 4.0\n'
        "# TYPE weelo_consumer_dead counter\n"
        'weelo_consumer_dead_total{consumer="expiry"} 1.0\n'
    )
    assert consumer_counts("expiry-1", exposition) == [
        ConsumerCounts("expiry-1", "expiry", 5.0, NOTHING | {"applied": 4.0, "dead": 1.0})
    ]


@pytest.mark.parametrize(
    ("body", "order_id"),
    [
        (b'{"success": true, "data": {"orderId": "o-1"}}', "o-1"),
        (b'{"success": true, "data": []}', None),
        (b"[]", None),
        (b"not JSON", None),
    ],
)
def test_a_kept_answer_names_its_order(body: bytes, order_id: str | None) -> None:
    assert answered_order_id(body) == order_id
