"""Traces and logs: OpenTelemetry spans by hand, JSON lines on stdout.

Spans are made here and in few places, so that none is noisy and none holds personal data: of an error a span tells the
type alone, for its words may quote what somebody sent. The trace context rides from the request through the outbox and
Kafka to the consumer as ``traceparent`` text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import islice
from typing import Any, BinaryIO

import orjson
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from weelo_common.clock import format_time
from weelo_common.log_repeats import Repeats

_TRACER = trace.get_tracer("weelo")  # stands for the process's tracer, once that is installed
_PROPAGATOR = TraceContextTextMapPropagator()
MAX_TURN_BYTES = 64 * 1024  # lines that wait for the turn's end; a turn that logs more writes in between
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_SAMPLED = frozenset("13579bdf")  # last digits of a traceparent: its lowest bit says so
_STANDARD_COUNT = len(vars(logging.makeLogRecord({})))
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}

# What begins a trace where there is none: a request and an event. A poll, a sweep or a sign of life does not; what it
# writes has ids all the same.
_BEGINNERS = frozenset({SpanKind.SERVER, SpanKind.CONSUMER})

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request in hand, for logs."""
_unrecorded: ContextVar[str | None] = ContextVar("unrecorded", default=None)
"""The ``traceparent`` of the work in hand where no spans are recorded."""


class _Unrecorded:
    """A piece of work of a trace that nobody records: it has ids for logs and events, and costs next to nothing."""

    __slots__ = ("_outer", "_parent")

    def __init__(self, parent: str | None) -> None:
        self._parent = parent

    def __enter__(self) -> Span:
        self._outer = _unrecorded.get()
        if self._parent and _TRACEPARENT.match(self._parent):
            _unrecorded.set(self._parent)  # whoever records nothing hands on what came
        elif self._parent or current_traceparent() is None:
            ids = os.urandom(24).hex()
            _unrecorded.set(f"00-{ids[:32]}-{ids[32:]}-00")
        return trace.INVALID_SPAN

    def __exit__(self, *_: object) -> None:
        _unrecorded.set(self._outer)


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> contextlib.AbstractContextManager[Span]:
    """A span around a piece of work; ``parent`` is a ``traceparent`` from elsewhere, else the current span.

    One is opened only where it is recorded: in a trace that was sampled, or at the beginning of one. Elsewhere nothing
    is opened, and ids travel all the same.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider) and _is_worth_a_span(kind, parent):
        return _recorded(name, kind, parent, attributes)
    return _Unrecorded(parent)


def _is_worth_a_span(kind: SpanKind, parent: str | None) -> bool:
    if parent and _TRACEPARENT.match(parent):
        return is_recorded(parent)
    if _unrecorded.get() is not None:
        return False
    around = trace.get_current_span().get_span_context()
    return around.trace_flags.sampled if around.is_valid else kind in _BEGINNERS


@contextlib.contextmanager
def _recorded(
    name: str, kind: SpanKind, parent: str | None, attributes: Mapping[str, AttributeValue] | None
) -> Iterator[Span]:
    context = _PROPAGATOR.extract({"traceparent": parent}) if parent else None
    outer = _unrecorded.set(None)  # a task begun in an unrecorded piece of work takes its ids along
    try:
        with _TRACER.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=attributes,
            record_exception=False,  # it would take the error's words along
            set_status_on_exception=False,
        ) as current:
            try:
                yield current
            except Exception as error:
                current.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
    finally:
        _unrecorded.reset(outer)


def is_recorded(traceparent: str) -> bool:
    """Whether whoever began this trace records it; a span added to another reaches nobody."""
    return traceparent[-1:] in _SAMPLED


def current_traceparent() -> str | None:
    """The context of the current span as W3C ``traceparent`` text, or None outside of any."""
    if unrecorded := _unrecorded.get():
        return unrecorded
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """The trace id of the current span in hex, or None."""
    if unrecorded := _unrecorded.get():
        return unrecorded[3:35]
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


@contextlib.contextmanager
def tracing(service: str, *, endpoint: str | None, sample_ratio: float) -> Iterator[None]:
    """Install the process's tracer; at the end what was recorded is sent. Without an endpoint nothing is recorded.

    Where a provider was installed before (tests do, to look at the spans), it stays.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        yield
        return
    if not endpoint:
        trace.set_tracer_provider(trace.NoOpTracerProvider())
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``service``, ``message``, the ids, and what was given as extra."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service
        self._second = -1
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        return self.line(record).decode()

    def line(self, record: logging.LogRecord) -> bytes:
        """The record as JSON in UTF-8, without a line's end."""
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname,
            "service": self._service,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if request := request_id.get():
            line["requestId"] = request
        if trace_id := current_trace_id():
            line["traceId"] = trace_id
        fields = vars(record)
        # What was given as extra comes after the record's own fields.
        for name in islice(fields, _STANDARD_COUNT, None):
            if name not in _STANDARD_FIELDS:
                line[name] = fields[name]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            # A dataclass as its repr, which leaves out what must reach no log.
            return orjson.dumps(line, default=str, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        except TypeError:  # a lone surrogate, an integer over 64 bits: odd, but no line may be lost
            return json.dumps(line, default=str).encode()

    def _time(self, created: float) -> str:
        """RFC 3339 with milliseconds; the text of a second is made once."""
        second = int(created)
        if second != self._second:
            self._second_text = format_time(datetime.fromtimestamp(second, UTC))[:-4]
            self._second = second
        return f"{self._second_text}{int((created - second) * 1000):03d}Z"


class TickHandler(logging.Handler):
    """Writes the lines of one turn of the event loop in one go: several lines of each request cost one system call.

    Outside an event loop, and from ``MAX_TURN_BYTES`` on, lines are written at once. At the process's end logging
    flushes its handlers, so an exit and an uncaught exception lose nothing; ``kill -9`` loses the last turn's lines.
    """

    def __init__(self, stream: BinaryIO, lines: JsonLines) -> None:
        super().__init__()
        self.setFormatter(lines)
        self._stream = stream
        self._json_lines = lines
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write at the end of its turn

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._json_lines.line(record)
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            loop = _running_loop()
            if loop is None or self._waiting_bytes >= MAX_TURN_BYTES:
                self.flush()
            elif loop is not self._loop:
                self._loop = loop
                loop.call_soon(self._flush_turn, record)
        except Exception:  # noqa: BLE001 - as every handler of logging does: a line must not break the work it tells of
            self.handleError(record)

    def _flush_turn(self, first: logging.LogRecord) -> None:
        try:
            self.flush()
        except Exception:  # noqa: BLE001 - as in emit
            self.handleError(first)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines, self._waiting, self._waiting_bytes, self._loop = self._waiting, [], 0, None
            if lines:
                lines.append(b"")
                left = memoryview(b"\n".join(lines))
                while left:  # an unbuffered stdout may take a part
                    left = left[self._stream.write(left) :]
                self._stream.flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def configure_logging(service: str, level: str) -> None:
    """Send all logs to stdout as JSON lines. Libraries speak from WARNING on, and aiokafka does not repeat itself."""
    root = logging.getLogger()
    handler = TickHandler(sys.stdout.buffer, JsonLines(service))
    handler.addFilter(Repeats("aiokafka"))
    root.handlers[:] = [handler]
    root.setLevel(level)
    for library in ("aiokafka", "uvicorn", "uvicorn.error", "uvicorn.access", "websockets", "asyncio"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.ERROR)
    # What no line of ours tells is not gathered either; so says the manual of logging under "Optimization".
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
