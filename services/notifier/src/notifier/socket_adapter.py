"""The one file that touches the inside of the ``websockets`` library.

The library shakes hands, parses, and closes. What it does not do for thousands of sockets that mostly wait is done
here: a frame goes to the kernel at once, messages are handed over by a call instead of a task that waits for them,
nothing of the handshake is kept, and what a client that never reads can make us queue has a bound. Writing past the
library is right only without extensions, without TLS and without fragmented messages, and we use none of them.
``tests/test_socket_adapter.py`` fails where a new version of the library no longer fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection
from websockets.datastructures import Headers
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Event, State
from websockets.server import ServerProtocol

from notifier.protocol import CloseCode

TEXT_FRAME = 0x81  # FIN and the opcode of text (RFC 6455, section 5.2)
PING_FRAME = b"\x89\x00"  # without a payload
MAX_REASON_BYTES = 123  # RFC 6455, section 5.5: a control frame's 125 less the code
MAX_FRAGMENTS = 64  # of one message; nobody cuts 64 KiB into more
MAX_UNREAD_MESSAGES = 4  # while nobody listens yet; then the client is read no further
PIECE_BYTES = 4 * 1024  # parsed at a time: up to 682 of the shortest frames, some milliseconds
MAX_UNASKED_FRAMES = 200  # between two of our pings, so 10 a second, as of messages; phones send one or two
PONG_SLACK_BYTES = (
    64 * 1024
)  # the library answers protocol pings by itself, also when nobody reads the answers

_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack
_FORGOTTEN = Request("", Headers())

Message = str | bytes


class SlowClient(Exception):
    """The client did not make room in its queue in time; it is closed with 4429 and may resume."""


class _NoAssembler:
    """Stands in for the library's assembler of messages, which takes 1 KiB a socket."""

    def close(self) -> None:
        """The connection is lost."""


_NO_ASSEMBLER = _NoAssembler()


class Gate:
    """Counts the connections of the process: all, and those that have not shown a token."""

    def __init__(self, *, most: int, most_unauthenticated: int) -> None:
        self._most = most
        self._most_unauthenticated = most_unauthenticated
        self._all = 0
        self.unauthenticated = 0
        """Connections that have not shown a token yet."""

    def refusal(self) -> str | None:
        """Why one more connection, which has been counted already, is too many; None where it is not."""
        if self._all > self._most:
            return "sockets"
        if self.unauthenticated > self._most_unauthenticated:
            return "unauthenticated"
        return None

    def arrived(self) -> None:
        """A TCP connection was accepted."""
        self._all += 1
        self.unauthenticated += 1

    def authenticated(self) -> None:
        """One of them has shown a token that holds."""
        self.unauthenticated -= 1

    def left(self, *, authenticated: bool) -> None:
        """One of them is gone."""
        self._all -= 1
        self.unauthenticated -= not authenticated


class Socket(ServerConnection):
    """One connection, from the accepted TCP connection to its end.

    It is read by ``first_message()`` and then ``listen()``, never by the library's ``recv()``, and written by
    ``write()``, never by its ``send()``.
    """

    # The library's attributes fill one dict of shared keys; ours must not make each dict one of its own.
    __slots__ = (
        "_close_deadline_s",
        "_closing",
        "_cut",
        "_direct",
        "_fragments",
        "_gate",
        "_listener",
        "_open",
        "_raw",
        "_unasked",
        "_unread",
        "_waiting",
        "authenticated",
        "gone",
        "heard_at",
        "is_full",
        "session",
    )

    def __init__(
        self, protocol: ServerProtocol, server: Server, *, gate: Gate, close_deadline_s: float, **options: Any
    ) -> None:
        super().__init__(protocol, server, **options)
        self._gate = gate
        self._close_deadline_s = close_deadline_s
        self._closing: asyncio.Task[None] | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._raw: socket.socket | None = None
        self._open: socket.socket | None = None  # the same, while a frame would still be taken
        self._direct: socket.socket | None = None  # the same, while nothing waits in the transport either
        self._fragments: list[Frame] | None = None
        self._unread: list[Message] | None = []
        self._unasked = 0  # frames that no allowance counts, since we last asked for a sign of life
        self._waiting: asyncio.Future[None] | None = None
        self._listener: Callable[[Socket, Message], None] | None = None
        # An empty deque takes 0.6 KiB; few sockets ever wait for room.
        self.drain_waiters = cast(Any, [])
        self.gone: asyncio.Future[None] = self.loop.create_future()
        """Done when the connection is lost."""
        self.is_full = False
        """Whether the queue has reached its bound; nothing more should be written until ``drained``."""
        self.authenticated = False
        self.heard_at = 0.0
        """When the client last sent anything, by the loop's clock."""
        self.session: Any = None
        """What the owner keeps with it."""

    # --- the handshake is over ---

    def begin(self) -> Headers:
        """Open for writing; returns the headers of the handshake, and forgets them."""
        request = self.request
        self.request, self.response = _FORGOTTEN, None
        if self.protocol.state is State.OPEN:
            self._open = self._raw
        return request.headers if request is not None else Headers()

    def show_token(self) -> None:
        """The client has shown a token that holds."""
        if not self.gone.done():
            self.authenticated = True
            self._gate.authenticated()

    # --- reading ---

    async def first_message(self) -> Message | None:
        """What the client says first; None where it goes away instead."""
        if not self._unread and not self.gone.done():
            self._waiting = self.loop.create_future()
            await self._waiting
        return self._unread.pop(0) if self._unread else None

    def listen(self, listener: Callable[[Socket, Message], None]) -> None:
        """Hand every further message to ``listener``, which must return at once and must not raise."""
        self._listener = listener
        unread, self._unread = self._unread or [], None
        for message in unread:
            listener(self, message)
        if not self._says_too_much:
            self.transport.resume_reading()

    def process_event(self, event: Event) -> None:
        """A frame has come: in the place of the library's assembler."""
        self._write_no_more_after_goodbye()
        if isinstance(event, Frame) and self.request is not None:
            if event.opcode in DATA_OPCODES and self._closing is None:
                self._assemble(event)
            else:
                self._count_unasked()
        else:
            super().process_event(event)

    def _count_unasked(self) -> None:
        """A ping, a pong, or a message that nobody hears (yet, or any more): parsing them is work, too."""
        self._unasked += 1
        if not self._says_too_much:
            return
        if not self.end(CloseCode.TOO_SLOW_OR_CHATTY, "too many frames") and self._closing is None:
            self.transport.abort()  # it talks before anybody could answer
            return
        self.transport.pause_reading()  # until the close deadline ends it

    @property
    def _says_too_much(self) -> bool:
        return self._unasked > MAX_UNASKED_FRAMES

    def _assemble(self, frame: Frame) -> None:
        """Put a message together; the parser has seen to it that its fragments follow one another."""
        fragments = self._fragments
        if frame.fin and fragments is None:
            self._take(frame.opcode, bytes(frame.data))
            return
        if fragments is None:
            fragments = self._fragments = []
        fragments.append(frame)
        if frame.fin:
            self._fragments = None
            self._take(fragments[0].opcode, b"".join(one.data for one in fragments))
        elif len(fragments) >= MAX_FRAGMENTS:
            self.end(CloseCode.TOO_BIG, "too many fragments")

    def _take(self, opcode: Opcode, data: bytes) -> None:
        message: Message = data
        if opcode is Opcode.TEXT:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self.end(CloseCode.NOT_UTF_8, "not UTF-8")
                return
        if self._listener is not None:
            self._listener(self, message)
            return
        assert self._unread is not None  # noqa: S101 - there is one or the other
        self._count_unasked()
        self._unread.append(message)
        self._wake()
        if len(self._unread) >= MAX_UNREAD_MESSAGES:
            self.transport.pause_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # --- writing ---

    @property
    def is_open(self) -> bool:
        """Whether a frame would still be taken."""
        return self._open is not None

    @property
    def queued_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Send a frame from ``text_frame``, or queue what the kernel does not take; nothing where it is not open.

        Straight to the kernel: the way through the event loop's transport costs a fifth more.
        """
        raw = self._direct
        if raw is None:
            if self._open is None:
                return
            if self.transport.get_write_buffer_size():
                self.transport.write(frame)
                return
            raw = self._direct = self._open
        try:
            sent = raw.send(frame)
        except OSError:
            sent = 0  # full, or broken: then the transport finds out
        if sent != len(frame):
            self._direct = None
            self.transport.write(frame[sent:])

    def ask_for_life(self) -> None:
        """Ping the client, unless it is known to have no room for the question."""
        self._unasked = 0
        if not self.is_full:
            self.write(PING_FRAME)

    async def drained(self, deadline_s: float) -> None:
        """Wait until the queue has room again.

        Raises:
            SlowClient: not within ``deadline_s`` seconds.
        """
        try:
            async with asyncio.timeout(deadline_s):
                with contextlib.suppress(OSError):  # the connection broke: it is not open any more
                    await self.drain()
        except TimeoutError:
            raise SlowClient from None

    # --- the end ---

    def end(self, code: CloseCode, reason: str) -> bool:
        """Begin to close, once; False where it was begun before. The connection is cut at the close deadline."""
        if not self.is_open:
            return False
        self._open = self._direct = None
        text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._closing = asyncio.create_task(self._close(code, text))
        return True

    async def ended(self) -> None:
        """Wait until a close that was begun here has ended."""
        if self._closing is not None:
            await self._closing

    async def _close(self, code: CloseCode, reason: str) -> None:
        try:
            async with asyncio.timeout(self._close_deadline_s):
                await self.close(code, reason)
        except TimeoutError:
            self.transport.abort()

    # --- what the library and the event loop call ---

    def send_data(self) -> None:
        """The library writes (a pong, a close): what follows must not overtake it half-way."""
        self._direct = None
        super().send_data()

    def pause_writing(self) -> None:
        """The transport's queue has reached its bound."""
        self.is_full = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_full = False
        super().resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, before anything else can refuse it."""
        self._gate.arrived()
        super().connection_made(transport)
        self.recv_messages = cast(Any, _NO_ASSEMBLER)
        theirs = transport.get_extra_info("socket")
        self._raw = socket.socket(theirs.family, theirs.type, theirs.proto, fileno=theirs.fileno())

    def data_received(self, data: bytes) -> None:
        """Bytes have come: up to 256 KiB, which may be more than 40,000 frames."""
        if self.transport.get_write_buffer_size() > self.write_limit_high + PONG_SLACK_BYTES:
            self.transport.abort()
            return
        self.heard_at = self.loop.time()
        for start in range(0, len(data), PIECE_BYTES):
            if self._says_too_much:
                return  # and is heard no more
            super().data_received(data[start : start + PIECE_BYTES])
        self._write_no_more_after_goodbye()

    def _write_no_more_after_goodbye(self) -> None:
        """Where the client said goodbye, or broke the protocol, the library has answered before we see any frame.

        So what came in the same piece of data is not answered any more, and nobody else waits for the connection.
        """
        if self.is_open and self.protocol.state is not State.OPEN:
            self._open = self._direct = None
            self._cut = self.loop.call_later(self._close_deadline_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; from here on its descriptor may be another's."""
        self._open = self._direct = None
        if self._raw is not None:
            self._raw.detach()
            self._raw = None
        self._gate.left(authenticated=self.authenticated)
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(exc)
        self._wake()
        if not self.gone.done():
            self.gone.set_result(None)


def text_frame(start: bytes, rest: bytes = b"") -> bytes:
    """The WebSocket frame of a server's text message, given in two parts: unmasked, in one piece."""
    length = len(start) + len(rest)
    if length < 126:
        head = bytes((TEXT_FRAME, length))
    elif length < 65_536:
        head = _pack_16(TEXT_FRAME, 126, length)
    else:
        head = _pack_64(TEXT_FRAME, 127, length)
    return b"".join((head, start, rest))
