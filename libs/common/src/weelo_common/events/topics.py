"""Every topic of the system, declared once: name, partitions, retention, key, who owns, writes and reads it.

What creates topics (``weelo topics apply``, and the job ``python -m weelo_common.topics``), every producer and
consumer, and the published AsyncAPI document take them from here. Topics keyed by order id have the same number of
partitions, so that one replica sees all of an order.
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
    """One Kafka topic: its retention in ms, and who has to do with it, by the services' names."""

    name: str
    partitions: int
    retention_ms: int
    key: str
    groups: tuple[str, ...] = ()
    """The consumer groups, each named for its service; each owns a dead-letter topic on this one."""
    owner: str = ""
    """The service that answers for what stands here."""
    producers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    """Services that read it in full, every replica for itself, without a group or dead letters."""
    public: bool = False
    """Whether other teams may build on it."""
    summary: str = ""

    def dlq(self, group: str) -> Topic:
        """The dead-letter topic of one consumer group."""
        return Topic(
            f"{self.name}.{group}.dlq",
            1,
            DLQ_RETENTION_MS,
            key=self.key,
            owner=group,
            producers=(group,),
            summary=f"What {group} could never handle of {self.name}, with where, why and how often.",
        )


ORDERS_EVENTS = Topic(
    "orders.events.v1",
    ORDER_PARTITIONS,
    7 * _DAY_MS,
    key="order id",
    groups=(DISPATCHER, NOTIFIER),
    owner=ORDER_API,
    producers=(ORDER_API,),
    public=True,
    summary="What happens to orders, from the first search to the last trip.",
)
DISPATCH_OFFERS = Topic(
    "dispatch.offers.v1",
    ORDER_PARTITIONS,
    _DAY_MS,
    key="order id",
    groups=(ORDER_API, NOTIFIER),
    owner=DISPATCHER,
    producers=(DISPATCHER,),
    summary="Offers made to captains, and how they end.",
)
TIMERS_COMMANDS = Topic(
    "timers.commands.v1",
    ORDER_PARTITIONS,
    _DAY_MS,
    key="order id, else timer key",
    groups=(EXPIRY,),
    owner=EXPIRY,
    producers=(ORDER_API, DISPATCHER),
    summary="Schedule, move or cancel a durable timer.",
)
TIMERS_FIRED = Topic(
    "timers.fired.v1",
    ORDER_PARTITIONS,
    _DAY_MS,
    key="order id, else timer key",
    groups=(ORDER_API, DISPATCHER),
    owner=EXPIRY,
    producers=(EXPIRY,),
    summary="Timers that are due. Each owner handles its own and ignores the rest.",
)
CAPTAINS_STATE = Topic(
    "captains.state.v1",
    ORDER_PARTITIONS,
    _DAY_MS,
    key="captain id",
    owner=DISPATCHER,
    producers=(DISPATCHER,),
    readers=(DISPATCHER,),
    summary="What the dispatcher's replicas tell one another of a captain.",
)
CAPTAINS_LOCATIONS = Topic(
    "captains.locations.v1",
    LOCATION_PARTITIONS,
    10 * _MINUTE_MS,
    key="any",
    owner=DISPATCHER,
    producers=(DISPATCHER,),
    readers=(DISPATCHER,),
    summary="Captains' positions, packed; internal to the dispatcher.",
)

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
