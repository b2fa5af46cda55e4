"""A replay that an operator asks for: by the running consumer, in order, under the lock, and honest where it fails."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from deploy.local.stack import LocalStack
from tests.e2e.operator import Operator
from tests.integration import consumer_rig
from tests.integration.consumer_rig import Member, consuming, effects, send
from tests.integration.events_rig import GROUP, ORDERS_EVENTS, PATIENCE_S, EventsRig, until
from weelo_common.delivery import PoisonMessage, RetryLater
from weelo_common.events import OrderFullyFilled
from weelo_common.postgres import Connection

ASK = "UPDATE parked_key SET replay_asked_at = clock_timestamp(), replay_error = NULL WHERE key = $1"
SELECT_MARKS = "SELECT key, replay_error FROM parked_key ORDER BY key"

rig, producer = consumer_rig.rig, consumer_rig.producer


async def park(rig: EventsRig, producer: AIOKafkaProducer, key: str, versions: int, *well: str) -> None:
    """Events 1, 2 … of a key, all parked; what was sent before under the keys in ``well`` is applied."""
    for version in range(1, versions + 1):
        await send(rig, producer, key, version)
    failing = Member(rig, trouble=lambda event: None if event.order_id in well else KeyError("a defect"))
    async with consuming(failing):
        await until(lambda: failing.count("parked") == versions, "the parked events")


async def ask(rig: EventsRig, key: str) -> None:
    async with rig.database.connection() as connection:
        await connection.execute(ASK, key)


async def marks(rig: EventsRig) -> dict[str, str | None]:
    """The parked keys, each with why its last replay failed."""
    async with rig.database.connection() as connection:
        return {row["key"]: row["replay_error"] for row in await connection.fetch(SELECT_MARKS)}


async def marks_become(rig: EventsRig, wanted: dict[str, str | None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await marks(rig) == wanted:
                return
            await asyncio.sleep(0.02)


async def test_what_is_asked_for_is_applied_in_order_and_the_key_flows_again(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await park(rig, producer, "o1", 3)
    await park(rig, producer, "o2", 1)
    well = Member(rig)
    async with consuming(well):
        await ask(rig, "o1")
        await marks_become(rig, {"o2": None})  # nobody asked for that one
        await send(rig, producer, "o1", 4)
        await until(lambda: well.count("applied") == 1, "the event after the replay")
    assert await effects(rig) == [("o1", 1), ("o1", 2), ("o1", 3), ("o1", 4)]
    assert well.committed == [("o1", 1), ("o1", 2), ("o1", 3), ("o1", 4)]  # what follows a commit was done
    assert (well.count("replayed"), well.count("consumed")) == (3, 1)
    assert well.adds_up()


async def test_what_fails_again_stays_parked_behind_what_was_applied_and_says_why(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await park(rig, producer, "o1", 3)
    half_mended = Member(rig, trouble=lambda e: KeyError("still broken") if e.order_version == 2 else None)
    async with consuming(half_mended):
        await ask(rig, "o1")
        await marks_become(rig, {"o1": "KeyError: 'still broken'"})
    assert await effects(rig) == [("o1", 1)]
    well = Member(rig)
    async with consuming(well):
        await ask(rig, "o1")
        await marks_become(rig, {})
    assert await effects(rig) == [("o1", 1), ("o1", 2), ("o1", 3)]


async def test_trouble_that_passes_is_waited_out_and_poison_goes_to_the_dead_letters(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await park(rig, producer, "o1", 3)
    left: list[Exception] = [ConnectionResetError("PostgreSQL is away"), RetryLater(0.01, "too early")]

    def trouble(event: OrderFullyFilled) -> Exception | None:
        if event.order_version == 2:
            return PoisonMessage("never")
        return left.pop() if left else None

    member = Member(rig, trouble=trouble)
    async with consuming(member):
        await ask(rig, "o1")
        await marks_become(rig, {})
    assert await effects(rig) == [("o1", 1), ("o1", 3)]  # nothing of the poison's half-done work
    (dead,) = await rig.records(ORDERS_EVENTS.dlq(GROUP), 1)
    assert dict(dead.headers)["dlq-reason"] == b"never"


async def test_poison_of_a_replay_is_no_repeat_when_its_dead_letter_is_put_back(
    rig: EventsRig, producer: AIOKafkaProducer, stack: LocalStack
) -> None:
    await park(rig, producer, "o1", 1)
    async with consuming(Member(rig, trouble=lambda event: PoisonMessage("not yet"))):
        await ask(rig, "o1")
        await marks_become(rig, {})
    weelo = operator(rig, stack)
    (letter,) = (await weelo.answers("dlq", "list", "--topic", "orders.events.v1", "--group", "dispatcher"))[
        "deadLetters"
    ]
    where = ("orders.events.v1", "dispatcher", str(letter["offset"]))
    assert (await weelo.answers("dlq", "retry", *where, "--yes"))["done"] is True
    repaired = Member(rig)
    async with consuming(repaired):
        await until(lambda: repaired.count("consumed") == 1, "the event that was put back")
    assert (repaired.count("applied"), repaired.count("duplicate")) == (1, 0)
    assert await effects(rig) == [("o1", 1)]


async def test_a_group_moved_back_applies_what_is_parked_once(
    rig: EventsRig, producer: AIOKafkaProducer, stack: LocalStack
) -> None:
    await send(rig, producer, "o2", 1)
    await park(rig, producer, "o1", 2, "o2")
    weelo = operator(rig, stack)
    moved = ("events", "replay", "--group", "dispatcher", "--topic", "orders.events.v1", "--from", "1h")
    assert (await weelo.answers(*moved, "--yes"))["done"] is True
    well = Member(rig)
    async with consuming(well):
        await until(lambda: well.count("consumed") == 3, "all of them once more")
        await ask(rig, "o1")
        await marks_become(rig, {})
    assert (well.count("duplicate"), well.count("applied"), well.count("replayed")) == (2, 1, 2)
    assert [effect for effect in await effects(rig) if effect[0] == "o1"] == [("o1", 1), ("o1", 2)]


async def test_two_replicas_take_turns_and_apply_nothing_twice(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await park(rig, producer, "o1", 12)

    async def slowly(connection: Connection, event: OrderFullyFilled) -> None:
        await asyncio.sleep(0.01)  # so that both are at it

    one, other = Member(rig, also=slowly), Member(rig, also=slowly)
    async with consuming(one, other):
        await ask(rig, "o1")
        await marks_become(rig, {})
        await until(lambda: one.count("replayed") + other.count("replayed") == 12, "all of them, counted")
    assert await effects(rig) == [("o1", version) for version in range(1, 13)]


async def test_a_member_that_stops_in_a_replay_leaves_the_rest_asked_for(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await park(rig, producer, "o1", 3)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(connection: Connection, event: OrderFullyFilled) -> None:
        reached.set()
        await go_on.wait()

    stop = asyncio.Event()
    leaving = asyncio.create_task(Member(rig, also=wait).consumer().run(stop))
    await ask(rig, "o1")
    await asyncio.wait_for(reached.wait(), 10)
    stop.set()
    go_on.set()
    await asyncio.wait_for(leaving, 10)
    assert await effects(rig) == [("o1", 1)]  # the event in hand was finished
    async with consuming(Member(rig)):
        await marks_become(rig, {})
    assert await effects(rig) == [("o1", 1), ("o1", 2), ("o1", 3)]


def operator(rig: EventsRig, stack: LocalStack) -> Operator:
    """Somebody at the command line of a system whose only database and topics are the rig's."""
    settings = rig.settings
    prefix = settings.kafka_topic_prefix.replace(".", "_")
    return Operator(
        {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
            "POSTGRES_DSN_DISPATCHER": settings.postgres_dsn.get_secret_value(),
            "POSTGRES_LEDGER_DSN_DISPATCHER": stack.ledger_dsns(prefix)["order-api"],
        }
    )


async def test_what_is_dropped_is_gone_for_good_and_the_key_flows_again(
    rig: EventsRig, producer: AIOKafkaProducer, stack: LocalStack
) -> None:
    await park(rig, producer, "o1", 3)
    weelo = operator(rig, stack)
    (parked,) = (await weelo.answers("parked", "list", "--service", "dispatcher"))["parked"]
    assert (parked["key"], parked["events"], parked["reason"]) == ("o1", 3, "KeyError: 'a defect'")
    second = parked["first"][1]["eventId"]

    would = await weelo.answers("parked", "drop", "dispatcher", "o1", "--event", second)
    assert would["done"] is False
    assert await parked_events(rig) == 3
    done = await weelo.answers("parked", "drop", "dispatcher", "o1", "--event", second, "--yes")
    assert (done["dropped"], done["left"]) == ([second], 2)
    assert (await weelo.says("parked", "drop", "dispatcher", "o1", "--event", second, "--yes")).exit_code == 1
    assert (await weelo.answers("parked", "drop", "dispatcher", "o1", "--yes"))["left"] == 0
    assert await marks(rig) == {}
    well = Member(rig)
    async with consuming(well):
        await send(rig, producer, "o1", 4)
        await until(lambda: well.count("applied") == 1, "the next event")
    assert await effects(rig) == [("o1", 4)]


async def test_a_replay_that_nobody_does_is_said_to_be_asked_for_and_done_later(
    rig: EventsRig, producer: AIOKafkaProducer, stack: LocalStack
) -> None:
    await park(rig, producer, "o1", 1)
    weelo = operator(rig, stack)
    said = await weelo.says("parked", "replay", "dispatcher", "--all", "--wait-s", "0.3", "--yes")
    assert (said.exit_code, "does it run?" in said.stderr) == (3, True)
    async with consuming(Member(rig)):
        await marks_become(rig, {})
    assert await effects(rig) == [("o1", 1)]
    nothing = await weelo.says("parked", "replay", "dispatcher", "o1", "--yes")
    assert (nothing.exit_code, nothing.stderr) == (1, "dispatcher has nothing parked of o1\n")


async def test_a_dead_letter_that_is_dropped_leaves_the_list_and_cannot_be_retried(
    rig: EventsRig, producer: AIOKafkaProducer, stack: LocalStack
) -> None:
    topic = rig.kafka.topic_name(ORDERS_EVENTS)
    body = b'{"orderId": "o1", "address": "Lane 5, call 98100 00000"}'
    await producer.send_and_wait(topic, body, key=b"o1", headers=[("ce_id", b"x")])
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("dead") == 1, "the dead letter")
    weelo = operator(rig, stack)
    mine = ("dlq", "list", "--topic", "orders.events.v1", "--group", "dispatcher")
    (letter,) = (await weelo.answers(*mine))["deadLetters"]
    assert (letter["key"], letter["reason"]) == ("o1", "the header ce_type is missing")
    where = ("orders.events.v1", "dispatcher", str(letter["offset"]))
    shown = await weelo.says("dlq", "show", *where)
    assert '"orderId": "o1"' in shown.stdout
    assert "Lane" not in shown.output
    assert (await weelo.answers("dlq", "drop", *where))["done"] is False
    assert len((await weelo.answers(*mine))["deadLetters"]) == 1
    assert (await weelo.answers("dlq", "drop", *where, "--yes"))["done"] is True
    assert (await weelo.answers(*mine))["deadLetters"] == []
    (settled,) = (await weelo.answers(*mine, "--settled"))["deadLetters"]
    assert settled["resolution"] == "dropped"
    refused = await weelo.says("dlq", "retry", *where, "--yes")
    assert (refused.exit_code, "dropped already" in refused.stderr) == (1, True)
    assert (await weelo.says("dlq", "drop", *where[:2], "--all", "--yes")).exit_code == 1


async def parked_events(rig: EventsRig) -> int:
    async with rig.database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM parked")
        return count
