"""Anything in any order, side by side: creates, retries, cancels, accepts, trips, ends by time, flushes and kills.

Hypothesis makes up the interleavings and drives the real service, PostgreSQL, Redis and Kafka. A failed run prints its
steps. Nothing is replayed to make it smaller: processes do not run the same way twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from deploy.local.stack import LocalStack
from tests.integration.order_api_process_rig import OrderApiProcess, order_api_running
from tests.integration.order_api_rig import PATIENCE_S, Home, order_api_home
from tests.integration.order_api_town import CAPTAINS, CUSTOMERS, LATEST, Town
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Database

REDIS_DB = 9  # of these tests alone, so that a flush is nobody else's
ENV = {"LOCK_MS": "300", "SWEEP_PERIOD_S": "2", "RELAY_LEASE_S": "1"}
PICK = st.integers(0, LATEST)
ARGUMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "create": (
        st.integers(0, CUSTOMERS - 1),
        st.sampled_from(["key-1", "key-2", "key-3", None]),
        st.sampled_from([1, 1, 2, 2, 2]),
    ),
    "cancel": (PICK,),
    "accept": (st.integers(0, CAPTAINS - 1), PICK),
    "step": (st.sampled_from(["start", "complete", "release", "ops"]), PICK),
    "end_by_time": (PICK,),
    "read": (PICK,),
}
# How often each: most orders shall see an accept and a trip before their end.
OFTEN = ["create"] * 3 + ["accept"] * 5 + ["step"] * 4 + ["cancel", "end_by_time", "read"]
ACTIONS = st.sampled_from(OFTEN).flatmap(lambda name: st.tuples(st.just(name), *ARGUMENTS[name]))


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        values = made.values | {"redis_url": f"{made.values['redis_url'].rpartition('/')[0]}/{REDIS_DB}"}
        yield Home(made.stack, values, made.prefix)


@pytest.fixture(scope="module")
def service(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrderApiProcess]:
    with order_api_running(home, tmp_path_factory.mktemp("town"), **ENV) as running:
        yield running


class Interleavings(RuleBasedStateMachine):
    """One run of people at the service."""

    def __init__(self, home: Home, service: OrderApiProcess, totals: Counter[str], kills: int) -> None:
        super().__init__()
        self._loop = asyncio.Runner()
        self._totals = totals
        self._kills_left = kills
        inside = home.settings()
        self._database = Database.open(inside, application_name="town")
        self._town = Town(
            home,
            service,
            httpx.AsyncClient(timeout=PATIENCE_S),
            self._loop.run(self._database.__aenter__()),
            Redis.from_url(home.values["redis_url"]),
            KafkaClients(inside, client_id="town"),
        )

    @rule(action=ACTIONS)
    def alone(self, action: tuple[Any, ...]) -> None:
        self._together([action])

    @rule(actions=st.lists(ACTIONS, min_size=2, max_size=6))
    def at_once(self, actions: list[tuple[Any, ...]]) -> None:
        self._together(actions)

    @rule(action=ACTIONS, times=st.integers(2, 4))
    def tapped(self, action: tuple[Any, ...], times: int) -> None:
        self._together([action] * times)

    @rule(actions=st.lists(ACTIONS, max_size=5))
    def at_once_while_redis_forgets(self, actions: list[tuple[Any, ...]]) -> None:
        self._together([*actions, ("forget",)])

    @precondition(lambda self: self._kills_left > 0)
    @rule(actions=st.lists(ACTIONS, max_size=5))
    def at_once_while_the_process_dies(self, actions: list[tuple[Any, ...]]) -> None:
        self._kills_left -= 1
        self._together([*actions, ("restart",)])

    def _together(self, actions: list[tuple[Any, ...]]) -> None:
        async def do() -> None:
            await asyncio.gather(*(getattr(self._town, name)(*rest) for name, *rest in actions))

        self._loop.run(do())
        assert not self._town.surprises

    def teardown(self) -> None:
        async def end() -> list[str]:
            await self._town.whole_trip()
            found = await self._town.against()
            await self._town.http.aclose()
            await self._town.redis.aclose()
            await self._database.__aexit__(None, None, None)
            return found

        try:
            against = self._loop.run(end())
        finally:
            self._loop.close()
        self._totals.update(self._town.answers)
        self._totals["runs"] += 1
        assert not against, "\n".join(against)


def interleave(
    home: Home, service: OrderApiProcess, *, runs: int, steps: int, kills: int, same: bool
) -> Counter[str]:
    """Drive so many runs of so many steps, with at most so many kills each: a start takes a second or two.

    ``same`` makes up the same runs each time. Returns what was answered how often.
    """
    totals: Counter[str] = Counter()

    class Run(Interleavings):
        def __init__(self) -> None:
            super().__init__(home, service, totals, kills)

    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=same,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return totals


def test_whatever_happens_in_whatever_order_the_ledger_holds(home: Home, service: OrderApiProcess) -> None:
    totals = interleave(home, service, runs=8, steps=12, kills=1, same=True)
    assert totals["runs"] >= 8
    assert totals["create 201"] > 15
    assert totals["accept 200"] > 10
    assert totals["complete 200"] >= totals["runs"]  # of each run at least its last trip


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_whatever_happens_in_whatever_order_the_ledger_holds_in_many_runs(
    home: Home, service: OrderApiProcess
) -> None:
    totals = interleave(home, service, runs=60, steps=30, kills=2, same=False)
    assert totals["runs"] >= 60
    for often in ("create 201", "accept 200", "accept 409 TRUCK_REQUEST_TAKEN", "start 200", "unanswered"):
        assert totals[often] > 10, totals
