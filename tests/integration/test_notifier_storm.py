"""Sockets that come and go, replicas that die and restart: for each user, received + skipped = published.

The long forms run with ``make test-faults``, the same with fewer people in ``make test``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from services.notifier.tests.events import offers_made, withdrawn

from tests.integration import notifier_rig
from tests.integration.notifier_crowd import Crowd
from tests.integration.notifier_rig import Ground, Publish, order_id, processes, soon, until, user

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
CAPTAINS_A_WAVE = 5
RECONNECTING_A_MINUTE = 0.2  # of all sockets


@dataclass
class Evening:
    """Waves of offers to some of the captains, half of them withdrawn, for as long as it lasts."""

    publish: Publish
    captains: Sequence[str]
    published: Counter[str] = field(default_factory=Counter)

    async def go_on(self, stop: asyncio.Event, waves_per_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            some, order = random.sample(self.captains, CAPTAINS_A_WAVE), order_id()
            events: list[Any] = [offers_made(*some, order_id=order, expires_at=soon(3600))]
            if random.random() < 0.5:
                events.append(withdrawn("filled", *some, order_id=order))
            await self.publish(*events)
            for captain in some:
                self.published[captain] += len(events)
            due += 1 / waves_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))


async def miss_an_offer(crowd: Crowd, evening: Evening) -> None:
    """An offer is made and withdrawn while one of its captains is away: on his return it is skipped."""
    missing, witness = evening.captains[:2]
    order = order_id()
    async with crowd.away(missing):
        await evening.publish(
            offers_made(missing, witness, order_id=order, expires_at=soon(3600)),
            withdrawn("filled", missing, witness, order_id=order),
        )
        for captain in (missing, witness):
            evening.published[captain] += 2
        await until(
            lambda: any(
                message.event == "broadcast_dismissed" and message.data["orderId"] == order
                for message in crowd.told[witness]
            ),
            "the end of the offer",
        )


async def stop_evening(stop: asyncio.Event, evening: asyncio.Task[None]) -> None:
    stop.set()
    await evening


@pytest.mark.parametrize(
    ("people", "seconds", "waves_per_s"),
    [
        pytest.param(150, 6.0, 20.0, id="short"),
        pytest.param(2000, 75.0, 50.0, id="whole", marks=[pytest.mark.faults, pytest.mark.timeout(300)]),
    ],
)
async def test_received_and_skipped_is_published_for_each_of_many_who_reconnect_while_a_replica_is_killed(
    here: Ground, publish: Publish, tmp_path: Path, people: int, seconds: float, waves_per_s: float
) -> None:
    captains = [user() for _ in range(people)]
    stop = asyncio.Event()
    async with processes(here, tmp_path, 2, heads_check_s=2) as (stays, dies):
        crowd = Crowd(lambda: [stays.ws_url, dies.ws_url])
        async with crowd.listening(captains):
            evening = Evening(publish, captains)
            flowing = asyncio.create_task(evening.go_on(stop, waves_per_s))
            # The short form crowds a minute's reconnects into its few seconds.
            share = RECONNECTING_A_MINUTE * max(seconds / 60, 1.0) / 2
            await crowd.cut_off(share, seconds / 2)
            await asyncio.to_thread(dies.kill)
            await crowd.cut_off(share, seconds / 2)
            await stop_evening(stop, flowing)
            await miss_an_offer(crowd, evening)
            await crowd.made_whole(evening.published)
    codes = Counter(code for stream in crowd.streams.values() for code in stream.tally.close_codes)
    assert set(codes) == {1006}  # cut off, or its replica was killed: nobody was sent away
    assert sum(stream.tally.connections for stream in crowd.streams.values()) > people * (1 + share)
    assert sum(stream.tally.skipped for stream in crowd.streams.values()) > 0


@pytest.mark.parametrize(
    "people", [60, pytest.param(1000, marks=[pytest.mark.faults, pytest.mark.timeout(240)])]
)
async def test_a_rolling_restart_costs_nobody_a_frame_and_everybody_hears_1012(
    here: Ground, publish: Publish, tmp_path: Path, people: int
) -> None:
    captains = [user() for _ in range(people)]
    stop = asyncio.Event()
    drain = {"ws_drain_wait_s": 0.2, "ws_drain_spread_s": 0.5, "ws_close_deadline_s": 10.0}
    async with processes(here, tmp_path, 2, **drain) as replicas:
        crowd = Crowd(lambda: [one.ws_url for one in replicas])
        async with crowd.listening(captains):
            evening = Evening(publish, captains)
            flowing = asyncio.create_task(evening.go_on(stop, 15.0))
            for one in replicas:
                held = one.metric("weelo_notifier_sockets")
                assert held > 0
                await asyncio.to_thread(one.stop)
                assert one.exit_code == 0, one.log()[-2000:]
                await asyncio.to_thread(one.start)
                await one.wait_ready()
            await stop_evening(stop, flowing)
            await crowd.made_whole(evening.published)
    codes = Counter(code for stream in crowd.streams.values() for code in stream.tally.close_codes)
    assert set(codes) == {1012}
    assert codes[1012] >= people  # each socket was on one of the two, and both went down
