"""One trace id from the customer's request to the captain's phone."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dispatcher.main
import expiry.main
import notifier.main
import order_api.main
from deploy.local.stack import LocalStack
from tests.e2e.city import City, Customer, new_subtype, order_body
from tests.integration.events_rig import until
from tools.demo.phone import API, new_client
from weelo_common.lifecycle import Lifecycle, running
from weelo_common.settings import load

MAINS: dict[str, Any] = {
    "expiry": expiry.main,
    "notifier": notifier.main,
    "dispatcher": dispatcher.main,
    "order-api": order_api.main,
}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Every span of this process."""
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider(shutdown_on_exit=False)
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


class InProcess:
    """Stands where a service's process stands, for the city's people."""

    def __init__(self, life: Lifecycle, ws_port: int) -> None:
        self.base_url = f"http://127.0.0.1:{life.http_port}"
        self.ws_url = f"ws://127.0.0.1:{ws_port}/ws"


@contextlib.asynccontextmanager
async def city_in_this_process(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[City]:
    """The four services in this process, on databases and topics of their own."""
    prefix = f"trace{uuid4().hex[:6]}_"
    dsns = stack.provision(prefix)
    stack.provision()  # service_env() wants the plain ones, too
    kafka = {"KAFKA_TOPIC_PREFIX": prefix.replace("_", "."), "KAFKA_REPLICATION_FACTOR": "1"}
    stack.create_topics(kafka)
    services: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as lives:
        for name, module in MAINS.items():
            env = {**kafka, "POSTGRES_DSN": dsns[name], "HTTP_PORT": "0", "WS_PORT": str(ws_port(stack))}
            stack.migrate([name], env)
            with monkeypatch.context() as patch:
                for key, value in (stack.service_env(name) | env).items():
                    patch.setenv(key, value)
                settings = load(module.Settings)
            life = await lives.enter_async_context(running(module.build, settings))
            services[name] = InProcess(life, int(env["WS_PORT"]))
            await until(lambda life=life: not life.health.not_ready(), f"{name} is ready")  # type: ignore[misc]
        client = await lives.enter_async_context(new_client())
        yield City(stack, services, client, {})


def ws_port(stack: LocalStack) -> int:
    """A port that is free now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_one_trace_joins_request_database_kafka_matching_and_push(
    stack: LocalStack, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    subtype, trace_id = new_subtype(), secrets.token_hex(16)
    async with city_in_this_process(stack, monkeypatch) as city, city.captain(subtype) as captain:
        customer: Customer = city.customer()
        response = await city.client.post(
            f"{city.services['order-api'].base_url}{API}/orders",
            json=order_body(subtype),
            headers={
                "authorization": f"Bearer {customer.phone.token}",
                "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
            },
        )
        assert response.status_code == 201
        await captain.offer(response.json()["data"]["orderId"])

        def names() -> set[str]:
            return {
                span.name
                for span in spans.get_finished_spans()
                if span.context is not None and f"{span.context.trace_id:032x}" == trace_id
            }

        wanted = {
            "POST /api/v1/orders",
            "postgres transaction",
            "publish orders.events.v1",
            "handle weelo.order.created.v1",
            "match",
            "publish dispatch.offers.v1",
            "handle weelo.dispatch.offers_made.v1",
            "push new_broadcast",
        }
        await until(lambda: wanted <= names(), f"the spans {wanted - names()}")
