"""What people tell of themselves stays where it belongs: in no log line of any service, and in no event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any
from uuid import uuid4

from aiokafka import TopicPartition

from tests.e2e.city import City, listening, new_subtype, order_body
from tests.integration.events_rig import PATIENCE_S
from tools.demo.phone import API, Phone
from weelo_cli.tokens import make_token
from weelo_common.events.topics import ALL_TOPICS
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings

PLACES = ("pickup", "drop")  # the contract has addresses there, in events as well


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
        return [said for said in (*self.numbers, self.name) if said in text]


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


async def records_of(city: City) -> list[tuple[str, bytes]]:
    """Every record of every topic with its key and headers, as text, by its topic."""
    kafka = KafkaClients(
        KafkaSettings(kafka_bootstrap_servers=city.env["KAFKA_BOOTSTRAP_SERVERS"]), client_id="personal"
    )
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    try:
        pairs = [
            TopicPartition(kafka.topic_name(topic), number)
            for topic in ALL_TOPICS
            for number in range(topic.partitions)
        ]
        consumer.assign(pairs)
        await consumer.seek_to_beginning(*pairs)
        ends = await consumer.end_offsets(pairs)
        found = []
        async with asyncio.timeout(PATIENCE_S):
            while any([await consumer.position(pair) < ends[pair] for pair in pairs]):
                for pair, batch in (await consumer.getmany(timeout_ms=200)).items():
                    for record in batch:
                        headers = b" ".join(name.encode() + b"=" + value for name, value in record.headers)
                        found.append(
                            (pair.topic, b" ".join([record.key or b"", headers, record.value or b""]))
                        )
        return found
    finally:
        await kafka.stop_consumer(consumer)


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


async def test_a_name_a_number_and_an_address_reach_no_log_and_no_event(city: City) -> None:
    person = Person()
    orders = await tell_everything(city, person)
    assert orders
    about_them = 0
    for topic, record in await records_of(city):
        about_them += any(order_id.encode() in record for order_id in orders)
        told = without_places(record)
        assert not person.found_in(told), f"{topic} tells it"
        assert person.address not in told, f"{topic} tells the address"
    assert about_them > 3
    for name, service in city.services.items():
        log = service.log_path.read_text(errors="replace")
        assert log.count("\n") > 3
        for line in log.splitlines():
            assert not person.found_in(line), f"{name}: {line[:300]}"
            assert person.address not in line, f"{name}: {line[:300]}"
