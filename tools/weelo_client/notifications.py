"""A client of ``/ws``: connects, authenticates, resumes, drops repeats, and comes back with jitter.

    stream = NotificationStream("ws://127.0.0.1:18013/ws", token=fetch_token, position=saved)
    async for message in stream:
        if isinstance(message, Reread):
            ...                      # what was missed cannot be replayed: read the state by HTTP
        else:
            print(message.event, message.data)
        save(stream.position)        # a new process goes on from here

It never invents or reorders: messages come in the order of their offsets, each once, across any number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives a token that holds now. It is asked before each connection, so also after 4401 and 4408; where it refreshes
tokens over the network it may be a coroutine, and may raise ``OSError`` or ``TimeoutError`` to be asked again later."""

# Coming back in the same way would end in the same way or, with 4409, push another of the user's sockets out.
FINAL_CODES = frozenset({4400, 4403, 4409})
TOKEN_REFUSED = 4401  # final, too, unless there is another token
MAX_FRAME_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """Where the client stands: keep it, and a new process can go on where the last one ended."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Notification:
    """One event of the user's stream; ``id`` is unique, ``expires_at`` an RFC 3339 time or None."""

    offset: int
    id: str
    event: str
    data: Mapping[str, Any]
    expires_at: str | None = None


@dataclass(frozen=True, slots=True)
class Reread:
    """Some of what was missed is gone: read the present state by HTTP, then go on with what follows."""


class Refused(Exception):
    """The server will not have this client as it is; ``code`` is the close code, or the status of the handshake."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Gap(Exception):
    """An offset was left out. The client reconnects and asks for it again."""


@dataclass(slots=True)
class Tally:
    """What the client has seen so far; ``received + skipped`` is how far it came since its first position."""

    connections: int = 0
    received: int = 0
    skipped: int = 0
    repeats: int = 0
    gaps: int = 0
    rereads: int = 0
    close_codes: list[int] = field(default_factory=list)


class NotificationStream:
    """One user's notifications as an endless iterator; leave the loop, or cancel it, to end."""

    def __init__(
        self,
        url: str | Callable[[], str],
        token: TokenSource,
        *,
        position: Position | None = None,
        backoff_base_s: float = 0.2,
        backoff_cap_s: float = 10.0,
        connect_deadline_s: float = 5.0,
        ack_every: int = 20,
        rng: random.Random | None = None,
    ) -> None:
        """``backoff_*`` bound the pause before the next try: uniform in 0 … min(cap, base · 2ⁿ), "full jitter"."""
        self.tally = Tally()
        self.position = position
        self.ready = asyncio.Event()
        """Set while the server has said ``ready`` and the connection lives."""
        self.connection: ClientConnection | None = None
        """The live connection, or None between two."""
        self._url = url
        self._token = token
        self._backoff_base_s = backoff_base_s
        self._backoff_cap_s = backoff_cap_s
        self._deadline_s = connect_deadline_s
        self._ack_every = ack_every
        self._rng = rng or random.Random()
        self._failures = 0
        self._refused_token: str | None = None

    async def __aiter__(self) -> AsyncGenerator[Notification | Reread]:
        """Messages, for ever.

        Raises:
            Refused: the server will not have this client as it is.
        """
        while True:
            with contextlib.suppress(OSError, TimeoutError, InvalidHandshake, ConnectionClosed, Gap):
                async with contextlib.aclosing(self._one_connection()) as messages:
                    async for message in messages:
                        yield message
            self.ready.clear()
            ceiling_s = min(self._backoff_cap_s, self._backoff_base_s * 2 ** min(self._failures, 16))
            self._failures += 1
            await asyncio.sleep(self._rng.uniform(0, ceiling_s))

    async def _one_connection(self) -> AsyncGenerator[Notification | Reread]:
        token = await self._fresh_token()
        async with connect(
            self._url if isinstance(self._url, str) else self._url(),
            open_timeout=self._deadline_s,
            close_timeout=1,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            proxy=None,
        ) as connection:
            self.connection = connection
            try:
                async with asyncio.timeout(self._deadline_s):
                    missed_some = await self._greet(connection, token)
                if missed_some:
                    self.tally.rereads += 1
                    yield Reread()
                async for text in connection:
                    message = self._take(json.loads(text))
                    if message is not None:
                        yield message
                        if self._ack_every and message.offset % self._ack_every == 0:
                            await connection.send(json.dumps({"type": "ack", "offset": message.offset}))
            except ConnectionClosed:
                self._judge_close(connection, token)
                raise
            finally:
                self.connection = None
            self._judge_close(connection, token)

    async def _greet(self, connection: ClientConnection, token: str) -> bool:
        """Authenticate; True where something that was missed will not follow."""
        auth: dict[str, Any] = {"type": "auth", "token": token}
        if self.position is not None:
            auth["resume"] = {"epoch": self.position.epoch, "offset": self.position.offset}
        await connection.send(json.dumps(auth))
        ready = json.loads(await connection.recv())
        if ready["type"] != "ready":
            raise Gap(f"{ready['type']} before ready")
        resumed = self.position is not None
        if not (resumed and ready["recovered"]):
            self.position = Position(ready["epoch"], ready["offset"])
        self.tally.connections += 1
        self._failures = 0
        self.ready.set()
        return resumed and not ready["recovered"]

    def _take(self, frame: Mapping[str, Any]) -> Notification | None:
        """The notification in a frame, if it holds a new one.

        Raises:
            Gap: an offset was left out.
        """
        position = self.position
        if position is None or frame["type"] not in ("event", "skip"):
            return None  # a pong, or a frame of a newer server
        first = frame["offset"] if frame["type"] == "event" else frame["from"]
        last = frame["offset"] if frame["type"] == "event" else frame["to"]
        if last <= position.offset:
            self.tally.repeats += 1
            return None
        if first > position.offset + 1:
            self.tally.gaps += 1
            raise Gap(f"{first} after {position.offset}")
        self.position = Position(position.epoch, last)
        if frame["type"] == "skip":
            self.tally.skipped += last - position.offset
            return None
        self.tally.received += 1
        return Notification(last, frame["id"], frame["event"], frame["data"], frame.get("expiresAt"))

    async def _fresh_token(self) -> str:
        given = self._token()
        token = given if isinstance(given, str) else await given
        if token == self._refused_token:
            raise Refused(TOKEN_REFUSED, "the server refused this token, and there is no other")
        return token

    def _judge_close(self, connection: ClientConnection, token: str) -> None:
        code = connection.close_code or 1006
        self.tally.close_codes.append(code)
        if code in FINAL_CODES:
            raise Refused(code, connection.close_reason or "")
        if code == TOKEN_REFUSED:
            self._refused_token = token
