"""Traces and logs: OpenTelemetry spans by hand, JSON lines on stdout.

Spans are made here and in few places, so that none is noisy and none holds personal data. The trace context rides
from the request through the outbox and Kafka to the consumer as ``traceparent`` text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from weelo_common.clock import format_time

_TRACER = trace.get_tracer("weelo")  # stands for the process's tracer, once that is installed
_PROPAGATOR = TraceContextTextMapPropagator()
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}

_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request in hand, for logs."""
_service: ContextVar[str | None] = ContextVar("service", default=None)


@contextlib.contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A span around a piece of work; ``parent`` is a ``traceparent`` from elsewhere, else the current span.

    Inside a trace that is not recorded there is nothing to add: the current span stands for the work.
    """
    if parent is None:
        outer = trace.get_current_span()
        within = outer.get_span_context()
        if within.is_valid and not within.trace_flags.sampled:
            yield outer
            return
    context = _PROPAGATOR.extract({"traceparent": parent}) if parent else None
    with _TRACER.start_as_current_span(name, context=context, kind=kind, attributes=attributes) as current:
        yield current


def is_recorded(traceparent: str) -> bool:
    """Whether whoever began this trace records it; a span added to another reaches nobody."""
    return not traceparent.endswith("-00")


def current_traceparent() -> str | None:
    """The context of the current span as W3C ``traceparent`` text, or None outside of any."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """The trace id of the current span in hex, or None."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


@contextlib.contextmanager
def tracing(service: str, *, endpoint: str | None, sample_ratio: float) -> Iterator[None]:
    """Install the process's tracer; at the end what was recorded is sent.

    Where a provider was installed before (tests do, to look at the spans), it stays.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        yield
        return
    # Without a place to send them, spans are not recorded; the ids travel and reach the logs all the same.
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio if endpoint else 0.0)),
        shutdown_on_exit=False,
    )
    if endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

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
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname,
            "service": _service.get() or self._service,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if request := request_id.get():
            line["requestId"] = request
        if trace_id := current_trace_id():
            line["traceId"] = trace_id
        fields = vars(record)
        for name in fields:
            if name not in _STANDARD_FIELDS:
                line[name] = fields[name]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)

    def _time(self, created: float) -> str:
        """RFC 3339 with milliseconds; the text of a second is made once."""
        second = int(created)
        if second != self._second:
            self._second_text = format_time(datetime.fromtimestamp(second, UTC))[:-4]
            self._second = second
        return f"{self._second_text}{int((created - second) * 1000):03d}Z"


class TickHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop in one go: several lines of each request cost one system call.

    Outside an event loop each line is written at once. A killed process loses no more than its last turn's lines.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            loop = _running_loop()
            if loop is None:
                self.flush()
            elif len(self._lines) == 1:
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
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def configure_logging(service: str, level: str) -> None:
    """Send all logs to stdout as JSON lines. Libraries speak from WARNING on."""
    handler = TickHandler(sys.stdout)
    handler.setFormatter(JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for library in ("aiokafka", "uvicorn", "uvicorn.error", "uvicorn.access", "websockets", "asyncio"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.ERROR)
