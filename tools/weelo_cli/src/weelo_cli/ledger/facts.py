"""What the ledger judges: rows, events and counters as they were read. No judgement and no I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weelo_common.events.orders import OrderEvent


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order of order-api. ``overdue`` is by its database's clock."""

    id: str
    customer_id: str
    status: str
    searching: bool
    overdue: bool
    version: int
    trucks_filled: int


@dataclass(frozen=True, slots=True)
class TruckRow:
    """A truck request of order-api."""

    id: str
    order_id: str
    status: str
    captain_id: str | None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An idempotency record: the order it points to, and the one its kept answer names."""

    customer_id: str
    key: str
    status: int
    order_id: str
    answered_order_id: str | None


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An order event as it lies in Kafka."""

    event_id: str
    event: OrderEvent


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A user's notification stream and what is kept of it."""

    user_id: str
    floor: int
    head: int
    kept: int
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class ConsumerCounts:
    """What one process says of one of its consumers."""

    process: str
    consumer: str
    consumed: float
    outcomes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was read. ``events`` are in Kafka's order, per order; repeats of an event are still among them."""

    answered_201: frozenset[str]
    orders: Mapping[str, OrderRow]
    trucks: Sequence[TruckRow]
    answers: Sequence[AnswerRow]
    dispatcher_orders: frozenset[str]
    events: Mapping[str, Sequence[LoggedEvent]]
    streams: Sequence[StreamRow]
    waiting: Mapping[str, int]
    """What is not published yet, by where it waits."""
    lag: Mapping[str, int]
    """Records not yet handled, by group and topic."""
    consumers: Sequence[ConsumerCounts]
    unreadable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By statement: what could not be read, which makes it false."""
