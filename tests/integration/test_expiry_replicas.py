"""Several replicas of expiry as processes: killed, stopped, with wrong clocks. Every timer fires, once, never early.

``tests/faults/test_expiry_replicas.py`` does the same for longer, and measures how soon timers move.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest

from deploy.local.stack import LocalStack
from tests.integration.expiry_history import History
from tests.integration.expiry_processes import client_of, needs_faketime, replicas
from tests.integration.expiry_rig import TOPICS, Bench, bench_on, create_topics, expiry_database, settings_for

pytestmark = pytest.mark.timeout(180)

LAST_DUE_S = 6.0  # of a timer: beyond the kill and the stop, and no longer to wait for
SETTLE_S = 30.0  # after a kill: the session, a rebalance, the last timers, a busy machine


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


@pytest.fixture
async def bench(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    async with bench_on(settings_for(stack, dsn)) as bench:
        await create_topics(bench.kafka, *TOPICS)
        yield bench


async def test_a_random_history_with_a_kill_and_a_stop_fires_every_timer_once(
    bench: Bench, tmp_path: Path
) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, 0, 0) as (first, second):
            history = History(client, Random("a kill and a stop"), last_due_s=LAST_DUE_S)
            await history.go_on(keys=100, commands=120)
            first.kill()
            await history.go_on(keys=100, commands=120)
            await asyncio.to_thread(first.started)
            await history.go_on(keys=100, commands=60)
            second.terminate()
            await history.go_on(keys=100, commands=60)
            await history.all_fired(SETTLE_S)
            history.check(await bench.settled(client))
            assert await asyncio.to_thread(second.wait, SETTLE_S) == 0


@needs_faketime
async def test_three_replicas_whose_clocks_are_30_s_apart_fire_by_the_databases_clock(
    bench: Bench, tmp_path: Path
) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, -30, 0, 30) as processes:
            history = History(client, Random("clocks"), last_due_s=LAST_DUE_S)
            await history.go_on(keys=200, commands=250)
            await history.all_fired(SETTLE_S)
            history.check(await bench.settled(client))
            assert [process.said("Clocks differ") for process in processes] == [1, 0, 1]
