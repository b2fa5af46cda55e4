"""Positions while Kafka is away: no request waits long, the newest are kept, the stale are dropped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from dispatcher import position_sender
from dispatcher.metrics import DispatcherMetrics
from dispatcher.position_sender import PositionSender
from weelo_common.events.positions import Position
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.settings import KafkaSettings


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 2, 3, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """An address that refuses: bound, but not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def sender(address: str, clock: SetClock, registry: CollectorRegistry) -> PositionSender:
    settings = KafkaSettings(kafka_bootstrap_servers=address, kafka_request_deadline_s=0.5)
    kafka = KafkaClients(settings, client_id="test")
    metrics = DispatcherMetrics(registry)
    return PositionSender(kafka, clock, metrics, batch_s=0.001, ack_deadline_s=0.05)


def positions(count: int) -> list[Position]:
    return [Position(b"k" * 16, 28.6, 77.2, number) for number in range(count)]


async def test_without_kafka_a_request_is_answered_at_its_deadline_and_its_positions_wait(
    nobody_listens: str, registry: CollectorRegistry
) -> None:
    clock = SetClock()
    waiting = sender(nobody_listens, clock, registry)
    assert await waiting.send(positions(3)) is False
    with pytest.raises(KafkaUnavailable):
        await waiting.run_once()
    clock.at += timedelta(seconds=61)  # by now they are worth nothing
    assert await waiting.run_once() == 0
    assert registry.get_sample_value("weelo_dispatcher_positions_total", {"outcome": "dropped"}) == 3


async def test_while_kafka_is_away_only_what_was_received_too_long_ago_is_dropped(
    nobody_listens: str, registry: CollectorRegistry
) -> None:
    clock = SetClock()
    waiting = sender(nobody_listens, clock, registry)
    await waiting.send(positions(3))
    clock.at += timedelta(seconds=59)
    await waiting.send(positions(5))
    clock.at += timedelta(seconds=2)
    with pytest.raises(KafkaUnavailable):
        await waiting.run_once()
    assert registry.get_sample_value("weelo_dispatcher_positions_total", {"outcome": "dropped"}) == 3


async def test_what_waits_is_bounded_and_the_oldest_goes_first(
    nobody_listens: str, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position_sender, "WAITING_POSITIONS", 10)
    monkeypatch.setattr(position_sender, "BATCH_POSITIONS", 5)
    waiting = sender(nobody_listens, SetClock(), registry)
    await asyncio.gather(*(waiting.send(positions(5)) for _ in range(4)))
    assert registry.get_sample_value("weelo_dispatcher_positions_total", {"outcome": "dropped"}) == 10
