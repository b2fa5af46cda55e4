"""The service's own PostgreSQL: a pool with deadlines, and transactions that wake the relay.

PostgreSQL decides every promise. What is wrong with the infrastructure (gone, too slow, a deadlock) is told apart
from defects: it becomes ``DatabaseUnavailable``, which HTTP answers with 503 and consumers wait out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import SpanKind

from weelo_common.clock import to_milliseconds
from weelo_common.settings import PostgresSettings, PostgresTls
from weelo_common.telemetry import span

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

T = TypeVar("T")

SELECT_NOW = "SELECT clock_timestamp()"
ROLLBACK = "ROLLBACK"

WATCH_PERIOD_S = 1.0  # a sign of life is asked for this often
WATCH_DEADLINE_S = 2.0  # and is there by then, or PostgreSQL counts as away: nobody waits any longer for it
WATCH_TICK_S = 0.1  # in such steps the watch waits: what one takes longer is this process's lateness

_INFRASTRUCTURE_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # as far as is_infrastructure_error says so
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    # A password that is being changed, a database that is being restored: nothing an event or a request can help.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    # A migration changed a table under a prepared statement; the next try prepares it anew.
    asyncpg.InvalidCachedStatementError,
    ConnectionError,
    OSError,
    TimeoutError,
)

_NO_SIGN_OF_LIFE: tuple[type[Exception], ...] = (asyncpg.PostgresError, *_INFRASTRUCTURE_ERRORS)


class DatabaseUnavailable(Exception):
    """PostgreSQL is out of reach, too slow, or broke off this transaction; the same work may succeed later."""

    @property
    def kind(self) -> str:
        """What was the matter, without what the server said: that may quote a value."""
        return str(self).partition(":")[0]


def is_infrastructure_error(error: BaseException) -> bool:
    """Whether an error tells of the infrastructure rather than of a defect."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return False  # asyncpg could not encode a parameter: our defect
    if isinstance(error, asyncpg.InternalClientError):
        # A server that goes down says so on idle connections, too. asyncpg takes that for an operation that has begun,
        # and refuses the next one with these words until it sees the end of the connection.
        return str(error).startswith("cannot switch to state")
    return isinstance(error, (DatabaseUnavailable, *_INFRASTRUCTURE_ERRORS))


if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection  # generic for the type checker alone


class LeanConnection(_Connection):
    """A connection of the pool that comes back without a question.

    asyncpg would ask the server to reset the session at each release: one more round trip for every use. Nothing here
    changes a session; whoever takes an advisory lock gives it back. An open transaction is still rolled back.
    """

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool of connections to one database. Make it with ``Database.open``."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], settings: PostgresSettings, options: dict[str, Any]
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._options = options
        self._commit_listeners: list[Callable[[], None]] = []
        self._in_use: set[PoolConnectionProxy[asyncpg.Record]] = set()
        self._tidying: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly
        self._away: str | None = None
        self._watched: list[Database] = [self]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: PostgresSettings,
        *,
        application_name: str,
        session: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[Database]:
        """A database that is closed at the end, within the acquire deadline. ``session`` is set on each connection.

        The pool starts empty-handed when PostgreSQL is away: the service comes up, answers 503 and recovers.
        """
        options: dict[str, Any] = {
            "dsn": settings.postgres_dsn.get_secret_value(),
            "timeout": settings.postgres_connect_deadline_s,
            # The server's own time-out comes first.
            "command_timeout": settings.postgres_statement_timeout_s + 1,
            "ssl": tls_option(settings.postgres_tls, settings.postgres_tls_ca_file),
            "server_settings": {
                "application_name": application_name,
                "timezone": "UTC",
                "statement_timeout": _ms(settings.postgres_statement_timeout_s),
                "lock_timeout": _ms(settings.postgres_lock_timeout_s),
                "idle_in_transaction_session_timeout": _ms(settings.postgres_idle_in_transaction_timeout_s),
                **session,
            },
        }
        pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            **options,
            connection_class=LeanConnection,
            min_size=0,
            max_size=settings.postgres_pool_max,
            max_inactive_connection_lifetime=60,
        )
        await pool
        database = cls(pool, settings, options)
        try:
            yield database
        finally:
            with contextlib.suppress(*_INFRASTRUCTURE_ERRORS):
                if database.trouble is None:  # else nobody would answer a goodbye
                    await asyncio.wait_for(pool.close(), settings.postgres_acquire_deadline_s)
            pool.terminate()  # does nothing to one that is closed

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each commit of ``transaction``; it must return at once."""
        self._commit_listeners.append(listener)

    def watch_also(self, other: Database) -> None:
        """Let ``watch`` speak for another pool of the same server, too."""
        self._watched.append(other)

    @property
    def trouble(self) -> str | None:
        """None while PostgreSQL gives signs of life, as far as ``watch`` knows, else what was the matter."""
        return self._away

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for reads.

        Raises:
            DatabaseUnavailable: no connection within the deadline, it broke, or PostgreSQL is known to be away.
        """
        if self._away is not None:
            raise DatabaseUnavailable(f"PostgreSQL is away ({self._away})")
        try:
            connection = await self._pool.acquire(timeout=self._settings.postgres_acquire_deadline_s)
            self._in_use.add(connection)
            try:
                yield connection
            except BaseException:
                await self._tidied_up(connection)
                raise
            self._in_use.discard(connection)
            await self._pool.release(connection)
        except _INFRASTRUCTURE_ERRORS as error:
            if not is_infrastructure_error(error):
                raise
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error

    async def _tidied_up(self, connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Give back a connection that was in trouble; beside this task, where that is cut off for a second time."""
        tidying = asyncio.create_task(self._tidy_up(connection), name="postgres: tidy up")
        self._tidying.add(tidying)
        tidying.add_done_callback(self._tidying.discard)
        await asyncio.shield(tidying)

    async def _tidy_up(self, connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Roll back a transaction whose own end was cut off, then give the connection back, each within the deadline.

        The pool would roll back, too, but takes it for a defect and tells it as one.
        """
        try:
            async with asyncio.timeout(self._settings.postgres_acquire_deadline_s):
                if connection.is_in_transaction():
                    await connection.execute(ROLLBACK)
            await self._pool.release(connection)
        except _NO_SIGN_OF_LIFE:  # what the caller fails with says it all
            _terminate(connection)
        finally:
            self._in_use.discard(connection)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction; after its COMMIT the listeners are called.

        A COMMIT whose answer was lost raises ``DatabaseUnavailable`` too: whether it took effect is for the
        caller's idempotency (its record, or the inbox) to find out.

        Raises:
            DatabaseUnavailable: as ``connection``.
        """
        with span("postgres transaction", kind=SpanKind.CLIENT, attributes={"db.system.name": "postgresql"}):
            async with self.connection() as connection, connection.transaction():
                yield connection
        for listener in self._commit_listeners:
            listener()

    @contextlib.asynccontextmanager
    async def single_statements(self) -> AsyncIterator[Connection]:
        """A connection whose every statement commits by itself, for a change that ONE statement makes.

        Two round trips cheaper than ``transaction``. At the end the listeners are called. An answer that was lost
        raises ``DatabaseUnavailable``, as a lost COMMIT does there.

        Raises:
            DatabaseUnavailable: as ``connection``.
        """
        async with self.connection() as connection:
            yield connection
        for listener in self._commit_listeners:
            listener()

    async def watch(
        self, stop: asyncio.Event, period_s: float = WATCH_PERIOD_S, deadline_s: float = WATCH_DEADLINE_S
    ) -> None:
        """Ask for a sign of life until stopped, on a connection of its own.

        While there is none, whoever wants a connection is refused at once, and whoever waits for an answer is cut
        off: a hung PostgreSQL costs a request some seconds, not all the deadlines of its statements one by one.
        """
        own: asyncpg.Connection[asyncpg.Record] | None = None
        try:
            while not stop.is_set():
                try:
                    own = await _in_own_time(self._sign_of_life(own), deadline_s)
                except _NO_SIGN_OF_LIFE as error:
                    own = None
                    self._is_away(type(error).__name__)
                else:
                    self._is_here()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), period_s)
        finally:
            if own is not None:
                own.terminate()

    async def _sign_of_life(
        self, own: asyncpg.Connection[asyncpg.Record] | None
    ) -> asyncpg.Connection[asyncpg.Record]:
        """The connection that answered; without any deadline but the caller's."""
        connection = own or await asyncpg.connect(
            **self._options | {"timeout": None, "command_timeout": None}
        )
        try:
            await connection.fetchval(SELECT_NOW)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _is_here(self) -> None:
        if self._away is not None:
            log.warning("PostgreSQL is back")
        for database in self._watched:
            database._away = None

    def _is_away(self, reason: str) -> None:
        in_use = [connection for database in self._watched for connection in database._in_use]
        if self._away is None:
            log.warning("PostgreSQL is away", extra={"reason": reason, "cutOff": len(in_use)})
        for database in self._watched:
            database._away = reason
        for connection in in_use:
            _terminate(connection)


async def _in_own_time(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What ``work`` returns, within ``limit_s`` of time that this process could use.

    In a process starved of CPU a timer is due before the answer that waits in the socket is read. So the wait is cut in
    steps, and one that ends late counts for no more than it was meant to last.

    Raises:
        TimeoutError: the work was cancelled.
    """
    task = asyncio.create_task(work)
    try:
        for _ in range(max(1, round(limit_s / WATCH_TICK_S))):
            await asyncio.wait([task], timeout=WATCH_TICK_S)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _terminate(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    """Close a connection without a word; the server then rolls back what was open on it."""
    # One that the server closed itself was taken back by the pool, and cannot be called any more.
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


async def database_now(connection: Connection) -> datetime:
    """The database's clock, in UTC and whole milliseconds."""
    now: datetime = await connection.fetchval(SELECT_NOW)
    return to_milliseconds(now)


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def tls_option(mode: PostgresTls, ca_file: Path | None) -> ssl.SSLContext | bool | None:
    """What asyncpg wants for ``POSTGRES_TLS`` and ``POSTGRES_TLS_CA_FILE``: None follows the DSN's ``sslmode``.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    if mode == "from-dsn":
        return None
    if mode == "disable":
        return False
    context = ssl.create_default_context(cafile=ca_file)
    if mode != "verify-full":
        context.check_hostname = False
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context
