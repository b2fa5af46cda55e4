"""Poison and parking, end to end: an event is broken on purpose, one key stops, all others flow, and it is repaired."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.e2e.city import City, listening, new_subtype, order_body
from tests.e2e.operator import Operator
from tests.integration.events_rig import PATIENCE_S
from weelo_common.events import Event, TimerCancelled, TimerScheduled, encode, seal
from weelo_common.events.timers import MAX_HORIZON_DAYS
from weelo_common.ids import new_id

# A defect in the notifier's way: every frame of one order fails, as a bug in a handler would make it fail.
BREAK = """
CREATE FUNCTION break_one_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.order_id = '{order_id}' THEN RAISE EXCEPTION 'broken on purpose'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER break_one_order BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION break_one_order();
"""
REPAIR = "DROP TRIGGER IF EXISTS break_one_order ON notifications; DROP FUNCTION IF EXISTS break_one_order()"
# A timer this much beyond the horizon is refused now, and good a little later; where a busy machine takes it to expiry
# later than that, the next one goes further beyond.
REFUSED_FOR_S = (3.0, 9.0, 27.0)
DEAD_TIMERS = ("dlq", "list", "--topic", "timers.commands.v1", "--group", "expiry")


@pytest.fixture
def weelo(city: City) -> Operator:
    return Operator(city.stack.command_env())


async def eventually(weelo: Operator, what: str, count: int, *arguments: str) -> list[dict[str, Any]]:
    """The list in a command's answer, as soon as it has so many entries."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found = (await weelo.answers(*arguments))[what]
    return found


async def test_a_key_whose_event_breaks_is_parked_alone_and_replayed_in_order_once_it_is_repaired(
    city: City, weelo: Operator
) -> None:
    env = city.stack.command_env()
    database = await asyncpg.connect(env["POSTGRES_DSN_NOTIFIER"])
    customer, other, subtype = city.customer(), city.customer(), new_subtype()
    order_id = ""
    try:
        async with listening(city, customer.phone) as inbox, listening(city, other.phone) as others_inbox:
            created = await customer.create(order_body(subtype))
            order_id = created.data["orderId"]
            await inbox.wait_for("order_status_update", orderId=order_id, orderVersion=1)
            await database.execute(BREAK.format(order_id=order_id))
            assert (await customer.cancel(order_id)).ok

            (parked,) = await eventually(
                weelo, "parked", 1, "parked", "list", order_id, "--service", "notifier"
            )
            assert parked["reason"] == "RaiseError: broken on purpose"
            assert parked["first"][0]["type"] == "weelo.order.cancelled.v1"
            flowing = await other.create(order_body(subtype))
            await others_inbox.wait_for("order_status_update", orderId=flowing.data["orderId"])

            since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
            replay = ("events", "replay", "--group", "notifier", "--from", since)
            async with asyncio.timeout(PATIENCE_S):
                # An event counts once its offset is committed: a moment after its frame is there, or it is parked.
                while True:
                    again = (await weelo.answers(*replay))["would"]
                    (waiting,) = (await weelo.answers("parked", "list", order_id))["parked"]
                    if again["handledAgain"] and again["stillParked"] == waiting["events"]:
                        break  # what is parked would only repeat itself: it waits already
            assert again["parkedAgain"] >= 1  # the order's first event, which was applied before
            assert again["handledAgain"] + again["parkedAgain"] + again["stillParked"] <= again["records"]

            would = await weelo.answers("parked", "replay", "notifier", order_id)
            assert would["done"] is False
            too_soon = await weelo.says("parked", "replay", "notifier", order_id, "--yes")
            assert (too_soon.exit_code, "broken on purpose" in too_soon.stdout) == (1, True)

            await database.execute(REPAIR)
            told = await weelo.answers("parked", "replay", "notifier", order_id, "--yes")
            assert told["keys"] == [
                {"key": order_id, "events": parked["events"], "replayed": True, "error": None}
            ]
            await inbox.wait_for("order_cancelled", orderId=order_id)  # pushed, like any other
            assert (await weelo.answers("parked", "list", order_id))["parked"] == []
    finally:
        await database.execute(REPAIR)
        await database.close()
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())


async def test_a_dead_letter_is_shown_without_its_secrets_and_a_retry_applies_it_once_it_can_be(
    city: City, weelo: Operator
) -> None:
    timer, letter = await refused_timer(city, weelo)
    order_id = letter["key"]
    assert "days ahead" in letter["reason"]
    where = ("timers.commands.v1", "expiry", str(letter["offset"]))
    shown = await weelo.answers("dlq", "show", *where)
    assert shown["body"]["timerKey"] == timer.timer_key
    assert "Asha" not in str(shown)
    assert (await weelo.answers("dlq", "retry", *where))["done"] is False

    good_from = timer.due_at - timedelta(days=MAX_HORIZON_DAYS)
    await asyncio.sleep((good_from - datetime.now(UTC)).total_seconds())  # time itself repairs it
    assert (await weelo.answers("dlq", "retry", *where, "--yes"))["done"] is True
    async with asyncio.timeout(PATIENCE_S):
        while not (standing := await timers_of(weelo, order_id)):
            pass
    assert [(one["state"], one["version"]) for one in standing] == [("pending", 1)]
    again = await weelo.says("dlq", "retry", *where, "--yes")
    assert (again.exit_code, "retried already" in again.stderr) == (1, True)
    settled = (await weelo.answers(*DEAD_TIMERS, "--settled"))["deadLetters"]
    assert [one["resolution"] for one in settled if one["key"] == order_id] == ["retried"]
    await publish(city, TimerCancelled(timer_key=timer.timer_key, version=2, order_id=order_id))
    report = await city.ledger()
    assert report.ok, "\n".join(report.lines())


async def refused_timer(city: City, weelo: Operator) -> tuple[TimerScheduled, dict[str, Any]]:
    """A timer that was beyond the horizon when expiry saw it, and its dead letter."""
    for refused_for_s in REFUSED_FOR_S:
        order_id = new_id()
        timer = TimerScheduled(
            timer_key=f"test:{order_id}",
            version=1,
            order_id=order_id,
            owner="nobody",
            due_at=datetime.now(UTC) + timedelta(days=MAX_HORIZON_DAYS, seconds=refused_for_s),
            payload={"note": "Asha, 98100 00000"},
        )
        await publish(city, timer)
        async with asyncio.timeout(PATIENCE_S):
            while not await timers_of(weelo, order_id):
                letters = (await weelo.answers(*DEAD_TIMERS))["deadLetters"]
                if mine := [one for one in letters if one["key"] == order_id]:
                    (letter,) = mine
                    return timer, letter
        await publish(city, TimerCancelled(timer_key=timer.timer_key, version=2, order_id=order_id))
    raise AssertionError("every timer was within the horizon before expiry saw it")


async def timers_of(weelo: Operator, order_id: str) -> list[dict[str, Any]]:
    """The timers of expiry that belong to an order."""
    database = await asyncpg.connect(weelo.env["POSTGRES_LEDGER_DSN_EXPIRY"])
    try:
        rows = await database.fetch("SELECT state, version FROM timers WHERE order_id = $1", order_id)
    finally:
        await database.close()
    return [dict(row) for row in rows]


async def publish(city: City, event: Event) -> None:
    kafka = city.kafka()
    headers, value = encode(seal(event, source="order-api", time=datetime.now(UTC)))
    producer = await kafka.start_producer()
    await producer.send_and_wait(
        kafka.topic_name(event.TOPIC), value, key=event.key().encode(), headers=headers
    )
    await kafka.stop_producer(producer)
