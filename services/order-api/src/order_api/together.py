"""Requests that come at the same time share one statement: the next group forms while the last one is in flight.

Under load a group also waits until ``PACE_S`` after the last one began: larger groups cost a fraction of the CPU, and
there CPU is what requests wait for. A lone request is a group of one and waits for nobody. It must never let one
request's trouble be another's: the work gives each its own outcome, and where it fails as a whole, for no reason of
PostgreSQL's, each is tried alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from weelo_common.postgres import DatabaseUnavailable

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

MAX_GROUP = 64  # requests in one statement: more gain little, and hold each other up
MAX_WAITING = 1000  # requests; what comes on top is refused at once, for it would wait for seconds
LANES = 2  # groups in flight: while PostgreSQL writes one, the next is on its way
PACE_S = 0.004  # between the beginnings of two groups; below what a create takes in any case


class Together(Generic[Item, Outcome]):
    """Gathers items for one kind of work. ``work`` gives as many outcomes as it got items, in their order.

    Where it raises, it has changed nothing, or what it did can be asked for again.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Outcome | Exception]]],
        *,
        pace_s: float = PACE_S,
    ) -> None:
        self._work = work
        self._pace_s = pace_s
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._open_lanes = 0
        self._gathering = False  # a lane waits for its group to begin, and will take whoever comes
        self._next_at = 0.0  # when the next group may begin, on the loop's clock

    async def __call__(self, item: Item) -> Outcome:
        """The item's own outcome.

        Raises:
            Exception: what the work gave for this item.
            DatabaseUnavailable: too many wait, or PostgreSQL failed the whole group.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise DatabaseUnavailable("too many requests wait for PostgreSQL")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((item, outcome))
        if not self._gathering and self._open_lanes < LANES:
            self._open_lanes += 1
            lane = loop.create_task(self._lane())
            self._lanes.add(lane)  # the loop itself holds tasks only weakly
            lane.add_done_callback(self._lanes.discard)
        return await outcome

    async def _lane(self) -> None:
        try:
            while self._waiting and not self._gathering:
                await self._gather()
                await self._group()
        except asyncio.CancelledError:
            left, self._waiting = self._waiting, []
            for _, future in left:  # nobody may be left waiting, whatever happened
                _settle(future, DatabaseUnavailable("the service goes down"))
            raise
        finally:
            # Counted here and not when the task is done: that is told a turn of the loop later, and who came in
            # between would wait for a lane that has ended.
            self._open_lanes -= 1

    async def _gather(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_at and len(self._waiting) < MAX_GROUP:
            self._gathering = True
            try:
                await asyncio.sleep(self._next_at - now)
            finally:
                self._gathering = False
        self._next_at = max(now, self._next_at) + self._pace_s

    async def _group(self) -> None:
        group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
        # Who was cut off at his request's deadline is told to try again: what nobody waits for is not begun.
        group = [one for one in group if not one[1].done()]
        if not group:
            return
        try:
            if not await self._settled(group):
                for one in group:  # whose trouble it is, is found out alone
                    if not one[1].done():
                        await self._settled([one])
        except asyncio.CancelledError:
            for _, future in group:
                _settle(future, DatabaseUnavailable("the service goes down"))
            raise

    async def _settled(self, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> bool:
        """Whether each has its outcome; only a group of several may be left without, by an unexpected error."""
        try:
            outcomes = await self._work([item for item, _ in group])
        except DatabaseUnavailable as error:
            for _, future in group:
                _settle(future, DatabaseUnavailable(str(error)))
        except Exception as error:
            if len(group) > 1:
                log.warning(
                    "A group of requests failed; each is tried alone",
                    extra={"requests": len(group), "reason": type(error).__name__},
                )
                return False
            log.exception("A request failed")
            _settle(group[0][1], error)
        else:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                _settle(future, outcome)
        return True


def _settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    if future.done():  # its request was cancelled
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
