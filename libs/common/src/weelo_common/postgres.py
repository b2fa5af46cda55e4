"""The service's own PostgreSQL: a pool with deadlines, and transactions that wake the relay.

PostgreSQL decides every promise. What is wrong with the infrastructure (gone, too slow, a deadlock) is told apart
from defects: it becomes ``DatabaseUnavailable``, which HTTP answers with 503 and consumers wait out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import SpanKind

from weelo_common.clock import to_milliseconds
from weelo_common.settings import PostgresSettings
from weelo_common.telemetry import span

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

SELECT_NOW = "SELECT clock_timestamp()"

_INFRASTRUCTURE_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
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
    ConnectionError,
    OSError,
    TimeoutError,
)


class DatabaseUnavailable(Exception):
    """PostgreSQL is out of reach, too slow, or broke off this transaction; the same work may succeed later."""


def is_infrastructure_error(error: BaseException) -> bool:
    """Whether an error tells of the infrastructure rather than of a defect."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return False  # asyncpg could not encode a parameter: our defect
    return isinstance(error, (DatabaseUnavailable, *_INFRASTRUCTURE_ERRORS))


class Database:
    """A pool of connections to one database. Make it with ``Database.open``."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._commit_listeners: list[Callable[[], None]] = []
        self._trouble: str | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: PostgresSettings, *, application_name: str) -> AsyncIterator[Database]:
        """A database that is closed at the end, within the acquire deadline.

        The pool starts empty-handed when PostgreSQL is away: the service comes up, answers 503 and recovers.
        """
        pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            settings.postgres_dsn.get_secret_value(),
            min_size=0,
            max_size=settings.postgres_pool_max,
            timeout=settings.postgres_connect_deadline_s,
            command_timeout=settings.postgres_statement_timeout_s
            + 1,  # the server's own time-out comes first
            max_inactive_connection_lifetime=60,
            ssl=_tls(settings),
            server_settings={
                "application_name": application_name,
                "timezone": "UTC",
                "statement_timeout": _ms(settings.postgres_statement_timeout_s),
                "lock_timeout": _ms(settings.postgres_lock_timeout_s),
                "idle_in_transaction_session_timeout": _ms(settings.postgres_idle_in_transaction_timeout_s),
            },
        )
        await pool
        database = cls(pool, settings)
        try:
            yield database
        finally:
            try:
                await asyncio.wait_for(pool.close(), settings.postgres_acquire_deadline_s)
            except _INFRASTRUCTURE_ERRORS:
                pool.terminate()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each commit of ``transaction``; it must return at once."""
        self._commit_listeners.append(listener)

    @property
    def trouble(self) -> str | None:
        """None while the last use of the database went well, else what went wrong."""
        return self._trouble

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for reads.

        Raises:
            DatabaseUnavailable: no connection within the deadline, or it broke.
        """
        try:
            async with self._pool.acquire(timeout=self._settings.postgres_acquire_deadline_s) as connection:
                yield connection
        except _INFRASTRUCTURE_ERRORS as error:
            if not is_infrastructure_error(error):
                raise
            self._trouble = type(error).__name__
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
        self._trouble = None

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

    async def ping(self) -> None:
        """Ask the database for its time.

        Raises:
            DatabaseUnavailable: it did not answer in time.
        """
        async with self.connection() as connection:
            await connection.fetchval(SELECT_NOW)

    async def watch(self, stop: asyncio.Event, period_s: float = 2.0) -> None:
        """Ask for a sign of life now and then, so that readiness recovers without traffic."""
        while not stop.is_set():
            with contextlib.suppress(DatabaseUnavailable):  # `trouble` holds it, and readiness tells it
                await self.ping()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), period_s)


async def database_now(connection: Connection) -> datetime:
    """The database's clock, in UTC and whole milliseconds."""
    now: datetime = await connection.fetchval(SELECT_NOW)
    return to_milliseconds(now)


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def _tls(settings: PostgresSettings) -> ssl.SSLContext | bool | None:
    """What asyncpg wants: None follows the DSN's ``sslmode``."""
    mode = settings.postgres_tls
    if mode == "from-dsn":
        return None
    if mode == "disable":
        return False
    context = ssl.create_default_context(cafile=settings.postgres_tls_ca_file)
    if mode != "verify-full":
        context.check_hostname = False
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context
