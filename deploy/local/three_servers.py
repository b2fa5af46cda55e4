"""PostgreSQL, Redis and Kafka of one stack: started side by side, or taken where the environment names them.

Knows which server to start and in what order things must happen; how each is started, the modules beside this one
know. It never makes a database or a topic.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from deploy.local.docker_servers import DockerServers
from deploy.local.errors import StackError
from deploy.local.kafka_apache import LocalApacheKafka, ProxiedListener, pinned_version, why_not
from deploy.local.kafka_tansu import LocalTansu
from deploy.local.ports import OFFSETS
from deploy.local.postgres import LocalPostgres
from deploy.local.processes import Child, Nursery
from deploy.local.redis_server import LocalRedis
from deploy.local.servers import Servers, kafka_answers, postgres_name, redis_name
from deploy.local.settings import StackSettings

SERVER_NAMES = ("postgres", "redis", "kafka")


class LocalServer(Protocol):
    """How a server is started: what each of the modules beside this one offers."""

    def prepare(self) -> Child: ...
    def wait_ready(self, child: Child) -> str: ...
    def clean(self) -> None: ...


class ThreeServers:
    """The servers on the ports from `base` on. For one thread at a time; `stop()` may always be called.

    `env` is the caller's environment; `kafka_proxied`: a second listener of Apache Kafka.
    """

    def __init__(
        self,
        settings: StackSettings,
        base: int,
        nursery: Nursery,
        *,
        env: Mapping[str, str],
        say: Callable[[str], None],
        kafka_proxied: ProxiedListener | None = None,
    ) -> None:
        self._settings = settings
        self._base = base
        self._nursery = nursery
        self._env = env
        self._say = say
        self._kafka_proxied = kafka_proxied
        self._docker: DockerServers | None = None
        self._local: dict[str, LocalServer] = {}
        self._children: dict[str, Child] = {}

    @property
    def children(self) -> Sequence[Child]:
        """The processes that were started here, in that order."""
        return tuple(self._children.values())

    def start(self) -> Servers:
        """Start what is not given; returns when all answer.

        Raises StackError: a missing program, a server that does not start or that is not where it is said to be. What
        was started is then for `stop()`.
        """
        settings = self._settings
        if settings.docker:
            self._docker = DockerServers(self._port("kafka"), secrets.token_hex(16), self._say)
            return self._docker.start()
        kafka = None if settings.given_kafka else self._make_kafka()
        if kafka is not None:
            self._local["kafka"] = kafka
            if isinstance(kafka, LocalApacheKafka):
                kafka.fetch()  # before the threads: a Ctrl-C must end a slow download
        postgres = None
        if not settings.given_postgres:
            postgres = LocalPostgres(
                settings.run_dir, self._port("postgres"), self._nursery, self._env, settings.postgres_fsync
            )
            self._local["postgres"] = postgres
        redis = None
        if not settings.given_redis:
            redis = LocalRedis(settings.run_dir, self._port("redis"), self._nursery, self._env)
            self._local["redis"] = redis
        names = self._start_side_by_side()
        return Servers(
            kafka_bootstrap=settings.given_kafka or (kafka.bootstrap if kafka else ""),
            postgres_admin_dsn=settings.given_postgres or (postgres.dsn if postgres else ""),
            redis_url=settings.given_redis or (redis.url if redis else ""),
            kafka_name=names.get("kafka") or self._given_kafka_name(),
            postgres_name=names.get("postgres") or self._given_name("POSTGRES_DSN", postgres_name),
            redis_name=names.get("redis") or self._given_name("REDIS_URL", redis_name),
            kafka_idempotence=settings.given_kafka_idempotence if kafka is None else kafka.idempotence,
        )

    def child(self, name: str) -> Child:
        """The process of `postgres`, `redis` or `kafka`. Raises StackError for a server that is given or runs in a
        container."""
        if name not in self._children:
            raise StackError(f"{name} is no child of this stack")
        return self._children[name]

    def wait_ready(self, name: str) -> None:
        """Wait until a server that was started again answers."""
        self._local[name].wait_ready(self.child(name))

    def stop(self) -> None:
        """End what was started and remove its data."""
        stop_together(list(reversed(self._children.values())))
        if self._docker is not None:
            self._docker.stop()
            self._docker = None
        for server in self._local.values():
            server.clean()
        self._children.clear()
        self._local.clear()

    def _start_side_by_side(self) -> dict[str, str]:
        """What each says that it is, by its name."""
        with ThreadPoolExecutor(max_workers=len(SERVER_NAMES)) as pool:
            starting = {
                name: pool.submit(self._start_server, name, server) for name, server in self._local.items()
            }
            try:
                return {name: future.result() for name, future in starting.items()}
            except BaseException:
                for child in list(self._children.values()):
                    child.kill()  # so that what still waits for an answer gives up
                raise

    def _start_server(self, name: str, server: LocalServer) -> str:
        child = server.prepare()
        self._children[name] = child
        child.start()
        return server.wait_ready(child)

    def _make_kafka(self) -> LocalApacheKafka | LocalTansu:
        settings = self._settings
        missing = None
        if settings.kafka != "tansu":
            missing = why_not(self._env, settings.cache_dir)
        if settings.kafka == "tansu" or (missing and settings.kafka is None):
            if missing:
                self._say(f"no Apache Kafka here: {missing}; Tansu runs instead")
            return LocalTansu(settings.run_dir, self._port("kafka"), self._nursery, self._env)
        if missing:
            raise StackError(f"Apache Kafka {pinned_version()} cannot run: {missing}")
        return LocalApacheKafka(
            settings.run_dir,
            settings.cache_dir,
            self._port("kafka"),
            self._port("kafka-controller"),
            self._nursery,
            self._env,
            self._say,
            self._kafka_proxied,
        )

    def _port(self, name: str) -> int:
        return self._base + OFFSETS[name]

    def _given_name(self, setting: str, ask: Callable[[str], str | None]) -> str:
        name = ask(self._env[setting])
        if name is None:
            raise StackError(f"nothing answers where {setting} says")
        return name

    def _given_kafka_name(self) -> str:
        bootstrap = self._settings.given_kafka or ""
        # A broker behind SASL or TLS is asked by the services, which have the settings for it.
        plain = self._env.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT") == "PLAINTEXT"
        if plain and not kafka_answers(bootstrap):
            raise StackError("nothing answers where KAFKA_BOOTSTRAP_SERVERS says")
        return f"Kafka at {bootstrap}"


def stop_together(group: Sequence[Child]) -> None:
    """End them side by side, and wait for all."""
    for child in group:
        child.thaw()
        child.terminate()  # all at once: they drain side by side
    for child in group:
        child.stop()
