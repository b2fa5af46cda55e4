"""A collector of traces: takes what services send by OTLP over HTTP, and keeps every span, whole, to be looked at."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span as it came. ``text`` is all that it says: name, attributes, events, status, and its resource."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    text: str


class Collector:
    """Keeps spans until it is closed. Batches of one service come in the order in which its spans ended."""

    def __init__(self) -> None:
        self._spans: list[CollectedSpan] = []
        self._lock = threading.Lock()
        taken = self._take

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the tests look at spans."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def spans(self, trace_id: str | None = None) -> list[CollectedSpan]:
        """Those that came so far, all or of one trace."""
        with self._lock:
            return [span for span in self._spans if trace_id is None or span.trace_id == trace_id]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Collector]:
        """Take spans until the end."""
        serving = threading.Thread(target=self._server.serve_forever, name="collector")
        serving.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            serving.join()
            self._server.server_close()

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            CollectedSpan(
                service=service,
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                text=f"{resource.resource} {span}",
            )
            for resource in request.resource_spans
            for service in [
                next(
                    one.value.string_value
                    for one in resource.resource.attributes
                    if one.key == "service.name"
                )
            ]
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += spans
