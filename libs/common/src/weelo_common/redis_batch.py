"""Commands to Redis that are asked for at the same time share one round trip.

redis.asyncio spends 50 µs of CPU on a command of its own, most of it around the connection. Here the next batch forms
while the last one is in flight, and under load until ``PACE_S`` after the last one began: a command then costs a tenth
of that. A lone command waits for nobody.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

MAX_BATCH = 200  # commands; a batch's answers are read by one task in one go
MAX_WAITING = 2000  # commands; more are refused at once, and go on without Redis
PACE_S = 0.002  # between the beginnings of two batches


@dataclass(frozen=True, slots=True)
class _Asked:
    command: tuple[Any, ...]
    answer: asyncio.Future[Any]
    until: float  # on the loop's clock


class RedisBatches:
    """Sends commands over a pool's connections, one batch at a time."""

    def __init__(self, pool: ConnectionPool, *, deadline_s: float) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._waiting: list[_Asked] = []
        self._in_flight: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None
        self._next_at = 0.0  # when the next batch may begin, on the loop's clock

    async def command(self, *command: Any) -> Any:
        """One command's answer, within the deadline. It must not be one that blocks.

        Raises:
            RedisError, OSError, TimeoutError: no answer, or Redis answered with an error.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise TimeoutError("too many commands wait for Redis")
        loop = asyncio.get_running_loop()
        asked = _Asked(command, loop.create_future(), loop.time() + self._deadline_s)
        self._waiting.append(asked)
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        return await asked.answer

    async def aclose(self) -> None:
        """End the batch in flight; who waits for an answer gets an error."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send_while_asked()
        except (RedisError, OSError, TimeoutError) as error:
            self._fail(error)
        except BaseException as error:
            # The client is closed, or a defect: nobody may be left waiting.
            self._fail(ConnectionError(f"the batch broke off: {type(error).__name__}"))
            raise
        finally:
            self._sending = None

    async def _send_while_asked(self) -> None:
        """Batch after batch over one connection, until nobody waits.

        To take it from the pool and give it back costs 40 µs of CPU, as much as the round trip itself.
        """
        connection: AbstractConnection | None = None
        try:
            while self._waiting:
                now = asyncio.get_running_loop().time()
                if now < self._next_at:
                    await asyncio.sleep(self._next_at - now)
                self._next_at = max(now, self._next_at) + PACE_S
                batch = self._in_flight = self._waiting[:MAX_BATCH]
                self._waiting = self._waiting[MAX_BATCH:]
                # The oldest command's deadline is the batch's.
                async with asyncio.timeout_at(batch[0].until):
                    if connection is None:
                        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                    await _exchange(connection, batch)
        except BaseException:
            if connection is not None:
                await connection.disconnect(nowait=True)  # answers that still come belong to nobody
            raise
        finally:
            if connection is not None:
                await self._pool.release(connection)

    def _fail(self, error: Exception) -> None:
        """Who waited behind a batch that failed would only wait for the same Redis."""
        waiting, self._waiting = self._waiting, []
        for asked in (*self._in_flight, *waiting):
            _refuse(asked.answer, error)


async def _exchange(connection: AbstractConnection, batch: list[_Asked]) -> None:
    """One round trip; a command that Redis refuses is its caller's trouble alone."""
    packed = [hiredis.pack_command(asked.command) for asked in batch]
    await connection.send_packed_command(b"".join(packed))
    for asked in batch:
        try:
            answer = await connection.read_response(timeout=math.inf)  # the batch has its deadline
        except ResponseError as error:
            _refuse(asked.answer, error)
        else:
            if not asked.answer.done():  # else its caller was cancelled
                asked.answer.set_result(answer)


def _refuse(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
