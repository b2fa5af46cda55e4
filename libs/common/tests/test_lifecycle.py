"""A service's life: how it stops, in which order, and what a loop that fails does to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from weelo_common.lifecycle import Lifecycle


@pytest.fixture
def said() -> list[str]:
    return []


async def test_a_stop_waits_for_the_work_in_hand_of_every_loop(said: list[str]) -> None:
    life = Lifecycle(shutdown_deadline_s=10)
    begun = asyncio.Event()

    async def save(stop: asyncio.Event) -> None:
        begun.set()
        await stop.wait()
        await asyncio.sleep(0.05)  # a save that began before the stop
        said.append("saved")

    life.spawn("saver", save)
    await begun.wait()
    await life.shutdown()
    assert said == ["saved"]


async def test_loops_stop_in_the_reverse_order_of_their_start_and_resources_close_after_them(
    said: list[str],
) -> None:
    life = Lifecycle(shutdown_deadline_s=10)

    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[None]:
        yield
        said.append("database closed")

    def loop(name: str) -> None:
        async def run(stop: asyncio.Event) -> None:
            await stop.wait()
            said.append(f"{name} asked")
            await asyncio.sleep(0.01)
            said.append(f"{name} ended")

        life.spawn(name, run)

    await life.enter(database())
    loop("relay")
    loop("http")
    await asyncio.sleep(0)
    await life.shutdown()
    assert said == ["http asked", "http ended", "relay asked", "relay ended", "database closed"]


async def test_a_service_that_goes_down_is_not_ready_before_its_loops_stop(said: list[str]) -> None:
    life = Lifecycle(shutdown_deadline_s=10)

    async def run(stop: asyncio.Event) -> None:
        await stop.wait()
        said.extend(life.health.not_ready())

    life.spawn("loop", run)
    await life.shutdown()
    assert said == ["stopping"]


async def test_a_loop_that_does_not_end_is_cut_off_at_the_deadline_and_the_others_still_stop(
    said: list[str],
) -> None:
    life = Lifecycle(shutdown_deadline_s=0.05)

    async def stubborn(stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append("cut off")

    async def willing(stop: asyncio.Event) -> None:
        await stop.wait()
        said.append("ended")

    life.spawn("willing", willing)
    life.spawn("stubborn", stubborn)
    await asyncio.sleep(0)
    await life.shutdown()
    assert said == ["cut off", "ended"]


async def test_a_loop_that_fails_takes_the_service_down_with_its_error(said: list[str]) -> None:
    life = Lifecycle(shutdown_deadline_s=10)

    async def failing(stop: asyncio.Event) -> None:
        raise KeyError("a defect")

    async def willing(stop: asyncio.Event) -> None:
        await stop.wait()
        said.append("ended")

    life.spawn("willing", willing)
    life.spawn("failing", failing)
    async with asyncio.timeout(20):
        await life.wait(asyncio.Event())
    with pytest.raises(KeyError, match="a defect"):
        await life.shutdown()
    assert said == ["ended"]


async def test_a_loop_that_ends_by_itself_takes_the_service_down() -> None:
    life = Lifecycle(shutdown_deadline_s=10)

    async def done(stop: asyncio.Event) -> None:
        return

    life.spawn("done", done)
    async with asyncio.timeout(20):
        await life.wait(asyncio.Event())
    with pytest.raises(RuntimeError, match="done"):
        await life.shutdown()
