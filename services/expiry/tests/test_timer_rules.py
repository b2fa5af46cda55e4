"""Which commands are refused, and what a fired timer says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from expiry.domain import (
    TOMBSTONE_S,
    ClaimedTimer,
    TimerRefused,
    check_cancel,
    check_horizon,
    fired_event,
    payload_text,
)
from weelo_common.clock import epoch_ms
from weelo_common.events.timers import MAX_PAYLOAD_BYTES, TimerCancelled, TimerScheduled
from weelo_common.events.topics import TIMERS_COMMANDS

NOW = datetime(2026, 2, 3, 10, 0, tzinfo=UTC)
FIRED_AT = NOW + timedelta(milliseconds=12)


def scheduled(
    *,
    payload: dict[str, JsonValue] | None = None,
    key: str = "order-expiry:o-1",
    owner: str = "order-api",
    order_id: str | None = "o-1",
) -> TimerScheduled:
    return TimerScheduled(
        timer_key=key,
        version=1,
        owner=owner,
        due_at=NOW + timedelta(seconds=60),
        payload=payload or {},
        order_id=order_id,
    )


def claimed(payload: str = "{}", version: int = 1) -> ClaimedTimer:
    return ClaimedTimer(
        id=1,
        key="order-expiry:o-1",
        version=version,
        partition=0,
        owner="order-api",
        due_ms=epoch_ms(NOW),
        payload=payload,
        order_id="o-1",
        traceparent=None,
    )


def test_a_timer_due_in_the_past_is_good() -> None:
    check_horizon(NOW - timedelta(days=400), NOW)


def test_a_timer_due_in_exactly_30_days_is_good() -> None:
    check_horizon(NOW + timedelta(days=30), NOW)


def test_a_timer_more_than_30_days_ahead_is_refused() -> None:
    with pytest.raises(TimerRefused, match="more than 30 days ahead"):
        check_horizon(NOW + timedelta(days=30, milliseconds=1), NOW)


def test_a_payload_of_8_kib_is_good_and_one_byte_more_is_refused() -> None:
    fill = MAX_PAYLOAD_BYTES - len('{"a":""}')
    assert len(payload_text(scheduled(payload={"a": "x" * fill}))) == MAX_PAYLOAD_BYTES
    with pytest.raises(TimerRefused, match="8193 bytes"):
        payload_text(scheduled(payload={"a": "x" * (fill + 1)}))


def test_a_payload_is_measured_in_bytes_not_in_characters() -> None:
    with pytest.raises(TimerRefused, match="bytes"):
        payload_text(scheduled(payload={"a": "ह" * 3000}))


@pytest.mark.parametrize(
    "command",
    [
        scheduled(key="order-expiry:a\x00b"),
        scheduled(owner="order\x00api"),
        scheduled(order_id="o\x00"),
        scheduled(order_id=""),
        scheduled(order_id="o" * 65),
    ],
)
def test_text_and_numbers_that_cannot_be_kept_are_refused(command: TimerScheduled) -> None:
    with pytest.raises(TimerRefused):
        payload_text(command)


def test_a_cancel_with_text_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(TimerRefused):
        check_cancel(TimerCancelled(timer_key="order-expiry:\x00", version=1))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_a_payload_comes_back_as_it_was_given(payload: dict[str, JsonValue]) -> None:
    text = payload_text(scheduled(payload=payload))
    assert fired_event(claimed(text), FIRED_AT).payload == payload
    assert json.loads(text) == payload


def test_firing_again_gives_the_same_event_with_the_same_id() -> None:
    first, second = fired_event(claimed(), FIRED_AT), fired_event(claimed(), FIRED_AT)
    assert first == second
    assert first.event_id() == second.event_id()


def test_a_moved_timer_fires_with_another_event_id() -> None:
    assert (
        fired_event(claimed(version=1), FIRED_AT).event_id()
        != fired_event(claimed(version=2), FIRED_AT).event_id()
    )


def test_a_tombstone_outlives_every_command_that_its_topic_still_keeps() -> None:
    assert TIMERS_COMMANDS.retention_ms <= TOMBSTONE_S * 1000
