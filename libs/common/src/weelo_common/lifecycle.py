"""A service's life: put together in one place, supervised, stopped in good order.

SIGTERM (or SIGINT) stops the loops in the reverse order of their start: no new work first, then what is in hand, then
leases and connections, all within the shutdown deadline. A loop that ends by an unexpected error takes the service
down with exit code 1: the orchestrator starts it afresh, and PostgreSQL holds whatever it had in hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector

from weelo_common.health import Health
from weelo_common.http_protocol import OnePieceProtocol
from weelo_common.migrate import migrate
from weelo_common.postgres import Database, DatabaseUnavailable
from weelo_common.settings import PostgresSettings, Seconds, ServiceSettings, load
from weelo_common.telemetry import configure_logging, tracing

log = logging.getLogger(__name__)

T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
Runner = Callable[[asyncio.Event], Awaitable[None]]

MIGRATE_PATIENCE_S = 60.0  # how long the migration job waits for a PostgreSQL that is still starting
MIGRATE_RETRY_S = 0.5
HTTP_KEEP_ALIVE_S = 75  # longer than the load balancers' 60 s, so that they close first
HTTP_BACKLOG = 2048
GC_THRESHOLDS = (10_000, 20, 20)  # objects, then rounds: some 100 requests between two looks instead of 7


@dataclass(slots=True)
class _Loop:
    name: str
    task: asyncio.Task[None]
    stop: asyncio.Event


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the lifecycle decides when it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Lifecycle:
    """Holds what a service consists of while it runs."""

    def __init__(self, *, shutdown_deadline_s: float) -> None:
        self.health = Health()
        self.registry = CollectorRegistry()
        self.registry.register(self.health)
        ProcessCollector(registry=self.registry)  # CPU, memory and open files of this process
        self.http_port: int | None = None
        """Where HTTP is served, once it is."""
        self._deadline_s = shutdown_deadline_s
        self._resources = contextlib.AsyncExitStack()
        self._loops: list[_Loop] = []
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None

    async def enter(self, resource: contextlib.AbstractAsyncContextManager[T]) -> T:
        """Open something that is closed after all loops have ended, in reverse order."""
        return await self._resources.enter_async_context(resource)

    def spawn(self, name: str, run: Runner) -> None:
        """Start a loop. It must end soon after its event is set; those started last are stopped first."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._supervise(name, run, stop), name=name)
        self._loops.append(_Loop(name, task, stop))

    def serve_http(self, app: Any, host: str, port: int) -> None:
        """Serve an ASGI application; call it last, so that it stops first.

        Raises:
            OSError: the port is taken.
        """
        listener = socket.create_server((host, port), backlog=HTTP_BACKLOG, reuse_port=False)
        self.http_port = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=OnePieceProtocol,
            proxy_headers=False,  # nothing here asks for the caller's address
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=HTTP_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(self._deadline_s / 2)),
        )
        server = HttpServer(config)

        async def run(stop: asyncio.Event) -> None:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            stopping.cancel()
            await serving
            listener.close()

        self.spawn("http", run)

    async def wait(self, asked_to_stop: asyncio.Event) -> None:
        """Until somebody asks to stop, or a loop fails."""
        waits = [asyncio.create_task(asked_to_stop.wait()), asyncio.create_task(self._failed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def shutdown(self) -> None:
        """Stop the loops, last first, then close what was opened, within the deadline.

        Raises:
            BaseException: what a loop failed with.
        """
        self.health.stopping()
        give_up_at = time.monotonic() + self._deadline_s
        for loop in reversed(self._loops):
            loop.stop.set()
            await asyncio.wait([loop.task], timeout=max(0.0, give_up_at - time.monotonic()))
            if not loop.task.done():
                log.error("Loop cut off at the shutdown deadline", extra={"loop": loop.name})
                loop.task.cancel()
                await asyncio.wait([loop.task], timeout=1.0)
        await self._resources.aclose()
        if self._failure is not None:
            raise self._failure

    async def _supervise(self, name: str, run: Runner, stop: asyncio.Event) -> None:
        try:
            await run(stop)
            if not stop.is_set():
                raise RuntimeError(f"the loop {name} ended by itself")  # noqa: TRY301 - a failure like any
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # kept, and raised again by shutdown()
            log.critical("Loop failed; the service goes down", extra={"loop": name}, exc_info=True)
            self._failure = self._failure or error
            self._failed.set()


Build = Callable[[SettingsT, Lifecycle], Awaitable[None]]


@contextlib.asynccontextmanager
async def running(build: Build[SettingsT], settings: SettingsT) -> AsyncIterator[Lifecycle]:
    """A service in this process, stopped in good order at the end; as tests and ``run`` start it."""
    life = Lifecycle(shutdown_deadline_s=settings.shutdown_deadline_s)
    try:
        await build(settings, life)
        yield life
    finally:
        await life.shutdown()


def run(
    service: str, settings_class: type[SettingsT], build: Build[SettingsT], *, migrations: Sequence[str]
) -> None:
    """The command of a service: ``serve`` (the default) or ``migrate``.

    ``migrations`` names the packages whose migrations apply, in order. Exits 0 after a stop that was asked for.
    """
    parser = argparse.ArgumentParser(prog=f"weelo-{service}")
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    command = parser.parse_args().command
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        if command == "migrate":
            configure_logging(service, "INFO")
            runner.run(_migrate(load(MigrationSettings), service, migrations))
        else:
            settings = load(settings_class)
            configure_logging(service, settings.log_level)
            with tracing(
                service,
                endpoint=settings.otel_exporter_otlp_endpoint,
                sample_ratio=settings.otel_traces_sample_ratio,
            ):
                sys.exit(runner.run(_serve(service, settings, build)))


async def _serve(service: str, settings: SettingsT, build: Build[SettingsT]) -> int:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    started = False
    try:
        async with running(build, settings) as life:
            started = True
            _spare_the_collector()
            log.info("Service started", extra={"httpPort": life.http_port})
            await life.wait(asked_to_stop)
            log.info("Service stops")
    except (ValueError, OSError) as error:
        if started:
            raise
        print(f"{service} cannot start: {error}", file=sys.stderr)  # noqa: T201 - one line for people
        return 1
    except Exception:
        if not started:
            raise
        return 1  # a loop failed; it was logged when it did
    log.info("Service stopped")
    return 0


def _spare_the_collector() -> None:
    """What is there after the start stays: the garbage collector need not walk through it again and again.

    And it looks at young objects less often; requests leave few cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class MigrationSettings(PostgresSettings):
    """The migration job needs the database alone."""

    postgres_statement_timeout_s: Seconds = 3600.0
    """An index on a large table takes its time."""


async def _migrate(settings: MigrationSettings, service: str, packages: Sequence[str]) -> None:
    give_up_at = time.monotonic() + MIGRATE_PATIENCE_S
    while True:
        try:
            async with (
                Database.open(settings, application_name=f"{service}-migrate") as database,
                database.connection() as connection,
            ):
                applied = await migrate(connection, packages)
        except DatabaseUnavailable as error:
            if time.monotonic() > give_up_at:
                sys.exit(f"{service} migrate: {error}")
            log.warning("Migration waits for PostgreSQL", extra={"reason": str(error)})
            await asyncio.sleep(MIGRATE_RETRY_S)
        else:
            log.info("Migrations are applied", extra={"applied": applied})
            return


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from weelo_common.event_loop import new_event_loop
    except ImportError:  # uvloop is not on this platform
        return None
    return new_event_loop
