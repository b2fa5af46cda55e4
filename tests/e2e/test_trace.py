"""One trace from the customer's request to the captain's phone, where its caller records it; none where he does not.

The services send their traces to a collector of this run, and begin none by themselves (``OTEL_TRACES_SAMPLE_RATIO`` is
0): all hangs on what comes in a request's ``traceparent``.
"""

from __future__ import annotations

import secrets

from tests.e2e.city import Captain, City, new_subtype, order_body
from tests.e2e.collector import CollectedSpan, Collector
from tests.integration.events_rig import until

RECORDED, NOT_RECORDED = "03", "02"  # with the flag that the id is random, which SDKs set as well

# What joins the booking and the offer, and what follows from the captain's yes: who does it, and its name.
OF_A_BOOKING = {
    ("order-api", "POST /api/v1/orders"),
    ("order-api", "redis EVALSHA"),
    ("order-api", "postgres transaction"),
    ("order-api", "publish orders.events.v1"),
    ("order-api", "publish timers.commands.v1"),
    ("expiry", "handle weelo.timer.scheduled.v1"),
    ("dispatcher", "handle weelo.order.created.v1"),
    ("dispatcher", "postgres transaction"),
    ("dispatcher", "match"),
    ("dispatcher", "publish dispatch.offers.v1"),
    ("order-api", "handle weelo.dispatch.offers_made.v1"),
    ("notifier", "handle weelo.dispatch.offers_made.v1"),
    ("notifier", "postgres transaction"),
    ("notifier", "push new_broadcast"),
}
OF_AN_ACCEPT = {
    ("order-api", "POST /api/v1/orders/{order_id}/accept"),
    ("order-api", "publish orders.events.v1"),
    ("dispatcher", "handle weelo.order.truck_assigned.v1"),
    ("notifier", "push trip_assigned"),
}


def traceparent(trace_id: str, flags: str) -> tuple[str, str]:
    """A caller's context, and the id of the span in it."""
    span_id = secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-{flags}", span_id


def names(spans: list[CollectedSpan]) -> set[tuple[str, str]]:
    return {(span.service, span.name) for span in spans}


def orphans(spans: list[CollectedSpan], callers_span: str) -> list[CollectedSpan]:
    """Spans before which the chain is broken."""
    known = {span.span_id for span in spans} | {callers_span}
    return [span for span in spans if span.parent_id not in known]


async def booked(city: City, captain: Captain, context: str | None) -> str:
    """An order whose offer is on the captain's phone; he takes it, and is done with it at once."""
    customer = city.customer()
    headers = {"authorization": f"Bearer {customer.phone.token}"}
    if context is not None:
        headers["traceparent"] = context
    made = await city.client.post(
        city.url("order-api", "/orders"), json=order_body(captain.subtype), headers=headers
    )
    assert made.status_code == 201, made.text
    order_id: str = made.json()["data"]["orderId"]
    offer = await captain.offer(order_id)
    won = await city.client.post(
        city.url("order-api", f"/orders/{order_id}/accept"),
        json={"offerToken": offer.data["offerToken"]},
        headers=headers | {"authorization": f"Bearer {captain.phone.token}"},
    )
    assert won.status_code == 200, won.text
    await captain.inbox.wait_for("trip_assigned", orderId=order_id)
    truck = won.json()["data"]["truckRequest"]["id"]
    for step in ("start", "complete"):
        answer = await captain.phone.call(
            "POST", city.url("order-api", f"/truck-requests/{truck}/{step}"), {}
        )
        assert answer.ok, answer.body
    return order_id


async def test_a_callers_recorded_trace_goes_through_http_postgres_redis_kafka_and_the_socket(
    city: City, collector: Collector
) -> None:
    trace_id = secrets.token_hex(16)
    context, callers_span = traceparent(trace_id, RECORDED)
    wanted = OF_A_BOOKING | OF_AN_ACCEPT
    async with city.captain(new_subtype()) as captain:
        await booked(city, captain, context)
        await until(
            lambda: wanted <= names(collector.spans(trace_id)),
            f"the spans {wanted - names(collector.spans(trace_id))}",
        )
        # A child may come before its parent, which another service sends.
        await until(lambda: not orphans(collector.spans(trace_id), callers_span), "the parent of every span")
    first = {span.parent_id for span in collector.spans(trace_id) if span.name == "POST /api/v1/orders"}
    assert first == {callers_span}


async def test_no_span_is_opened_in_any_service_for_what_its_caller_does_not_record(
    city: City, collector: Collector
) -> None:
    recorded = secrets.token_hex(16)
    before = {span.trace_id for span in collector.spans()}
    async with city.captain(new_subtype()) as captain:
        await booked(city, captain, None)
        await booked(city, captain, traceparent(secrets.token_hex(16), NOT_RECORDED)[0])
        # A service sends its spans in the order in which they ended: what comes of this one comes last.
        await booked(city, captain, traceparent(recorded, RECORDED)[0])
        wanted = OF_A_BOOKING | OF_AN_ACCEPT
        await until(lambda: wanted <= names(collector.spans(recorded)), "the recorded order's spans")
    assert {span.trace_id for span in collector.spans()} - before == {recorded}
