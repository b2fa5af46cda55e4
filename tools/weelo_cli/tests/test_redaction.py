"""Nothing that tells of a person leaves by the command line, however an event looks."""

from __future__ import annotations

import json

import pytest

from tools.contracts.samples import samples
from weelo_cli.redaction import HIDDEN, shown_event, shown_raw, shown_reason
from weelo_common.events import Envelope

SECRETS = ("address", "latitude", "longitude", "eyJ")


@pytest.mark.parametrize("envelope", samples().values(), ids=lambda envelope: envelope.type)
def test_every_event_is_shown_without_places_plates_and_tokens_and_with_its_ids(envelope: Envelope) -> None:
    assert envelope.event is not None
    body = envelope.event.model_dump(mode="json", by_alias=True, exclude_none=True)
    shown = shown_event(envelope.event)
    assert set(shown) == set(body)
    text = json.dumps(shown)
    assert not any(secret in text for secret in SECRETS)
    for name in (
        "orderId",
        "orderVersion",
        "captainId",
        "customerId",
        "status",
        "timerKey",
        "wave",
        "version",
    ):
        if name in body:
            assert shown[name] == body[name]
    for name in ("pickup", "drop", "vehicleNumber", "goodsType"):
        if name in body:
            assert shown[name] == HIDDEN


def test_of_a_body_that_no_class_fits_only_the_shape_and_ids_are_shown() -> None:
    body = {
        "orderId": "o-1",
        "status": "active",
        "phone": "+919810000000",
        "pickup": {"latitude": 28.6, "address": "Lane 5", "placeId": "p-1"},
        "Asha, 9810000000": 1,
        "list": ["Asha"],
        "customerId": "call Asha at 98100 00000",
    }
    assert shown_raw(json.dumps(body).encode())["body"] == {
        "orderId": "o-1",
        "status": "active",
        "phone": "text of 13 characters",
        "pickup": {"latitude": "number", "address": "text of 6 characters", "placeId": "p-1"},
        HIDDEN: "number",
        "list": ["text of 4 characters"],
        "customerId": "text of 24 characters",
    }


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"9810000000"'])
def test_a_body_that_is_no_object_of_json_gives_its_size_and_nothing_of_itself(value: bytes | None) -> None:
    shown = shown_raw(value)
    assert shown["bytes"] == len(value or b"")
    assert "9810" not in str(shown["body"])


def test_a_reason_is_one_line_without_phone_numbers_and_keeps_its_ids() -> None:
    reason = "KeyError: call 98100 00000 or +91-98100-00000 about 019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e0f\nDETAIL: Asha"
    shown = shown_reason(reason)
    assert "98100" not in shown
    assert "Asha" not in shown
    assert "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e0f" in shown
