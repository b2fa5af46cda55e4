"""Log lines: one JSON object each, written once a turn of the event loop, and none lost; traces that nobody records."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace

from weelo_common import telemetry
from weelo_common.telemetry import (
    MAX_TURN_BYTES,
    JsonLines,
    TickHandler,
    current_trace_id,
    current_traceparent,
    span,
)


class Stdout(io.BytesIO):
    """Counts the writes, and takes at most ``piece`` bytes at a time, as a pipe may."""

    def __init__(self, piece: int = sys.maxsize) -> None:
        super().__init__()
        self.writes = 0
        self._piece = piece

    def write(self, data: Any) -> int:
        self.writes += 1
        return super().write(data[: self._piece])

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def logger_to(stdout: Stdout) -> logging.Logger:
    logger = logging.Logger("weelo_test")  # outside the tree, so that no other test sees it
    logger.addHandler(TickHandler(stdout, JsonLines("order-api")))
    return logger


@pytest.fixture
def stdout() -> Stdout:
    return Stdout()


@pytest.fixture
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process without an endpoint for traces, whatever another test of this run installed."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)


async def a_turn() -> None:
    for _ in range(2):
        await asyncio.sleep(0)


async def test_the_lines_of_one_turn_are_written_in_order_by_one_write(stdout: Stdout) -> None:
    log = logger_to(stdout)
    for number in range(50):
        log.info("Order created", extra={"number": number})
    assert stdout.writes == 0
    await a_turn()
    assert stdout.writes == 1
    assert [line["number"] for line in stdout.lines()] == list(range(50))
    log.info("Next turn")
    await a_turn()
    assert stdout.lines()[-1]["message"] == "Next turn"


def test_outside_an_event_loop_a_line_is_written_at_once(stdout: Stdout) -> None:
    logger_to(stdout).info("Starting")
    assert stdout.lines()[0]["message"] == "Starting"


async def test_a_turn_that_logs_without_end_is_written_in_between(stdout: Stdout) -> None:
    log = logger_to(stdout)
    for _ in range(3 * MAX_TURN_BYTES // 1000):
        log.info("x" * 1000)
    assert stdout.writes >= 3
    assert len(stdout.getvalue()) > 2 * MAX_TURN_BYTES


def test_lines_that_one_loop_left_behind_do_not_stop_the_next_loop_from_writing(stdout: Stdout) -> None:
    log = logger_to(stdout)

    loop = asyncio.new_event_loop()

    def last_words() -> None:
        loop.stop()
        log.info("First loop")

    async def first_words() -> None:
        log.info("Second loop")
        await a_turn()

    loop.call_soon(last_words)
    loop.run_forever()
    loop.close()  # before the end of its turn
    assert stdout.writes == 0
    asyncio.run(first_words())
    assert [line["message"] for line in stdout.lines()] == ["First loop", "Second loop"]


async def test_a_line_from_a_thread_is_written(stdout: Stdout) -> None:
    log = logger_to(stdout)
    log.info("From the loop")
    await asyncio.to_thread(log.info, "From a thread")
    await a_turn()
    assert {line["message"] for line in stdout.lines()} == {"From the loop", "From a thread"}


def test_a_stdout_that_takes_only_a_part_gets_the_rest() -> None:
    stdout = Stdout(piece=7)
    logger_to(stdout).info("Order created", extra={"orderId": "o-1"})
    assert stdout.lines()[0]["orderId"] == "o-1"


@pytest.mark.parametrize(
    "end", ["sys.exit(3)", "raise RuntimeError('defect')", "pass", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_a_process_that_ends_in_the_middle_of_a_turn_loses_no_line(end: str) -> None:
    code = f"""
import asyncio, logging, os, signal, sys
from weelo_common.telemetry import configure_logging
async def main():
    logging.getLogger("order_api").info("Last words")
    {end}
configure_logging("order-api", "INFO")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["Last words"]


@dataclass
class Person:
    """What must never be spelled out."""

    phone: str = field(repr=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("ईंट", "ईंट"),
        ("a\nb", "a\nb"),
        ("half \ud800", "half \ud800"),
        (2**80, 2**80),
        ({"a": {1: 2}}, {"a": {"1": 2}}),
        (RuntimeError("gone"), "gone"),
        (Person("+910000000000"), "Person()"),
        (datetime(2026, 2, 3, tzinfo=UTC), "2026-02-03T00:00:00+00:00"),
    ],
)
def test_whatever_is_logged_is_one_line_of_json(stdout: Stdout, value: object, written: object) -> None:
    logger_to(stdout).info("Odd", extra={"value": value})
    (line,) = stdout.lines()
    assert line["value"] == written


@pytest.mark.usefixtures("nothing_recorded")
def test_a_line_has_the_fields_that_ops_search_for(stdout: Stdout) -> None:
    token = telemetry.request_id.set("r-1")
    try:
        with span("POST", parent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"):
            logger_to(stdout).warning("Lock left to run out", extra={"customerId": "c-1"})
    finally:
        telemetry.request_id.reset(token)
    (line,) = stdout.lines()
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {
        "level": "WARNING",
        "service": "order-api",
        "message": "Lock left to run out",
        "logger": "weelo_test",
        "requestId": "r-1",
        "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
        "customerId": "c-1",
    }


def test_an_exception_stands_in_its_line(stdout: Stdout) -> None:
    try:
        int("odd")
    except ValueError:
        logger_to(stdout).exception("Defect in a request")
    assert "ValueError: invalid literal" in stdout.lines()[0]["exception"]


@pytest.mark.usefixtures("nothing_recorded")
def test_what_came_as_a_traceparent_goes_on_as_it_came_where_nothing_is_recorded() -> None:
    for flags in ("00", "01"):
        parent = f"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"
        with span("POST", parent=parent):
            assert current_trace_id() == "4bf92f3577b34da6a3ce929d0e0e4736"
            with span("postgres transaction"):
                assert str(current_traceparent()).split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert current_traceparent() is None


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize(
    "parent",
    [
        "",
        "rubbish",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ],
)
def test_without_a_good_parent_a_trace_begins_of_its_own(parent: str) -> None:
    traces = set()
    for _ in range(10):
        with span("POST", parent=parent or None):
            traceparent = current_traceparent()
            assert traceparent is not None
            version, trace_id, span_id, flags = traceparent.split("-")
            assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "00")
            traces.add(trace_id)
    assert len(traces) == 10


@pytest.mark.usefixtures("nothing_recorded")
async def test_requests_at_the_same_time_have_each_their_own_trace() -> None:
    async def request() -> str | None:
        with span("POST"):
            await asyncio.sleep(0)
            return current_trace_id()

    traces = await asyncio.gather(*(request() for _ in range(20)))
    assert len(set(traces)) == 20
