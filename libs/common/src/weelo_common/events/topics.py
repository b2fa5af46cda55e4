"""Every topic of the system, declared once: name, partitions, retention, key, who reads it.

The job that creates topics (``python -m weelo_common.topics``) and every producer and consumer take them from
here. Topics keyed by order id have the same number of partitions, so that one replica sees all of an order.
"""

from __future__ import annotations

from dataclasses import dataclass

_DAY_MS = 24 * 60 * 60 * 1000
_MINUTE_MS = 60 * 1000

ORDER_PARTITIONS = 12  # the most replicas of one service that can share the work
LOCATION_PARTITIONS = 6  # read in full by every dispatcher, so fewer is cheaper
DLQ_RETENTION_MS = 14 * _DAY_MS  # two weeks to look at a dead letter

ORDER_API = "order-api"
DISPATCHER = "dispatcher"
NOTIFIER = "notifier"
EXPIRY = "expiry"


@dataclass(frozen=True, slots=True)
class Topic:
    """One Kafka topic: its retention in ms, and the consumer groups that own a dead-letter topic on it."""

    name: str
    partitions: int
    retention_ms: int
    key: str
    groups: tuple[str, ...] = ()

    def dlq(self, group: str) -> Topic:
        """The dead-letter topic of one consumer group."""
        return Topic(f"{self.name}.{group}.dlq", 1, DLQ_RETENTION_MS, key=self.key)


ORDERS_EVENTS = Topic(
    "orders.events.v1", ORDER_PARTITIONS, 7 * _DAY_MS, key="order id", groups=(DISPATCHER, NOTIFIER)
)
DISPATCH_OFFERS = Topic(
    "dispatch.offers.v1", ORDER_PARTITIONS, _DAY_MS, key="order id", groups=(ORDER_API, NOTIFIER)
)
TIMERS_COMMANDS = Topic(
    "timers.commands.v1", ORDER_PARTITIONS, _DAY_MS, key="order id, else timer key", groups=(EXPIRY,)
)
TIMERS_FIRED = Topic(
    "timers.fired.v1",
    ORDER_PARTITIONS,
    _DAY_MS,
    key="order id, else timer key",
    groups=(ORDER_API, DISPATCHER),
)
CAPTAINS_STATE = Topic("captains.state.v1", ORDER_PARTITIONS, _DAY_MS, key="captain id")
CAPTAINS_LOCATIONS = Topic("captains.locations.v1", LOCATION_PARTITIONS, 10 * _MINUTE_MS, key="any")

ALL_TOPICS: tuple[Topic, ...] = (
    ORDERS_EVENTS,
    DISPATCH_OFFERS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    CAPTAINS_STATE,
    CAPTAINS_LOCATIONS,
)


def declared_topics() -> tuple[Topic, ...]:
    """All topics with the dead-letter topics of their groups."""
    return ALL_TOPICS + tuple(topic.dlq(group) for topic in ALL_TOPICS for group in topic.groups)
