"""``/ws``: the handshake, the first frame, the conversation, and the going down.

Nothing a client sends may end the process or hold more of it than its share: whoever breaks the contract is closed with
the code that says so. The socket server never decides what is sent; that is the session's.
"""

from __future__ import annotations

import asyncio
import functools
import http
import logging
import math
import socket
from typing import cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from notifier import protocol
from notifier.heartbeat import Heartbeat
from notifier.hub import Hub
from notifier.metrics import Metrics
from notifier.protocol import Ack, Auth, BadFrame, CloseCode, Ping
from notifier.session import Session
from notifier.settings import Settings
from notifier.socket_adapter import Gate, Message, Socket, text_frame
from weelo_common.auth import InvalidToken, Principal, TokenVerifier
from weelo_common.clock import Clock, epoch_ms
from weelo_common.jwks import KeysUnavailable
from weelo_common.postgres import DatabaseUnavailable

log = logging.getLogger(__name__)

PATH = "/ws"
BACKLOG = 2048  # connections the kernel holds while a storm of reconnects is taken in
DRAIN_TICK_S = 0.05  # going down, a batch of sockets is closed this often
RETRY_AFTER_S = 2  # of a handshake that is refused for want of room


def listen(host: str, port: int, *, send_buffer_bytes: int) -> socket.socket:
    """The listening socket; the send buffer's size goes over to what it accepts.

    Raises:
        OSError: the port is taken or the host is none of ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return listener


class SocketServer:
    """Serves ``/ws`` on one listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        hub: Hub,
        heartbeat: Heartbeat,
        verifier: TokenVerifier,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._hub = hub
        self._heartbeat = heartbeat
        self._verifier = verifier
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._origins = settings.allowed_origins()
        self._gate = Gate(most=settings.ws_max_sockets, most_unauthenticated=settings.ws_max_unauthenticated)
        self._sockets: set[Socket] = set()
        metrics.unauthenticated.set_function(lambda: self._gate.unauthenticated)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stopped; then, spread over some seconds, ask every client to go elsewhere."""
        settings = self._settings
        server = await serve(
            self._converse,
            sock=self._listener,
            process_request=self._admit,
            compression=None,
            server_header=None,
            open_timeout=settings.ws_auth_deadline_s,
            ping_interval=None,  # the heartbeat's
            close_timeout=settings.ws_close_deadline_s,
            max_size=settings.ws_max_frame_bytes,
            write_limit=(settings.ws_queue_bytes, settings.ws_queue_bytes // 2),
            create_connection=functools.partial(  # type: ignore[arg-type]
                Socket, gate=self._gate, close_deadline_s=settings.ws_close_deadline_s
            ),
        )
        await stop.wait()
        if self._sockets:  # with nobody here there is nothing to wait for
            await asyncio.sleep(settings.ws_drain_wait_s)
        await self._go_down(server)

    async def _go_down(self, server: Server) -> None:
        """Take nobody in any more, and close evenly over the spread, so that they do not all come back at once."""
        server.close(close_connections=False)
        spread_s = self._settings.ws_drain_spread_s
        leaving = list(self._sockets)
        started = asyncio.get_running_loop().time()
        closed = 0
        while closed < len(leaving):
            elapsed_s = asyncio.get_running_loop().time() - started + DRAIN_TICK_S
            share = elapsed_s / spread_s if elapsed_s < spread_s else 1.0
            due = math.ceil(len(leaving) * share)
            for one in leaving[closed:due]:
                self._close(one, CloseCode.GOING_DOWN, "going down; reconnect with jitter")
            closed = due
            if closed < len(leaving):
                await asyncio.sleep(DRAIN_TICK_S)
        for late in list(self._sockets):  # came in while the listener was closing
            self._close(late, CloseCode.GOING_DOWN, "going down; reconnect with jitter")
        await server.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer the handshake: None lets it through."""
        if request.path.partition("?")[0] != PATH:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "There is nothing here.\n")
        refusal = self._gate.refusal()
        if refusal is None:
            return None
        self._metrics.refused.labels(refusal).inc()
        response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "No room. Try again.\n")
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    async def _converse(self, connection: ServerConnection) -> None:
        """One client from the open socket to its end."""
        client = cast(Socket, connection)
        headers = client.begin()
        self._sockets.add(client)
        session: Session | None = None
        try:
            session = await self._authenticate(client, headers)
            if session is None:
                return
            await client.gone
        except BadFrame as error:
            self._close(client, CloseCode.BAD_FRAME, str(error))
        finally:
            self._sockets.discard(client)
            if session is not None:
                self._heartbeat.forget(session)
                self._hub.leave(session)
                await session.ended()
            await client.ended()

    async def _authenticate(self, client: Socket, headers: Headers) -> Session | None:
        """From the open socket to ``ready``; None where the socket was closed, or is gone, before."""
        origins = headers.get_all("Origin")
        if origins and "*" not in self._origins and not self._origins.issuperset(origins):
            self._close(client, CloseCode.FORBIDDEN_ORIGIN, "this origin may not connect")
            return None
        greeting = await self._first_frame(client, headers)
        if greeting is None:
            return None
        auth, caller = greeting
        client.show_token()
        session = Session(
            client,
            caller,
            read=self._hub.read,
            metrics=self._metrics,
            clock=self._clock,
            limits=self._settings,
        )
        self._hub.enter(session)
        self._heartbeat.watch(session)  # before its stream is open: that may have to wait
        try:
            opened = await self._open_stream(session, auth)
        except BaseException:
            self._heartbeat.forget(session)
            self._hub.leave(session)
            raise
        if opened:
            client.session = session
            client.listen(self._hear)
        return session

    async def _first_frame(self, client: Socket, headers: Headers) -> tuple[Auth, Principal] | None:
        """Wait for ``auth`` and check its token; None where the socket was closed for want of it."""
        try:
            async with asyncio.timeout(self._settings.ws_auth_deadline_s):
                message = await client.first_message()
        except TimeoutError:
            self._close(client, CloseCode.NOT_AUTHENTICATED, "no auth frame in time")
            return None
        if message is None:
            return None
        frame = protocol.parse(message)
        if not isinstance(frame, Auth):
            self._close(client, CloseCode.NOT_AUTHENTICATED, "the first frame must be auth")
            return None
        try:
            return frame, await self._verifier.authenticate(frame.token or _bearer(headers))
        except InvalidToken as error:
            self._close(client, CloseCode.NOT_AUTHENTICATED, str(error))
            return None
        except KeysUnavailable:
            self._close(client, CloseCode.GOING_DOWN, "tokens cannot be checked yet; reconnect with jitter")
            return None

    async def _open_stream(self, session: Session, auth: Auth) -> bool:
        """Say ``ready`` and start to send; False where PostgreSQL is out of reach and the socket was closed."""
        try:
            # The session is in the hub already: what is committed from here on it hears, or finds in the stream.
            stream = await self._hub.open_stream(session.user_id)
        except DatabaseUnavailable:
            session.close(CloseCode.GOING_DOWN, "the database is away; reconnect with jitter")
            return False
        cursor, recovered = protocol.rejoin(
            auth.resume, epoch=stream.epoch, head=stream.head, floor=stream.floor
        )
        if auth.resume is not None:
            self._metrics.resumed.labels(str(recovered).lower()).inc()
        ready = protocol.ready_frame(
            user_id=session.user_id,
            role=session.principal.role.value,
            epoch=stream.epoch,
            offset=stream.head,
            recovered=recovered,
            server_time_ms=epoch_ms(self._clock.now()),
        )
        session.socket.write(text_frame(ready))
        session.begin(epoch=stream.epoch, cursor=cursor, head=stream.head)
        return True

    def _hear(self, client: Socket, message: Message) -> None:
        """Take one message of an authenticated client."""
        session: Session = client.session
        try:
            frame = protocol.parse(message)
            if isinstance(frame, Ack) and session.acked < frame.offset <= session.cursor:
                session.acked = frame.offset  # paid for by the frame that was sent
                return
            if not session.may_say(asyncio.get_running_loop().time()):
                session.close(CloseCode.TOO_SLOW_OR_CHATTY, "too many messages")
                return
            if isinstance(frame, Auth):
                session.close(CloseCode.BAD_FRAME, "authenticated already")
            elif isinstance(frame, Ping) and not client.is_full:
                client.write(text_frame(protocol.pong_frame(epoch_ms(self._clock.now()))))
        except BadFrame as error:
            session.close(CloseCode.BAD_FRAME, str(error))
        except Exception:
            log.exception("Message not taken", extra={"userId": session.user_id})
            session.close(CloseCode.INTERNAL_ERROR, "internal error; resume")

    def _close(self, client: Socket, code: CloseCode, reason: str) -> None:
        if client.end(code, reason):
            self._metrics.closed.labels(str(int(code))).inc()


def _bearer(headers: Headers) -> str:
    """The token of the handshake's ``Authorization`` header; empty where there is none that could be one."""
    values = headers.get_all("Authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""
