"""The whole stack as one object: servers, databases, keys, jobs, services; started and stopped in order.

Used by the commands of `python -m deploy.local`, by the tests and by the benchmarks. Everything it starts ends
with it, and everything it writes lies in its run folder (and PostgreSQL's data in the temporary folder where
the run folder is out of an unprivileged user's reach).
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from deploy.local import provision as databases
from deploy.local.errors import StackError
from deploy.local.gateway import LocalGateway, find_nginx
from deploy.local.kafka_apache import ProxiedListener
from deploy.local.kafka_tansu import TANSU
from deploy.local.keys import StackKeys, ensure_keys
from deploy.local.ports import OFFSETS, check_free, free_block
from deploy.local.processes import Child, Command, Nursery, run_to_end
from deploy.local.run_folder import RunFolder
from deploy.local.servers import Servers
from deploy.local.services import (
    MODULES,
    TANSU_DEFAULTS,
    ServiceProcess,
    choose_ports,
    own_env,
    passed_through,
)
from deploy.local.settings import KafkaKind, read_settings
from deploy.local.three_servers import SERVER_NAMES, ThreeServers, stop_together

JOB_TIMEOUT_S = 120.0  # a migration of empty tables takes a second


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class LocalStack:
    """One stack in one run folder. For one thread at a time; `stop()` may always be called, also twice.

    `port_base` None: a free block of ports is looked for. `kafka` None: what the environment says, else Apache
    Kafka where the machine can run it, else Tansu. `env` is the caller's environment; README.md lists the names.
    `kafka_proxied`: a second listener of Apache Kafka, whose clients find the broker behind a proxy.
    """

    def __init__(
        self,
        run_dir: Path,
        port_base: int | None,
        kafka: KafkaKind | None = None,
        *,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = say_on_stderr,
        kafka_proxied: ProxiedListener | None = None,
    ) -> None:
        self._kafka_proxied = kafka_proxied
        self._env = dict(os.environ if env is None else env)
        settings = read_settings(self._env)
        self.settings = replace(
            settings, run_dir=run_dir.resolve(), port_base=port_base, kafka=kafka or settings.kafka
        )
        self.folder = RunFolder(self.settings.run_dir)
        self._say = say
        self._nursery = Nursery()
        self._passwords = databases.new_passwords()
        self._base = 0
        self._three: ThreeServers | None = None
        self._servers: Servers | None = None
        self._services: list[ServiceProcess] = []
        self._gateway: LocalGateway | None = None
        self._dsns: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def run_dir(self) -> Path:
        return self.settings.run_dir

    @property
    def servers(self) -> Servers:
        """Raises StackError before `start_servers()`."""
        if self._servers is None:
            raise StackError("the servers are not started")
        return self._servers

    @cached_property
    def keys(self) -> StackKeys:
        """The stack's keys, made at the first call."""
        return ensure_keys(self.run_dir / "keys")

    @property
    def services(self) -> Sequence[ServiceProcess]:
        """Every replica that was started, running or not."""
        return tuple(self._services)

    # ---- servers

    def start_servers(self) -> Servers:
        """Start the three servers side by side, or take those that are given; returns when all answer.

        Raises StackError: a taken port, a missing program, a server that does not start. Nothing is left then.
        """
        self.folder.acquire()
        try:
            self._base = self._choose_base()
            self._three = ThreeServers(
                self.settings,
                self._base,
                self._nursery,
                env=self._env,
                say=self._say,
                kafka_proxied=self._kafka_proxied,
            )
            self._servers = self._three.start()
            return self._servers
        except BaseException:
            self.stop()
            raise

    def server(self, name: str) -> Child:
        """The process of `postgres`, `redis` or `kafka`, to kill, freeze or start again. Raises StackError for
        a server that is given or runs in a container."""
        if self._three is None:
            raise StackError("the servers are not started")
        return self._three.child(name)

    def wait_server(self, name: str) -> None:
        """Wait until a server that was started again answers."""
        if self._three is None:
            raise StackError("the servers are not started")
        self._three.wait_ready(name)

    def kafka_line(self) -> str:
        """One line that says which broker runs and what that means."""
        name = self.servers.kafka_name
        if name.startswith(TANSU):
            return (
                f"Kafka: {name}: memory only, all events are gone when it stops, no idempotent producer; "
                "good for the demo, the tests want Apache Kafka"
            )
        if self.settings.given_kafka:
            return f"Kafka: the broker that KAFKA_BOOTSTRAP_SERVERS names ({self.servers.kafka_bootstrap})"
        return f"Kafka: {name}: one real broker on this machine; its topics are gone when it stops"

    # ---- databases, jobs, services

    def provision(self, prefix: str = "") -> dict[str, str]:
        """Make the databases and roles, each name with `prefix` before it. Returns a DSN for each service, and
        `ledger`: the read-only role's DSN of order-api's database (`ledger_dsns()` has all four)."""
        databases.provision(self.servers.postgres_admin_dsn, self._passwords, prefix)
        dsns = databases.service_dsns(self.servers.postgres_admin_dsn, self._passwords, prefix)
        if not prefix:
            self._dsns = dict(dsns)
        return dsns | {databases.LEDGER: self.ledger_dsns(prefix)["order-api"]}

    def remove(self, prefix: str) -> None:
        """Drop what `provision(prefix)` made."""
        databases.remove(self.servers.postgres_admin_dsn, prefix)

    def ledger_dsns(self, prefix: str = "") -> dict[str, str]:
        """The read-only role's DSN of each service's database, by the service's name."""
        return databases.ledger_dsns(self.servers.postgres_admin_dsn, self._passwords, prefix)

    def service_env(self, name: str) -> dict[str, str]:
        """The full environment of a service apart from its ports. `provision()` must have run."""
        if name not in self._dsns:
            raise StackError(f"no database for {name!r} yet: call provision() first")
        defaults = TANSU_DEFAULTS if self.servers.kafka_name.startswith(TANSU) else {}
        return defaults | passed_through(self._env) | own_env(name, self._dsns[name], self.servers, self.keys)

    def run_job(self, argv: Sequence[str], env: Mapping[str, str], name: str = "job") -> str:
        """Run `python ARGV` to its end; returns what it printed. Raises StackError where it fails."""
        command = Command(
            name=name,
            argv=(sys.executable, *argv),
            log_path=self.run_dir / "jobs.log",
            env=env,
            cwd=self.run_dir,
        )
        return run_to_end(command, JOB_TIMEOUT_S)

    def migrate(
        self, names: Sequence[str] = databases.SERVICES, env: Mapping[str, str] | None = None
    ) -> None:
        """Bring each service's tables to the newest version, side by side. `env` overrides settings."""

        def one(name: str) -> None:
            self.run_job(
                ("-m", MODULES[name], "migrate"), self.service_env(name) | dict(env or {}), f"{name} migrate"
            )

        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            list(pool.map(one, names))

    def create_topics(self, env: Mapping[str, str] | None = None) -> None:
        """Run the one job that creates topics. `env` overrides settings (KAFKA_TOPIC_PREFIX)."""
        job_env = passed_through(self._env) | {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka_bootstrap,
            "KAFKA_PRODUCER_IDEMPOTENCE": "true" if self.servers.kafka_idempotence else "false",
            "KAFKA_REPLICATION_FACTOR": self._env.get("KAFKA_REPLICATION_FACTOR", "1"),
        }
        self.run_job(("-m", "weelo_common.topics"), job_env | dict(env or {}), "topics")

    def start_service(self, name: str, env: Mapping[str, str] | None = None) -> ServiceProcess:
        """Start one more replica of a service, without waiting for it. `env` overrides settings."""
        index = sum(process.service == name for process in self._services)
        taken = frozenset(
            port for process in self._services for port in (process.ports.http, process.ports.ws) if port
        )
        full_env = self.service_env(name) | dict(env or {})
        ports = choose_ports(self._base, name, index, taken)
        process = ServiceProcess(self._nursery, name, index, ports, full_env, self.run_dir)
        self._services.append(process)
        process.start()
        return process

    def start_gateway(self, services: Sequence[ServiceProcess] | None = None) -> LocalGateway | None:
        """nginx before these replicas (None: all that run); again: with those of now. None without nginx."""
        if find_nginx(self._env.get("PATH", os.defpath)) is None:
            self._say("no nginx here: the services are reached on their own ports, without a gateway")
            return None
        if self._gateway is None:
            self._gateway = LocalGateway(self.run_dir, self._port("gateway"), self._nursery, self._env)
        running = [process for process in self._services if process.running]
        self._gateway.start(running if services is None else services)
        return self._gateway

    def start_all(self) -> None:
        """From nothing to four services that are ready, behind the gateway where nginx is installed."""
        self.start_servers()
        try:
            check_free(
                self._base, [name for name in OFFSETS if name not in (*SERVER_NAMES, "kafka-controller")]
            )
            self.provision()
            with ThreadPoolExecutor(max_workers=1) as pool:
                topics = pool.submit(self.create_topics)
                self.migrate()
                topics.result()
            for process in [self.start_service(name) for name in databases.SERVICES]:
                process.wait_ready()
            self.start_gateway()
        except BaseException:
            self.stop()
            raise

    # ---- what others need to know

    def command_env(self) -> dict[str, str]:
        """What a command that works with the stack gets: addresses, keys, the DSNs that read and those that change."""
        env = {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka_bootstrap,
            "KAFKA_PRODUCER_IDEMPOTENCE": "true" if self.servers.kafka_idempotence else "false",
            "REDIS_URL": self.servers.redis_url,
            "WEELO_KEYS_DIR": str(self.keys.folder),
            "WEELO_STACK_FILE": str(self.folder.stack_file),
        }
        if self._dsns:
            for name, dsn in self.ledger_dsns().items():
                env[f"POSTGRES_LEDGER_DSN_{name.replace('-', '_').upper()}"] = dsn
            for name, dsn in self._dsns.items():
                env[f"POSTGRES_DSN_{name.replace('-', '_').upper()}"] = dsn
        for process in self._services:
            if process.name == process.service:
                env[f"WEELO_{process.service.replace('-', '_').upper()}_URL"] = process.base_url
            if process.name == "notifier":
                env["WEELO_WS_URL"] = process.ws_url
        if self._gateway is not None:
            env["WEELO_GATEWAY_URL"] = self._gateway.base_url
            env["WEELO_WS_URL"] = self._gateway.ws_url
        return env

    def record(self) -> None:
        """Write stack.json: what runs, where, and as which process."""
        record: dict[str, Any] = {
            "state": "up",
            "supervisor_pid": os.getpid(),
            "port_base": self._base,
            "servers": asdict(self.servers),
            "kafka_line": self.kafka_line(),
            "env": self.command_env(),
            "pids": {child.name: child.pid for child in self._all_children()},
        }
        self.folder.write_record(record)

    def dead(self) -> list[Child]:
        """Children that ended though nobody asked them to."""
        return [child for child in self._all_children() if child.died]

    def stop(self) -> None:
        """End everything that was started, the gateway and the services first; remove the servers' data."""
        stop_together([] if self._gateway is None else self._gateway.children)
        stop_together(list(reversed(self._services)))
        if self._three is not None:
            self._three.stop()
        self._gateway = None
        self._services.clear()
        self._three = None
        self._servers = None
        self.folder.release()

    def _all_children(self) -> list[Child]:
        gateway = [] if self._gateway is None else self._gateway.children
        servers = () if self._three is None else self._three.children
        return [*servers, *self._services, *gateway]

    def _choose_base(self) -> int:
        given = {
            "postgres": self.settings.given_postgres,
            "redis": self.settings.given_redis,
            "kafka": self.settings.given_kafka,
            "kafka-controller": self.settings.given_kafka,
        }
        if self.settings.port_base is None:
            return free_block()
        if not self.settings.docker:
            check_free(self.settings.port_base, [name for name, server in given.items() if not server])
        return self.settings.port_base

    def _port(self, name: str) -> int:
        return self._base + OFFSETS[name]
