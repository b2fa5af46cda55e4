"""The system under harm: three servers behind proxies, two replicas of each service, and what a fault does to each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from deploy.local.kafka_apache import ProxiedListener
from deploy.local.ports import HOST, OFFSETS, free_block
from deploy.local.processes import Child
from deploy.local.provision import SERVICES
from deploy.local.services import ServiceProcess
from deploy.local.stack import LocalStack
from tests.faults.harm import frozen, kill_whole
from tools.chaos.proxy import TcpProxy
from tools.chaos.schedule import REPLICAS, SERVERS, Fault, Kind

PROXY_OFFSETS = {"postgres": 60, "redis": 61, "kafka": 62}
KAFKA_BEHIND_PROXY_OFFSET = 63
ORDER_LIFETIME_S = 8  # longer than most faults, short enough that many searches end by time
SERVICES_ENV = {
    "ORDER_LIFETIME_S": str(ORDER_LIFETIME_S),
    "LOG_LEVEL": "INFO",
    "CREATES_PER_MINUTE": "1000",
    "SWEEP_PERIOD_S": "20",  # so that some sweeps fall into the run
}


@dataclass(frozen=True, slots=True)
class Frozen:
    """A replica that stood still, on the monotonic clock."""

    replica_url: str
    since: float
    until: float


@dataclass
class Rig:
    """The running system, and what was done to it so far."""

    stack: LocalStack
    replicas: Mapping[str, ServiceProcess]
    """By their names, ``order-api``, ``order-api-1`` …"""
    proxies: Mapping[str, TcpProxy]
    say: Callable[[str], None]
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each kind of fault was done to each target."""
    mending: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Held while a target is broken: the next fault of the same target waits for its mending."""
    surprises: list[str] = field(default_factory=list)
    """Replicas that ended though nobody asked them to."""
    freezes: list[Frozen] = field(default_factory=list)
    """When which replica could not answer anybody."""

    async def harm(self, faults: Sequence[Fault]) -> None:
        """Do every fault at its time, and mend it at its end. Returns when all are mended."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as doing:
            for fault in faults:
                doing.create_task(self._at_its_time(fault, began))
            watching = doing.create_task(self._watch())
            await asyncio.sleep(max((fault.ends_s for fault in faults), default=0.0))
            watching.cancel()

    async def heal(self) -> None:
        """Everything runs, is connected and ready.

        Raises:
            StackError: something does not come up again.
        """
        for proxy in self.proxies.values():
            proxy.mend()
        for process in self.replicas.values():
            if not process.running:
                process.start()
        for process in self.replicas.values():
            await asyncio.to_thread(process.wait_ready)

    async def _at_its_time(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        async with self.mending[fault.target]:  # a server may take long to come back on a busy machine
            self.say(str(fault))
            self.done[fault.kind.value, fault.target] += 1
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        """Do one fault and mend it."""
        if fault.kind is Kind.CUT:
            self.proxies[fault.target].cut()
            await asyncio.sleep(fault.lasts_s)
            self.proxies[fault.target].mend()
        elif fault.kind is Kind.SLOW:
            self.proxies[fault.target].slow(fault.delay_ms / 1000)
            await asyncio.sleep(fault.lasts_s)
            self.proxies[fault.target].mend()
        elif fault.kind is Kind.FREEZE:
            since = time.monotonic()
            with frozen(self._child(fault.target)):
                await asyncio.sleep(fault.lasts_s)
            if fault.target in self.replicas:
                url = self.replicas[fault.target].base_url
                self.freezes.append(Frozen(url, since, time.monotonic()))
        else:
            await self._start_again(fault)

    async def _start_again(self, fault: Fault) -> None:
        child = self._child(fault.target)
        if fault.kind is Kind.KILL:
            await asyncio.to_thread(kill_whole, child)
        else:
            await asyncio.to_thread(child.stop)
            if child.exit_code != 0 and fault.target not in SERVERS:
                self.surprises.append(f"{fault.target} ended with {child.exit_code} after SIGTERM")
        await asyncio.sleep(fault.lasts_s)
        await asyncio.to_thread(child.start)
        if fault.target in SERVERS:
            await asyncio.to_thread(self.stack.wait_server, fault.target)

    def stood_still(self, replica_url: str, since: float, until: float) -> bool:
        """Whether the replica was frozen at any time between."""
        return any(
            one.replica_url == replica_url and one.since < until and one.until > since for one in self.freezes
        )

    async def _watch(self) -> None:
        """Start again what ended by itself, as an orchestrator would, and remember that it did."""
        while True:
            for name, process in self.replicas.items():
                if process.died:
                    self.surprises.append(f"{name} ended by itself with {process.exit_code}")
                    self.say(f"           {name} ended by itself:\n{process.log_tail()}")
                    await asyncio.to_thread(process.start)
            await asyncio.sleep(0.5)

    def _child(self, target: str) -> Child:
        return self.stack.server(target) if target in SERVERS else self.replicas[target]


@contextlib.asynccontextmanager
async def running_rig(run_dir: Path, say: Callable[[str], None]) -> AsyncIterator[Rig]:
    """The whole system, ready; all of it ends with the context."""
    base = free_block()
    listener = ProxiedListener(base + KAFKA_BEHIND_PROXY_OFFSET, base + PROXY_OFFSETS["kafka"])
    ports = {
        "postgres": base + OFFSETS["postgres"],
        "redis": base + OFFSETS["redis"],
        "kafka": listener.port,
    }
    stack = LocalStack(run_dir, base, "apache", say=say, kafka_proxied=listener)
    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(asyncio.to_thread, stack.stop)
        proxies = {
            name: await ending.enter_async_context(TcpProxy(base + PROXY_OFFSETS[name], ports[name]))
            for name in SERVERS
        }
        replicas = await asyncio.to_thread(_start, stack, run_dir, base)
        yield Rig(stack, replicas, proxies, say)


def _start(stack: LocalStack, run_dir: Path, base: int) -> dict[str, ServiceProcess]:
    for log in run_dir.glob("*.log"):
        log.unlink()  # what stands there afterwards is this run's alone
    stack.start_servers()
    dsns = stack.provision()
    with ThreadPoolExecutor(max_workers=1) as pool:
        topics = pool.submit(stack.create_topics)
        stack.migrate()
        topics.result()
    replicas: dict[str, ServiceProcess] = {}
    for name in SERVICES:
        env = SERVICES_ENV | {
            "POSTGRES_DSN": _through(dsns[name], base + PROXY_OFFSETS["postgres"]),
            "REDIS_URL": _through(stack.servers.redis_url, base + PROXY_OFFSETS["redis"]),
            "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{base + PROXY_OFFSETS['kafka']}",
        }
        for _ in range(REPLICAS):
            process = stack.start_service(name, env)
            replicas[process.name] = process
    for process in replicas.values():
        process.wait_ready()
    return replicas


def _through(url: str, port: int) -> str:
    """The same URL by another port of this machine."""
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{user}{HOST}:{port}"))
