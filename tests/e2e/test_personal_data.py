"""What people tell of themselves stays where it belongs: in no log line, no trace, no metric, and in no event.

A name, a phone number and an address that stand nowhere else are sent in by every way there is; then everything that
the services say is read. The contract gives an order's events its places, and those alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deploy.local.services import ServiceProcess
from deploy.local.stack import LocalStack
from tests.e2e.city import City, city_apart, listening, new_subtype, order_body
from tests.e2e.collector import Collector
from tests.e2e.conftest import services_env
from tests.integration.events_rig import PATIENCE_S, until
from tools.demo.phone import API, Phone, new_client
from weelo_cli.tokens import make_token
from weelo_common.events import OrderCancelled
from weelo_common.events.topics import (
    CAPTAINS_LOCATIONS,
    CAPTAINS_STATE,
    DISPATCH_OFFERS,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    declared_topics,
)

PLACES = ("pickup", "drop")  # the contract has addresses there, in events as well
FROM_OTHERS = ("from-others", b"")  # a header of the records that the test itself wrote
DEAD_LETTERS = ".dlq"
OURS_IN_A_DEAD_LETTER = "dlq-"  # such headers; the rest of it is somebody's record, as it came


System = tuple[Mapping[str, ServiceProcess], Mapping[str, str]]
"""The services, and what reaches what is behind them."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Takes the traces of this system alone."""
    with Collector().listening() as collector:
        yield collector


@pytest.fixture
def place(stack: LocalStack, collector: Collector) -> Iterator[System]:
    """A system of its own: in another's topics the broken records would be in everybody's way ever after."""
    with city_apart(stack, services_env(collector)) as place:
        yield place


@pytest.fixture
async def city(stack: LocalStack, place: System) -> AsyncIterator[City]:
    """Its people reach the services themselves: no gateway keeps from them what a caller says."""
    services, env = place
    async with new_client() as client:
        yield City(stack, services, client, env)


class Person:
    """Somebody with a name, a number and an address that stand nowhere else."""

    def __init__(self) -> None:
        random = Random(uuid4().int)
        self.number = f"98{random.randrange(10**8):08d}"
        self.name = f"Asha{random.randrange(10**8)}"
        self.address = f"Lane{random.randrange(10**8)}"

    @property
    def numbers(self) -> list[str]:
        """The number as people write it."""
        n = self.number
        return [n, f"+91{n}", f"0{n}", f"+91-{n[:5]}-{n[5:]}", f"{n[:5]}.{n[5:]}", f"{n[:5]} {n[5:]}"]

    def found_in(self, text: str) -> list[str]:
        return [said for said in (*self.numbers, self.name, self.address) if said in text]


def phone_of(city: City, role: str, person_id: str, person: Person) -> Phone:
    key = city.stack.keys.jwt_private.read_text()
    token = make_token(key, role, person_id, name=person.name, phone=f"+91{person.number}")
    return Phone(city.client, person_id, token)


async def tell_everything(city: City, person: Person) -> list[str]:
    """Send name, number and address by every way there is; returns the orders made."""
    subtype = new_subtype()
    customer = phone_of(city, "customer", f"c-{uuid4().hex[:12]}", person)
    order_url = city.url("order-api", "/orders")
    content = order_body(subtype)
    for place in PLACES:
        content[place] |= {"address": f"{person.address} call {person.number}", "city": person.address}
    auth = {"authorization": f"Bearer {customer.token}"}
    orders = []

    async def send(method: str, url: str, body: Any = None, **headers: str) -> Mapping[str, Any]:
        answer = await city.client.request(method, url, json=body, headers=auth | headers)
        found: Mapping[str, Any] = answer.json()
        return found

    async with city.captain(subtype) as captain, listening(city, customer):
        me = {
            "transporterId": f"t-{captain.person_id}",
            "name": person.name,
            "phone": f"+91{person.number}",
            "vehicleType": "TRUCK",
            "vehicleSubtype": subtype,
            "vehicleNumber": "DL 1 AB 1",
        }
        await captain.phone.call("PUT", city.url("dispatcher", "/captains/me"), me)
        ops = city.phone("ops", "ops-1")
        transporter = {"name": person.name, "phone": person.number, "active": True, "verified": True}
        await ops.call("PUT", city.url("dispatcher", f"/transporters/t-{captain.person_id}"), transporter)

        for number in person.numbers:
            made = await send(
                "POST",
                order_url,
                content,
                **{
                    "x-request-id": f"call-{number}",
                    "x-idempotency-key": f"key-{number.replace(' ', '_')}",
                },
            )
            await send("GET", order_url, **{"x-request-id": number})
            if not made["success"]:
                continue  # an order of his searches already
            order_id = made["data"]["orderId"]
            orders.append(order_id)
            offer = await captain.offer(order_id)
            won = await captain.accept(order_id, offer)
            truck = won.data["truckRequest"]["id"]
            path = f"/truck-requests/{truck}/release"
            reason = {"reason": f"call {person.name} at {number}"}
            await captain.phone.call("POST", city.url("order-api", path), reason)
            await send("POST", f"{order_url}/{order_id}/cancel", reason)

        for bad in (
            {**content, person.number: person.name, "distanceKm": person.number},
            {**content, "pickup": {"latitude": 91, "longitude": person.name, "address": ""}},
            [person.name],
            person.number,
        ):
            await send("POST", order_url, bad, **{"idempotency-key": person.number})
        await send("GET", f"{order_url}/{person.number}")
        await send("GET", f"{order_url}?status={person.number}&page={person.number}")
        await send("GET", city.url("order-api", f"/{person.number}"))
        await send("POST", order_url, content, **{"idempotency-key": f'"open {person.number}'})
        token = {"offerToken": f"{person.number}.{person.name}.x"}
        await captain.phone.call("POST", city.url("order-api", f"/orders/{orders[0]}/accept"), token)
        await captain.phone.call(
            "POST", city.url("dispatcher", f"/offers/{uuid4()}/decline"), {"reason": person.number}
        )
        for forged in (person.number, f"{person.name}.x.y"):
            await city.client.get(order_url, headers={"authorization": f"Bearer {forged}"})
            await city.client.get(
                f"{city.services['notifier'].base_url}{API}/notifications?after={person.number}",
                headers={"authorization": f"Bearer {forged}"},
            )
    return orders


async def tell_it_to_the_socket(city: City, person: Person) -> None:
    """By everything a client can say on a socket, or on its way to one."""
    token = phone_of(city, "customer", f"c-{uuid4().hex[:12]}", person).token
    sign_in = {"type": "auth", "token": token}
    resume = {"epoch": person.name, "offset": 1}
    first_frames: list[Any] = [
        person.number,
        [person.name],
        {"type": person.number},
        {"type": "auth", "token": f"{person.name}.{person.number}.x"},
        sign_in | {"resume": {"epoch": "x", "offset": person.number}},
    ]
    later_frames: list[Any] = [
        {"type": "ping", "note": person.address},
        {"type": "ack", "offset": 0, "name": person.name},
        {"type": person.name, "offset": person.number},
    ]
    conversations = [[frame] for frame in first_frames]
    conversations += [[sign_in | {"resume": resume}, frame] for frame in later_frames]
    for conversation in conversations:
        url = f"{city.ws_url()}?phone={person.number}&name={person.name}"
        headers = {"x-request-id": person.number, "cookie": f"name={person.name}"}
        async with connect(url, additional_headers=headers, user_agent_header=person.name) as socket:
            with contextlib.suppress(ConnectionClosed):  # as some of them deserve
                for frame in (*conversation, {"type": "ping"}):
                    await socket.send(json.dumps(frame))
                async with asyncio.timeout(PATIENCE_S):
                    while json.loads(await socket.recv())["type"] != "pong":
                        pass
    for url in (f"{city.ws_url()}/{person.number}", city.ws_url()):
        with contextlib.suppress(InvalidStatus):
            async with connect(url, origin=f"https://{person.name}.example"):  # type: ignore[arg-type]
                pass


async def tell_it_in_events(city: City, person: Person) -> int:
    """By events of others: of no known type, broken in each way, or with more in them; returns how many are dead."""
    said = {"name": person.name, "phone": person.number, "address": person.address}
    text = json.dumps(said).encode()
    good = {
        "ce_specversion": "1.0",
        "ce_id": "",
        "ce_type": OrderCancelled.TYPE,
        "ce_source": "/others/crm",
        "ce_time": "2026-02-03T10:08:28.123Z",
    }
    dead: list[tuple[dict[str, str], bytes]] = [
        (good, text),
        (good, json.dumps(said | {"orderId": person.number, "orderVersion": person.name}).encode()),
        (good, f"{person.name} {person.number}".encode()),
        (good | {"ce_time": person.number}, text),
        (good | {"ce_specversion": person.number}, text),
        (good | {"ce_source": ""}, text),
    ]
    ignored = [(good | {"ce_type": "weelo.order.noted.v1", "note": person.name}, text)]
    kafka = city.kafka()
    producer = await kafka.start_producer()
    try:
        for topic in (ORDERS_EVENTS, DISPATCH_OFFERS, TIMERS_COMMANDS, TIMERS_FIRED, CAPTAINS_STATE):
            for headers, value in dead + ignored:
                told = {**headers, "ce_id": str(uuid4()), "x-phone": person.number}
                await producer.send_and_wait(
                    kafka.topic_name(topic),
                    value,
                    key=str(uuid4()).encode(),
                    headers=[*((name, content.encode()) for name, content in told.items()), FROM_OTHERS],
                )
        packed = kafka.topic_name(CAPTAINS_LOCATIONS)
        await producer.send_and_wait(packed, text, key=person.name.encode(), headers=[FROM_OTHERS])
    finally:
        await kafka.stop_producer(producer)
    read_by_groups = (ORDERS_EVENTS, DISPATCH_OFFERS, TIMERS_COMMANDS, TIMERS_FIRED)
    return len(dead) * sum(len(topic.groups) for topic in read_by_groups)


async def traces_are_in(city: City, collector: Collector) -> None:
    """A service sends its spans in the order in which they ended: what is asked for now comes last."""
    asked = secrets.token_hex(16)
    city.client.headers["traceparent"] = f"00-{asked}-{secrets.token_hex(8)}-01"
    ops = city.phone("ops", "ops-1")
    subtype = new_subtype()
    await city.customer().create(order_body(subtype))
    for service, path in (("dispatcher", "/captains/me"), ("notifier", "/notifications")):
        await ops.call("GET", city.url(service, path))
    wanted = {
        ("order-api", "POST /api/v1/orders"),
        ("dispatcher", "GET /api/v1/captains/me"),
        ("notifier", "GET /api/v1/notifications"),
        ("expiry", "handle weelo.timer.scheduled.v1"),
    }
    await until(
        lambda: wanted <= {(span.service, span.name) for span in collector.spans(asked)},
        "a last span of every service",
    )


async def records_of(city: City) -> list[tuple[str, bytes]]:
    """What the services wrote of every record of every topic, key and headers included, as text, by its topic."""
    kafka = city.kafka()
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    try:
        pairs = [
            TopicPartition(kafka.topic_name(topic), number)
            for topic in declared_topics()
            for number in range(topic.partitions)
        ]
        consumer.assign(pairs)
        await consumer.seek_to_beginning(*pairs)
        ends = await consumer.end_offsets(pairs)
        found = []
        async with asyncio.timeout(PATIENCE_S):
            while any([await consumer.position(pair) < ends[pair] for pair in pairs]):
                for pair, batch in (await consumer.getmany(timeout_ms=200)).items():
                    found += [(pair.topic, said_in(pair.topic, record)) for record in batch]
        return found
    finally:
        await kafka.stop_consumer(consumer)


def said_in(topic: str, record: Any) -> bytes:
    """What a service says in a record; of what others wrote, that is nothing but the headers of a dead letter."""
    ours = record.headers
    body = [record.key or b"", record.value or b""]
    if topic.endswith(DEAD_LETTERS) or FROM_OTHERS in record.headers:
        ours = [(name, value) for name, value in ours if name.startswith(OURS_IN_A_DEAD_LETTER)]
        body = [b"", b""]
    headers = b" ".join(name.encode() + b"=" + value for name, value in ours)
    return b" ".join([body[0], headers, body[1]])


def without_places(record: bytes) -> str:
    """The record without the places that the contract lets it have."""
    text = record.decode(errors="replace")
    start = text.find("{")
    try:
        event = json.loads(text[start:])
    except ValueError:
        return text
    if isinstance(event, dict):
        event = {name: value for name, value in event.items() if name not in PLACES}
    return text[:start] + json.dumps(event, ensure_ascii=False)


async def metrics_page(city: City, service: ServiceProcess) -> str:
    answer = await city.client.get(f"{service.base_url}/metrics")
    assert answer.status_code == 200
    return answer.text


async def test_a_name_a_number_and_an_address_reach_no_log_no_trace_no_metric_and_no_event(
    city: City, collector: Collector
) -> None:
    person = Person()
    city.client.headers["traceparent"] = (
        f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"  # all is recorded
    )
    dead = await tell_it_in_events(city, person)
    orders = await tell_everything(city, person)
    await tell_it_to_the_socket(city, person)
    assert orders
    await traces_are_in(city, collector)

    records: list[tuple[str, bytes]] = []
    async with asyncio.timeout(PATIENCE_S):
        while sum(topic.endswith(DEAD_LETTERS) for topic, _ in records) < dead:
            records = await records_of(city)
    assert sum(any(order_id.encode() in record for order_id in orders) for _, record in records) > 3
    for topic, record in records:
        assert not person.found_in(without_places(record)), f"{topic} tells it"
    for name, service in city.services.items():
        log = service.log_path.read_text(errors="replace")
        assert log.count("\n") > 3
        for line in log.splitlines():
            assert not person.found_in(line), f"{name}: {line[:300]}"
        assert not person.found_in(await metrics_page(city, service)), f"{name}: /metrics tells it"
    spans = collector.spans()
    assert {span.service for span in spans} == set(city.services)
    for span in spans:
        assert not person.found_in(span.text), span.text
