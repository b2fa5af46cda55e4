"""``weelo timers`` on a table of expiry, and what a running replica makes of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from deploy.local.stack import LocalStack
from tests.e2e.operator import Operator
from tests.integration.expiry_rig import Bench, bench_on, create_topics, fired_events, settings_for, timer_of
from weelo_common.events.topics import TIMERS_FIRED


@dataclass(frozen=True)
class Place:
    """Where the tests of this module find their tables."""

    dsn: str
    ledger_dsn: str


@pytest.fixture(scope="module")
def place(stack: LocalStack) -> Iterator[Place]:
    prefix = f"ex{secrets.token_hex(3)}_"
    dsn = stack.provision(prefix)["expiry"]
    yield Place(dsn, stack.ledger_dsns(prefix)["expiry"])
    stack.remove(prefix)


@pytest.fixture
async def bench(stack: LocalStack, place: Place) -> AsyncIterator[Bench]:
    async with bench_on(settings_for(stack, place.dsn, fire_overdue_s=0)) as bench:
        await create_topics(bench.kafka, TIMERS_FIRED)
        yield bench


@pytest.fixture
def weelo(place: Place) -> Operator:
    return Operator(
        {"POSTGRES_DSN_EXPIRY": place.dsn, "POSTGRES_LEDGER_DSN_EXPIRY": place.ledger_dsn, "COLUMNS": "200"}
    )


async def test_timers_are_listed_by_state_owner_order_and_whether_they_are_overdue(
    bench: Bench, weelo: Operator
) -> None:
    await bench.schedule("later", due_in_s=60)
    await bench.schedule("sooner", due_in_s=30)
    await bench.schedule("overdue", due_in_s=-5)

    async def listed(*options: str) -> list[str]:
        answer = await weelo.answers("timers", "list", *options)
        return [timer["orderId"] for timer in answer["timers"]]

    assert await listed() == ["overdue", "sooner", "later"]
    assert await listed("--limit", "2") == ["overdue", "sooner"]
    assert await listed("--overdue") == ["overdue"]
    assert await listed("--order", "later") == ["later"]
    assert await listed("--owner", "dispatcher") == []
    assert await listed("--state", "fired") == []
    assert (await weelo.says("timers", "list", "--state", "lost")).exit_code == 2
    said = await weelo.says("timers", "list", "--overdue")
    assert said.output.startswith("order-expiry:overdue version 1: pending, due 20")


async def test_a_timer_is_shown_whole_and_while_it_is_on_its_way(bench: Bench, weelo: Operator) -> None:
    await bench.schedule("o-1")
    shown = await weelo.answers("timers", "show", "order-expiry:o-1")
    assert (shown["state"], shown["payload"], shown["onItsWay"]) == ("pending", '{"wave":2}', None)
    await bench.claim()
    shown = await weelo.answers("timers", "show", "order-expiry:o-1")
    assert (shown["state"], shown["onItsWay"] is None) == ("fired", False)
    unknown = await weelo.says("timers", "show", "order-expiry:nobody")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("verb", ["cancel", "fire"])
async def test_without_yes_nothing_is_changed(bench: Bench, weelo: Operator, verb: str) -> None:
    await bench.schedule("o-1", due_in_s=60)
    before = await weelo.answers("timers", "show", "order-expiry:o-1")
    said = await weelo.says("timers", verb, "order-expiry:o-1")
    assert said.exit_code == 0
    assert f"would {verb} order-expiry:o-1" in said.output
    after = await weelo.answers("timers", "show", "order-expiry:o-1")
    assert {**before, "dueInSeconds": 0} == {**after, "dueInSeconds": 0}


async def test_a_cancelled_timer_does_not_fire_and_its_owner_may_schedule_it_anew(
    bench: Bench, weelo: Operator
) -> None:
    await bench.schedule("o-1", due_in_s=0.2)
    done = await weelo.answers("timers", "cancel", "order-expiry:o-1", "--yes")
    assert (done["done"], done["state"]) == (True, "cancelled")
    assert await bench.schedule("o-1", version=1) is None
    again = await weelo.says("timers", "cancel", "order-expiry:o-1", "--yes")
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert (await weelo.says("timers", "fire", "order-expiry:o-1", "--yes")).exit_code == 1
    await asyncio.sleep(0.2)  # until it would have been due
    async with bench.replica() as replica:
        assert await replica.look_and_fire() == 0
    assert await bench.schedule("o-1", version=2) is not None


async def test_a_timer_that_is_told_to_fire_fires_at_once_and_again_with_the_same_event_id(
    bench: Bench, weelo: Operator
) -> None:
    await bench.schedule("o-1", due_in_s=3600)
    async with bench.replica() as replica, replica.running():
        for count in (1, 2):
            done = await weelo.answers("timers", "fire", "order-expiry:o-1", "--yes")
            assert (done["done"], done["version"]) == (True, 1)
            events = await fired_events(bench.kafka, count)
    assert len({envelope.id for envelope in events}) == 1
    first, second = (timer_of(envelope) for envelope in events)
    assert first.due_at == second.due_at
    assert first.due_at <= first.fired_at < second.fired_at
