"""The three servers as containers, by testcontainers: `TEST_STACK=docker`, where a Docker engine answers.

The services still run as processes of this machine. testcontainers is imported only when containers are wanted:
its import asks for a Docker client. Its Ryuk container removes ours where this process is killed.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deploy.local.errors import StackError
from deploy.local.kafka_apache import HEAP, SERVER_PROPERTIES, pinned_version
from deploy.local.ports import is_free
from deploy.local.postgres import MAX_CONNECTIONS
from deploy.local.redis_server import MAX_MEMORY, MAX_MEMORY_POLICY
from deploy.local.servers import Servers, kafka_answers, postgres_name, redis_name

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

POSTGRES_IMAGE = "postgres:17-alpine"
REDIS_IMAGE = "redis:8-alpine"
KAFKA_IMAGE = "apache/kafka"  # the tag is the version that kafka/pom.xml pins
KAFKA_PORT = 9092  # inside the container; its controller's is one above
ADMIN = "postgres"
READY_TIMEOUT_S = 120.0  # an engine that also pulls the images takes longer, and waits for itself
READY_POLL_S = 0.2
# Of the local broker's settings those that say where it is differ in a container; all others hold there too.
PLACED_BY_US = (
    "node.id",
    "process.roles",
    "controller.",
    "listener",
    "advertised.",
    "inter.broker",
    "log.dirs",
)


def kafka_environment(advertised: str) -> dict[str, str]:
    """The local broker's settings as the image `apache/kafka` takes them: `a.b=c` is `KAFKA_A_B=c`."""
    env = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{KAFKA_PORT},CONTROLLER://:{KAFKA_PORT + 1}",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{advertised}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@localhost:{KAFKA_PORT + 1}",
        "KAFKA_LOG_DIRS": "/tmp/kraft-combined-logs",  # noqa: S108 - inside the container
        "KAFKA_HEAP_OPTS": " ".join(HEAP),
    }
    for line in SERVER_PROPERTIES.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#") and not name.startswith(PLACED_BY_US):
            env[f"KAFKA_{name.upper().replace('.', '_')}"] = value
    return env


class DockerServers:
    """PostgreSQL, Redis and Apache Kafka in containers of their own. `kafka_port`: the one on this machine; it
    is fixed beforehand, because the broker must know at its start under which address clients reach it."""

    def __init__(self, kafka_port: int, password: str, say: Callable[[str], None]) -> None:
        self._kafka_port = kafka_port
        self._password = password
        self._say = say
        self._containers: list[DockerContainer] = []

    def start(self) -> Servers:
        """Start all three; returns when they answer. Raises StackError where no engine does."""
        from docker.errors import DockerException  # type: ignore[import-untyped]
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.community.redis import RedisContainer
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient
        from testcontainers.core.exceptions import ContainerStartException

        try:
            engine_host = DockerClient().host()
        except DockerException as error:
            reason = str(error).splitlines()[0]
            raise StackError(
                f"no Docker engine answers: start one, or unset TEST_STACK ({reason})"
            ) from error
        if not is_free(self._kafka_port):
            raise StackError(f"port {self._kafka_port} (kafka) is taken: set WEELO_PORT_BASE to another base")
        self._say(
            "starting PostgreSQL, Redis and Kafka as containers (the first time the images are pulled) …"
        )
        bootstrap = f"{engine_host}:{self._kafka_port}"
        postgres = PostgresContainer(
            POSTGRES_IMAGE, username=ADMIN, password=self._password, dbname=ADMIN, driver=None
        ).with_command(f"postgres -c max_connections={MAX_CONNECTIONS} -c fsync=off -c full_page_writes=off")
        redis = RedisContainer(REDIS_IMAGE).with_command(
            f"redis-server --appendonly no --maxmemory {MAX_MEMORY} --maxmemory-policy {MAX_MEMORY_POLICY}"
        )
        kafka_version = pinned_version()
        kafka = (
            DockerContainer(f"{KAFKA_IMAGE}:{kafka_version}")
            .with_bind_ports(KAFKA_PORT, self._kafka_port)
            .with_envs(**kafka_environment(bootstrap))
        )
        # Kafka first: it starts while the next ones are waited for. One after the other, because
        # testcontainers would make a Ryuk for each of several threads.
        self._containers = [kafka, postgres, redis]
        try:
            for container in self._containers:
                container.start()
        except (DockerException, ContainerStartException, TimeoutError) as error:
            raise StackError(f"a container did not start: {str(error).splitlines()[0]}") from error
        dsn = postgres.get_connection_url(driver=None)
        url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(redis.port)}/0"
        return Servers(
            kafka_bootstrap=bootstrap,
            postgres_admin_dsn=dsn,
            redis_url=url,
            kafka_name=_wait_for(
                "Kafka", lambda: f"Apache Kafka {kafka_version}" if kafka_answers(bootstrap) else None
            ),
            postgres_name=_wait_for("PostgreSQL", lambda: postgres_name(dsn)),
            redis_name=_wait_for("Redis", lambda: redis_name(url)),
            kafka_idempotence=True,
        )

    def stop(self) -> None:
        """Remove the containers with their data. May be called again."""
        while self._containers:
            self._containers.pop().stop()  # one that did not start is passed over by testcontainers


def _wait_for(what: str, ask: Callable[[], str | None]) -> str:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while (name := ask()) is None:
        if time.monotonic() > deadline:
            raise StackError(f"{what} in its container did not answer within {READY_TIMEOUT_S:.0f} s")
        time.sleep(READY_POLL_S)
    return name
