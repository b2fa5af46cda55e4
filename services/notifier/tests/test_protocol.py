"""The words of ``/ws``: what a client may say, and what it hears."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from notifier.protocol import (
    Ack,
    Allowance,
    Auth,
    BadFrame,
    Ping,
    Resume,
    event_head,
    parse,
    pong_frame,
    ready_frame,
    rejoin,
    skip_frame,
)
from notifier.socket_adapter import text_frame

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_auth_may_carry_a_token_and_a_place_to_resume_from() -> None:
    assert parse('{"type": "auth", "token": "a.b.c"}') == Auth("a.b.c", None)
    assert parse('{"type": "auth"}') == Auth(None, None)
    assert parse('{"type":"auth","token":"t","resume":{"epoch":"e","offset":17},"new":1}') == Auth(
        "t", Resume("e", 17)
    )


def test_ack_and_ping_are_understood() -> None:
    assert parse('{"type": "ack", "offset": 18}') == Ack(18)
    assert parse('{"type": "ping"}') == Ping()


@pytest.mark.parametrize(
    "message",
    [
        b"\x00\x01",
        "",
        "not json",
        "[]",
        "1",
        "null",
        '"auth"',
        "{}",
        '{"type": null}',
        '{"type": ["auth"]}',
        '{"type": "event", "offset": 1}',
        '{"type": "auth", "token": 5}',
        '{"type": "auth", "token": "\\ud800"}',
        '{"type": "auth", "resume": 1}',
        '{"type": "auth", "resume": {"epoch": "e"}}',
        '{"type": "auth", "resume": {"epoch": 1, "offset": 1}}',
        '{"type": "auth", "resume": {"epoch": "e", "offset": -1}}',
        '{"type": "auth", "resume": {"epoch": "e", "offset": 1.5}}',
        '{"type": "auth", "resume": {"epoch": "e", "offset": true}}',
        '{"type": "auth", "resume": {"epoch": "e", "offset": 9223372036854775808}}',
        '{"type": "ack"}',
        '{"type": "ack", "offset": NaN}',
        '{"type": "ack", "offset": "1"}',
        "[" * 60_000,
        "1" * 60_000,
    ],
)
def test_anything_else_is_a_bad_frame(message: str | bytes) -> None:
    with pytest.raises(BadFrame):
        parse(message)


@given(st.one_of(st.text(), st.binary(), ANY_JSON.map(json.dumps)))
def test_whatever_comes_reading_it_ends_in_a_frame_or_a_bad_frame(message: str | bytes) -> None:
    try:
        frame = parse(message)
    except BadFrame:
        return
    assert isinstance(frame, Auth | Ack | Ping)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["auth", "ack", "ping"])},
        optional={"token": ANY_JSON, "resume": ANY_JSON, "offset": ANY_JSON},
    )
)
def test_fields_of_any_shape_end_in_a_frame_or_a_bad_frame(frame: dict[str, Any]) -> None:
    try:
        parsed = parse(json.dumps(frame))
    except BadFrame:
        return
    assert isinstance(parsed, Auth | Ack | Ping)


def test_an_event_frame_is_its_stored_body_with_the_offset_put_in_front() -> None:
    body = '{"id":"e:n","event":"n","data":{"address":"Ñoida"},"expiresAt":"2026-02-03T10:08:28.123Z"}'
    assert json.loads(event_head(18) + body[1:].encode()) == {"type": "event", "offset": 18} | json.loads(
        body
    )


def test_the_other_frames_of_the_server_are_those_of_the_contract() -> None:
    assert json.loads(skip_frame(5, 7)) == {"type": "skip", "from": 5, "to": 7}
    assert json.loads(pong_frame(17)) == {"type": "pong", "serverTimeMs": 17}
    ready = ready_frame(user_id="u", role="captain", epoch="e", offset=3, recovered=True, server_time_ms=17)
    assert json.loads(ready) == {
        "type": "ready", "userId": "u", "role": "captain", "epoch": "e", "offset": 3, "recovered": True,
        "serverTimeMs": 17,
    }  # fmt: skip


def test_a_socket_goes_on_where_it_was_only_within_the_same_history() -> None:
    stream = {"epoch": "e", "head": 10, "floor": 4}
    assert rejoin(None, **stream) == (10, False)  # type: ignore[arg-type]
    assert rejoin(Resume("e", 7), **stream) == (7, True)  # type: ignore[arg-type]
    assert rejoin(Resume("e", 10), **stream) == (10, True)  # type: ignore[arg-type]
    assert rejoin(Resume("e", 4), **stream) == (4, True)  # type: ignore[arg-type]
    assert rejoin(Resume("e", 3), **stream) == (10, False)  # type: ignore[arg-type]
    assert rejoin(Resume("e", 11), **stream) == (10, False)  # type: ignore[arg-type]
    assert rejoin(Resume("another", 7), **stream) == (10, False)  # type: ignore[arg-type]


def test_an_allowance_lets_a_burst_through_and_then_only_its_rate() -> None:
    allowance = Allowance(per_s=2, burst=3, now_s=0)
    assert [allowance.take(0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take(0.4) is False
    assert allowance.take(0.5) is True
    assert [allowance.take(100) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_our_frames_are_byte_for_byte_those_of_the_library(length: int) -> None:
    payload = b"x" * length
    whole = Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert text_frame(payload) == text_frame(payload[: length // 3], payload[length // 3 :]) == whole
