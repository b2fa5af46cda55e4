"""Requests that share statements: each gets its own outcome, and none is ever left waiting."""

from __future__ import annotations

import asyncio

import pytest

from order_api.together import LANES, MAX_GROUP, Together
from weelo_common.postgres import DatabaseUnavailable

PATIENCE_S = 20.0


async def test_who_comes_in_the_very_turn_in_which_the_last_lane_ends_is_served() -> None:
    written = asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        await written.wait()
        return items

    together: Together[int, int] = Together(work)

    async def twice() -> tuple[int, int]:
        return await together(1), await together(2)  # the second in the turn that ends the first

    async with asyncio.timeout(PATIENCE_S):
        first = asyncio.create_task(twice())
        await asyncio.sleep(0)  # its lane is open, and waits
        await asyncio.sleep(0)
        second = asyncio.create_task(together(3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        written.set()  # both lanes end in one turn
        assert (await first, await second) == ((1, 2), 3)


async def test_each_item_gets_its_own_outcome() -> None:
    async def work(items: list[int]) -> list[int | Exception]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    together: Together[int, int] = Together(work)
    outcomes = await asyncio.gather(*(together(number) for number in range(100)), return_exceptions=True)
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == list(range(0, 100, 2))
    assert [str(o) for o in outcomes if isinstance(o, ValueError)] == [str(n) for n in range(1, 100, 2)]


@pytest.mark.parametrize("trouble", [DatabaseUnavailable, KeyError])
async def test_a_work_that_fails_as_a_whole_tells_everybody_and_the_next_group_goes_on(
    trouble: type[Exception],
) -> None:
    broken = [True]

    async def work(items: list[int]) -> list[int]:
        if broken:
            broken.pop()
            raise trouble("gone")
        return items

    together: Together[int, int] = Together(work)
    with pytest.raises(trouble):
        await together(1)
    async with asyncio.timeout(PATIENCE_S):
        assert await together(2) == 2


async def test_an_item_that_breaks_its_group_breaks_nobody_else() -> None:
    async def work(items: list[int]) -> list[int]:
        if 3 in items:
            raise KeyError("a defect")
        if 5 in items:
            raise DatabaseUnavailable("gone")
        return items

    together: Together[int, int] = Together(work)
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*(together(number) for number in range(8)), return_exceptions=True)
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [0, 1, 2, 4, 6, 7]
    assert [type(outcomes[number]) for number in (3, 5)] == [KeyError, DatabaseUnavailable]


async def test_who_was_cut_off_while_his_group_broke_is_not_tried_alone() -> None:
    begun: list[list[int]] = []
    in_flight, go_on = asyncio.Event(), asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        begun.append(items)
        if len(items) > 1:
            in_flight.set()
            await go_on.wait()
            raise KeyError("a defect")
        return items

    together: Together[int, int] = Together(work)
    async with asyncio.timeout(PATIENCE_S):
        waiting = [asyncio.create_task(together(number)) for number in range(3)]
        await in_flight.wait()
        waiting[1].cancel()
        go_on.set()
        assert (await waiting[0], await waiting[2]) == (0, 2)
    assert begun == [[0, 1, 2], [0], [2]]


async def test_who_is_left_of_a_broken_group_when_the_service_goes_down_is_told() -> None:
    alone = asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        if len(items) > 1:
            raise KeyError("a defect")
        alone.set()
        await asyncio.Event().wait()
        return items

    together: Together[int, int] = Together(work)
    async with asyncio.timeout(PATIENCE_S):
        waiting = [asyncio.create_task(together(number)) for number in range(3)]
        await alone.wait()
        for lane in tuple(together._lanes):
            lane.cancel()
        told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in told] == [DatabaseUnavailable] * 3


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    begun: list[int] = []
    lanes_are_full, go_on = asyncio.Event(), asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        begun.extend(items)
        if len(begun) == LANES:
            lanes_are_full.set()
        await go_on.wait()
        return items

    together: Together[int, int] = Together(work)
    async with asyncio.timeout(PATIENCE_S):
        in_flight = [asyncio.create_task(together(number)) for number in range(LANES)]
        await lanes_are_full.wait()
        given_up = [asyncio.create_task(together(number)) for number in (10, 11)]
        patient = asyncio.create_task(together(12))
        await asyncio.sleep(0)  # all of them wait for a lane
        for task in given_up:
            task.cancel()
        go_on.set()
        assert await patient == 12
        await asyncio.gather(*in_flight)
    assert sorted(begun) == [*range(LANES), 12]


async def test_who_comes_within_the_pace_shares_the_next_group_and_a_lone_one_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[list[int]] = []

    async def work(items: list[int]) -> list[int]:
        groups.append(items)
        return items

    together: Together[int, int] = Together(work, pace_s=0.1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(PATIENCE_S):
        # All of them come within the pace, however busy the machine is.
        with monkeypatch.context() as standing:
            standing.setattr(loop, "time", lambda: started)
            assert await together(0) == 0
            tasks = []
            for number in range(1, 11):
                tasks.append(asyncio.create_task(together(number)))
                await asyncio.sleep(0)
        assert await asyncio.gather(*tasks) == list(range(1, 11))
    assert groups == [[0], list(range(1, 11))]


async def test_a_full_group_goes_before_its_time() -> None:
    async def work(items: list[int]) -> list[int]:
        return items

    together: Together[int, int] = Together(work, pace_s=PATIENCE_S * 10)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(together(number) for number in range(MAX_GROUP)))
        await asyncio.gather(*(together(number) for number in range(MAX_GROUP)))


async def test_who_waits_for_a_group_when_the_service_goes_down_is_told() -> None:
    async def work(items: list[int]) -> list[int]:
        return items

    together: Together[int, int] = Together(work, pace_s=PATIENCE_S * 10)
    async with asyncio.timeout(PATIENCE_S):
        await together(0)
        waiting = asyncio.create_task(together(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for lane in tuple(together._lanes):
            lane.cancel()
        with pytest.raises(DatabaseUnavailable):
            await waiting
