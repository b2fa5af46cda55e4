"""Which spans are opened where traces are recorded: those of sampled traces, and nothing else; and what they tell."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from weelo_common import telemetry
from weelo_common.telemetry import current_trace_id, current_traceparent, is_recorded, span

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
NOT_SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-00"


def recording(monkeypatch: pytest.MonkeyPatch, ratio: float) -> InMemorySpanExporter:
    """As in a process with an endpoint and this ratio."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("weelo"))
    return exporter


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    return recording(monkeypatch, 1.0)


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [one.name for one in exporter.get_finished_spans()]


def test_a_sampled_parent_has_children_whatever_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = recording(monkeypatch, 0.0)
    with (
        span("handle", kind=SpanKind.CONSUMER, parent=SAMPLED),
        span("postgres transaction", kind=SpanKind.CLIENT),
    ):
        assert current_trace_id() == TRACE_ID
        assert str(current_traceparent()).endswith("-01")
    assert names(exporter) == ["postgres transaction", "handle"]
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id


@pytest.mark.parametrize("parent", [NOT_SAMPLED, f"00-{TRACE_ID}-00f067aa0ba902b7-02"])
def test_a_parent_that_is_not_sampled_goes_on_as_it_came_and_has_none(
    recorded: InMemorySpanExporter, parent: str
) -> None:
    with (
        span("handle", kind=SpanKind.CONSUMER, parent=parent),
        span("postgres transaction", kind=SpanKind.CLIENT),
    ):
        assert current_traceparent() == parent
    assert names(recorded) == []


def test_a_request_that_the_ratio_leaves_out_has_ids_of_one_trace_and_no_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = recording(monkeypatch, 0.0)
    with span("GET", kind=SpanKind.SERVER):
        outer = current_trace_id()
        with span("postgres transaction", kind=SpanKind.CLIENT):
            assert current_trace_id() == outer
            assert not is_recorded(str(current_traceparent()))
    assert outer is not None
    assert names(exporter) == []


@pytest.mark.parametrize("kind", [SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.PRODUCER])
def test_work_that_nobody_asked_for_begins_no_trace_but_its_events_have_ids(
    recorded: InMemorySpanExporter, kind: SpanKind
) -> None:
    with span("postgres transaction", kind=kind):
        assert str(current_traceparent()).endswith("-00")
    assert names(recorded) == []


async def test_a_task_begun_in_an_unsampled_trace_can_serve_a_sampled_one(
    recorded: InMemorySpanExporter,
) -> None:
    async def serve_another() -> str | None:
        with span("push", parent=SAMPLED):
            return current_trace_id()

    with span("handle", kind=SpanKind.CONSUMER, parent=NOT_SAMPLED.replace(TRACE_ID, "a" * 32)):
        task = asyncio.create_task(serve_another())
    assert await task == TRACE_ID
    assert names(recorded) == ["push"]


def test_of_an_error_a_span_tells_the_type_and_not_its_words(recorded: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="98100"), span("handle", kind=SpanKind.CONSUMER):
        raise ValueError("no number: 98100 00000")
    (failed,) = recorded.get_finished_spans()
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ValueError")
    assert "98100" not in failed.to_json()
