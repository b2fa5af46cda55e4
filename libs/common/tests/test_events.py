"""The envelope and the event classes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weelo_common.events import (
    MalformedEvent,
    OrderExpired,
    OrderFullyFilled,
    TimerFired,
    decode,
    encode,
    event_classes,
    seal,
)
from weelo_common.events.envelope import EventTooLarge
from weelo_common.events.positions import MalformedPositions, Position, captain_fingerprint, pack, unpack
from weelo_common.events.topics import ALL_TOPICS, ORDER_PARTITIONS, ORDERS_EVENTS, declared_topics

NOON = datetime(2026, 2, 3, 12, 0, 0, 123_456, tzinfo=UTC)


def expired(**changes: object) -> OrderExpired:
    fields: dict[str, object] = {
        "order_id": "o-1",
        "order_version": 3,
        "customer_id": "c-1",
        "status": "expired",
        "searching": False,
        "trucks_filled": 0,
        "total_trucks": 1,
        "occurred_at": NOON,
        "expired_truck_request_ids": ("t-1",),
    }
    return OrderExpired.model_validate(fields | changes)


def test_an_event_survives_the_way_through_kafka() -> None:
    sent = seal(expired(), source="order-api", time=NOON)
    headers, value = encode(sent, "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    read = decode(ORDERS_EVENTS, b"o-1", headers, value)
    assert read.event == sent.event
    assert (read.id, read.source, read.subject, read.key) == (sent.id, "/weelo/order-api", "o-1", "o-1")
    assert read.traceparent == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_the_wire_is_camel_case_with_times_in_milliseconds() -> None:
    headers, value = encode(seal(expired(), source="order-api", time=NOON))
    body = json.loads(value)
    assert body["occurredAt"] == "2026-02-03T12:00:00.123Z"
    assert body["expiredTruckRequestIds"] == ["t-1"]
    assert dict(headers)["ce_type"] == b"weelo.order.expired.v1"
    assert dict(headers)["ce_time"] == b"2026-02-03T12:00:00.123Z"
    assert dict(headers)["content-type"] == b"application/json"


def test_unknown_fields_and_statuses_are_survived() -> None:
    headers, value = encode(seal(expired(status="teleported"), source="order-api", time=NOON))
    body = json.loads(value) | {"newField": {"deep": 1}}
    event = decode(ORDERS_EVENTS, b"o-1", headers, json.dumps(body).encode()).event
    assert isinstance(event, OrderExpired)
    assert event.status == "teleported"


def test_an_unknown_type_decodes_to_an_envelope_without_an_event() -> None:
    headers, value = encode(seal(expired(), source="order-api", time=NOON))
    strange = [(name, b"weelo.order.flown.v9" if name == "ce_type" else raw) for name, raw in headers]
    assert decode(ORDERS_EVENTS, b"o-1", strange, value).event is None


@pytest.mark.parametrize("missing", ["ce_id", "ce_type", "ce_source", "ce_time", "ce_specversion"])
def test_a_missing_header_is_named(missing: str) -> None:
    headers, value = encode(seal(expired(), source="order-api", time=NOON))
    with pytest.raises(MalformedEvent, match=missing):
        decode(ORDERS_EVENTS, b"o-1", [(n, v) for n, v in headers if n != missing], value)


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff", b'{"orderId": 1}'])
def test_a_body_that_is_not_the_events_is_malformed(value: bytes | None) -> None:
    headers, _ = encode(seal(expired(), source="order-api", time=NOON))
    with pytest.raises(MalformedEvent):
        decode(ORDERS_EVENTS, b"o-1", headers, value)


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=40))), st.binary(max_size=200))
def test_no_record_of_any_shape_breaks_the_reader(headers: list[tuple[str, bytes]], value: bytes) -> None:
    with pytest.raises(MalformedEvent):
        decode(ORDERS_EVENTS, b"o-1", headers, value)


def test_an_event_larger_than_a_broker_takes_is_refused_where_it_is_made() -> None:
    ids = tuple("t" * 100 for _ in range(10_000))
    with pytest.raises(EventTooLarge):
        encode(seal(expired(expired_truck_request_ids=ids), source="order-api", time=NOON))


def test_a_fired_timers_event_id_comes_from_its_key_and_version() -> None:
    def fired(version: int) -> TimerFired:
        return TimerFired(
            timer_key="order-expiry:o-1",
            owner="order-api",
            version=version,
            due_at=NOON,
            fired_at=NOON,
            order_id="o-1",
        )

    assert fired(1).event_id() == fired(1).event_id() != fired(2).event_id()
    assert fired(1).key() == "o-1"


def test_types_are_distinct_and_versioned() -> None:
    types = [event_class.TYPE for event_class in event_classes()]
    assert len(set(types)) == len(types) == 16
    assert all(name.startswith("weelo.") and name.endswith(".v1") for name in types)


def test_topics_keyed_by_order_id_have_the_same_number_of_partitions() -> None:
    assert {topic.partitions for topic in ALL_TOPICS if "order id" in topic.key} == {ORDER_PARTITIONS}


def test_each_consumer_group_has_its_dead_letters() -> None:
    names = {topic.name: topic for topic in declared_topics()}
    assert names["orders.events.v1.notifier.dlq"].partitions == 1
    assert len(names) == len(declared_topics()) == 6 + 7


def test_an_event_reads_equal_to_one_made_by_hand() -> None:
    event = OrderFullyFilled.model_validate_json(
        '{"orderId":"o","orderVersion":1,"customerId":"c","status":"fully_filled","searching":false,'
        '"trucksFilled":1,"totalTrucks":1,"occurredAt":"2026-02-03T12:00:00.123Z"}'
    )
    assert event.occurred_at == NOON.replace(microsecond=123_000)


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=64),
            st.floats(-90, 90),
            st.floats(-180, 180),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=50,
    )
)
def test_positions_survive_packing(rows: list[tuple[str, float, float, int]]) -> None:
    sent = [Position(captain_fingerprint(captain), lat, lon, at) for captain, lat, lon, at in rows]
    packed = pack(sent)
    assert len(packed) == 1 + 32 * len(sent)
    for before, after in zip(sent, unpack(packed), strict=True):
        assert after.captain == before.captain
        assert after.recorded_at_ms == before.recorded_at_ms
        assert abs(after.latitude - before.latitude) < 1e-7
        assert abs(after.longitude - before.longitude) < 1e-7


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x01" + b"x" * 31, b"\x01" + b"\x7f" * 32])
def test_a_record_that_is_no_packed_positions_is_malformed(value: bytes) -> None:
    with pytest.raises(MalformedPositions):
        unpack(value)
