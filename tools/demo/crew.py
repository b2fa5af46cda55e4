"""Whoever lives from the set-up to the evening's end: tasks that are all sent home together.

An unexpected exception in any of them ends the evening at once: it is a defect, and must be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Crew:
    """A task group whose children can be cancelled without cancelling whoever opened it."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send_home()
        await self._group.__aexit__(kind, error, trace)

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start something that goes on beside the rest until it ends or all are sent home."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def send_home(self) -> None:
        """Cancel all; the end of the `async with` block waits until they are gone."""
        for task in tuple(self._tasks):
            task.cancel()
