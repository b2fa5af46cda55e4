"""A library that repeats itself fills no log, and hides no line of anybody else."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from weelo_common.log_repeats import MOST_KINDS, TELL_EVERY_S, Repeats

Say = Callable[..., "str | None"]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def say(clock: Clock) -> Say:
    """Has a logger say something; what is told of it."""
    repeats = Repeats("aiokafka", clock)

    def said(text: str, *values: object, name: str = "aiokafka.client") -> str | None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, text, values, None)
        if not repeats.filter(record):
            return None
        return f"{record.getMessage()} +{getattr(record, 'repeated', 0)}"

    return said


def test_lines_that_differ_in_their_values_alone_are_told_once_and_later_with_their_number(
    say: Say, clock: Clock
) -> None:
    assert say("no connection to %s", 1) == "no connection to 1 +0"
    assert [say("no connection to %s", number) for number in range(5)] == [None] * 5
    clock.now += TELL_EVERY_S
    assert say("no connection to %s", 7) == "no connection to 7 +5"
    assert say("no connection to %s", 8) is None
    clock.now += TELL_EVERY_S
    assert say("no connection to %s", 9) == "no connection to 9 +1"


def test_another_text_another_logger_and_whoever_is_of_no_concern_are_told(say: Say) -> None:
    say("gone")
    assert say("back") == "back +0"
    assert say("gone", name="aiokafka.conn") == "gone +0"
    for _ in range(3):
        assert say("gone", name="order_api.gate") == "gone +0"
        assert say("gone", name="aiokafkaesque") == "gone +0"


def test_a_library_that_puts_values_into_its_texts_fills_no_memory(say: Say) -> None:
    for number in range(2 * MOST_KINDS):
        assert say(f"no connection to {number}") is not None
    assert say(f"no connection to {2 * MOST_KINDS - 1}") is None


def test_a_service_tells_aiokafkas_repeats_once() -> None:
    program = """
import logging
from weelo_common.telemetry import configure_logging
configure_logging("order-api", "INFO")
for name in ("aiokafka.client", "order_api.gate"):
    for number in range(3):
        logging.getLogger(name).error("gone %s", number)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [said.stdout.count(name) for name in ("aiokafka.client", "order_api.gate")] == [1, 3]
