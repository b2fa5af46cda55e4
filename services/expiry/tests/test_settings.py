"""Expiry's settings: those that must fit each other."""

from __future__ import annotations

import pytest

from expiry.settings import Settings
from weelo_common.settings import load

NEEDED = {
    "HTTP_PORT": "0",
    "POSTGRES_DSN": "postgresql://expiry@127.0.0.1/expiry",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
}


@pytest.fixture(autouse=True)
def needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


def test_by_default_a_firing_is_abandoned_only_after_a_try_and_a_pause_have_ended() -> None:
    settings = load(Settings)
    assert settings.fire_abandoned_s > settings.kafka_request_deadline_s + settings.fire_retry_s


@pytest.mark.parametrize("abandoned_s", ["5.0", "5.5"])
def test_a_firing_that_would_be_taken_while_it_is_published_stops_the_start_with_one_line(
    abandoned_s: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRE_ABANDONED_S", abandoned_s)
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert ended.value.code == (
        "bad setting: FIRE_ABANDONED_S must be above KAFKA_REQUEST_DEADLINE_S + FIRE_RETRY_S"
    )
