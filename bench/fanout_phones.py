"""Thousands of phones in one process: ``python -m bench.fanout_phones`` with a plan as JSON on stdin's first line.

Once all are connected it says ``open``. ``drain`` reads and forgets what comes, in rounds with a pause between them,
so that no sender pays for waking a reader; ``hear`` reads frame by frame and notes when each order was first and last
heard of. Either goes on until the next line, and answers with what came as one line of JSON.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from notifier.file_limit import raise_file_limit

PAUSE_S = 0.01  # between two rounds of draining
AT_ONCE = 50  # handshakes in flight; the notifier lets 100 sockets wait for their token
READ_BYTES = 256 * 1024
ANSWER_PATIENCE_S = 20.0
ORDER_ID = re.compile(rb'"orderId":"([^"]+)"')
REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: notifications.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"User-Agent: okhttp/4.12.0\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 203.0.113.7\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many connect where: bare TCP, a WebSocket, or one that shows a token (one a line, from ``skip`` on)."""

    port: int
    sockets: int
    handshake: bool = True
    tokens_file: str | None = None
    skip: int = 0


@dataclass(slots=True)
class Heard:
    """What came: bytes, frames, and by order when its first and last frame came (seconds of the wall clock)."""

    received_bytes: int = 0
    frames: int = 0
    first_at: dict[str, float] = field(default_factory=dict)
    last_at: dict[str, float] = field(default_factory=dict)


def text_frame(payload: bytes) -> bytes:
    """A client's text frame; a mask of zeros is one, too."""
    if len(payload) < 126:
        return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload
    return bytes((0x81, 0x80 | 126)) + len(payload).to_bytes(2, "big") + bytes(4) + payload


def read_until(one: socket.socket, end: bytes) -> None:
    """Read and forget everything up to ``end``."""
    read = b""
    while end not in read:
        some = one.recv(4096)
        if not some:
            raise ConnectionError(f"the server closed: {read[-200:]!r}")
        read += some


def open_all(plan: Plan) -> list[socket.socket]:
    """Connect all phones, some at a time."""
    tokens: list[str] = []
    if plan.tokens_file is not None:
        tokens = Path(plan.tokens_file).read_text().split()[plan.skip : plan.skip + plan.sockets]
    phones: list[socket.socket] = []
    while len(phones) < plan.sockets:
        some = [
            socket.create_connection(("127.0.0.1", plan.port), ANSWER_PATIENCE_S)
            for _ in range(min(AT_ONCE, plan.sockets - len(phones)))
        ]
        if plan.handshake:
            for one in some:
                one.sendall(REQUEST)
            for one in some:
                read_until(one, b"\r\n\r\n")
        if tokens:
            for number, one in enumerate(some, start=len(phones)):
                one.sendall(text_frame(json.dumps({"type": "auth", "token": tokens[number]}).encode()))
            for one in some:
                read_until(one, b'"serverTimeMs"')
        phones += some
    for one in phones:
        one.setblocking(False)
    return phones


class Phones:
    """All of them, and the one place that reads them."""

    def __init__(self, phones: list[socket.socket]) -> None:
        self._phones = {one.fileno(): one for one in phones}
        self._unfinished = {one.fileno(): bytearray() for one in phones}
        self._poll = select.epoll()
        for descriptor in self._phones:
            self._poll.register(descriptor, select.EPOLLIN)
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)

    def drain(self) -> Heard:
        """Until there is a line on stdin and nothing left to read."""
        heard = Heard()
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(0, 1 << 16)]
            for descriptor in ready:
                if descriptor in self._phones:
                    heard.received_bytes += len(self._read(descriptor))
            if ready == [sys.stdin.fileno()]:
                return heard
            time.sleep(PAUSE_S)

    def hear(self) -> Heard:
        """Until there is a line on stdin and nothing left to read."""
        heard = Heard()
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(-1, 1 << 16)]
            now = time.time()
            for descriptor in ready:
                if descriptor in self._phones:
                    self._take_frames(descriptor, now, heard)
            if ready == [sys.stdin.fileno()]:
                return heard

    def _read(self, descriptor: int) -> bytes:
        return os.read(descriptor, READ_BYTES)

    def _take_frames(self, descriptor: int, now: float, heard: Heard) -> None:
        unread = self._unfinished[descriptor]
        unread += self._read(descriptor)
        while len(unread) >= 4:
            short = unread[1] & 0x7F
            start, length = (4, int.from_bytes(unread[2:4], "big")) if short == 126 else (2, short)
            if len(unread) < start + length:
                return
            found = ORDER_ID.search(unread, start, start + length)
            if found is not None:
                order_id = found[1].decode()
                heard.frames += 1
                heard.first_at.setdefault(order_id, now)
                heard.last_at[order_id] = now
            del unread[: start + length]


def main() -> None:
    """Connect, then obey."""
    commands = io.FileIO(sys.stdin.fileno(), closefd=False)  # unbuffered: what is not read yet, epoll sees
    plan = Plan(**json.loads(commands.readline()))
    raise_file_limit(plan.sockets)
    phones = Phones(open_all(plan))
    print("open", flush=True)
    while command := commands.readline().strip():
        if command == b"drain":
            heard = phones.drain()
        elif command == b"hear":
            heard = phones.hear()
        else:
            continue  # the line that ended the last one
        print(json.dumps(asdict(heard)), flush=True)


if __name__ == "__main__":
    main()
