"""Closes what a client of aiokafka connected while it started, where the start is given up.

aiokafka asks the first broker for the others over a connection that nobody else knows of. Cut off meanwhile, it forgets
to close it: the connection stays open until the garbage collector finds it, and complains. It must never touch a
connection of a client that has started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from aiokafka import client
from aiokafka.conn import AIOKafkaConnection, create_conn

# Of the client that starts in this context; those of its tasks are copies of it.
_made: ContextVar[WeakSet[AIOKafkaConnection] | None] = ContextVar("made", default=None)


@contextlib.contextmanager
def closed_on_failure() -> Iterator[None]:
    """Around a client's start: if it raises, every connection that it made is closed."""
    client.create_conn = _noted
    made: WeakSet[AIOKafkaConnection] = WeakSet()
    token = _made.set(made)
    try:
        yield
    except BaseException:
        for connection in tuple(made):
            connection.close()
        raise
    finally:
        _made.reset(token)


async def _noted(*address: Any, **options: Any) -> AIOKafkaConnection:
    """Stands for aiokafka's ``create_conn``."""
    connection = await create_conn(*address, **options)
    made = _made.get()
    if made is not None:
        made.add(connection)
    return connection
