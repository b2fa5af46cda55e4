"""What counts as a difference between declared and standing topics."""

from __future__ import annotations

from weelo_common.events.topics import ORDERS_EVENTS, TIMERS_FIRED
from weelo_common.topics import Cluster, Kind, Standing, declared_settings, differences, warnings

WANTED = {"p.orders.events.v1": ORDERS_EVENTS}
SETTINGS = declared_settings(ORDERS_EVENTS)


def standing(partitions: int = 12, settings: dict[str, str] | None = SETTINGS) -> dict[str, Standing]:
    return {"p.orders.events.v1": Standing(partitions, settings, {})}


def test_a_topic_as_declared_differs_in_nothing() -> None:
    assert differences(WANTED, standing()) == []


def test_topics_of_others_on_the_same_brokers_are_their_business() -> None:
    assert differences(WANTED, standing() | {"billing": Standing(1, {}, {})}) == []


def test_a_missing_topic_other_partitions_and_another_retention_are_told_apart() -> None:
    found = differences(
        {**WANTED, "p.timers.fired.v1": TIMERS_FIRED}, standing(3, SETTINGS | {"retention.ms": "1000"})
    )
    assert [(one.kind, str(one)) for one in found] == [
        (Kind.PARTITIONS, "p.orders.events.v1 has 3 partitions, not 12"),
        (Kind.SETTING, "p.orders.events.v1 has retention.ms=1000, not 604800000"),
        (Kind.MISSING, "p.timers.fired.v1 is missing"),
    ]


def test_a_compacted_topic_differs_because_events_would_vanish() -> None:
    (found,) = differences(WANTED, standing(settings=SETTINGS | {"cleanup.policy": "compact"}))
    assert str(found) == "p.orders.events.v1 has cleanup.policy=compact, not delete"


def test_settings_that_the_brokers_do_not_tell_are_a_warning_and_no_difference() -> None:
    topics = standing(settings=None)
    assert differences(WANTED, topics) == []
    assert warnings(Cluster(topics, auto_creation=False)) == (
        "the brokers do not tell the settings of p.orders.events.v1",
    )


def test_brokers_that_create_topics_by_themselves_get_a_warning() -> None:
    (warning,) = warnings(Cluster(standing(), auto_creation=True))
    assert "auto.create.topics.enable=true" in warning
    assert warnings(Cluster(standing(), auto_creation=False)) == ()
    (untold,) = warnings(Cluster(standing(), auto_creation=None))
    assert "do not tell" in untold
