"""The four services as child processes: the environment each gets, its replicas, and when one is ready.

Each gets only what is its own: no other's DSN, no key that it does not need. Never imports a service.
"""

import http.client
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.keys import StackKeys
from deploy.local.ports import HOST, OFFSETS, REPLICA_OFFSETS, accepts, check_free, is_free
from deploy.local.processes import Child, Command, Nursery
from deploy.local.provision import SERVICES
from deploy.local.servers import Servers

MODULES = {"order-api": "order_api", "dispatcher": "dispatcher", "notifier": "notifier", "expiry": "expiry"}
READY_TIMEOUT_S = 60.0  # four services that start at once on two cores
STOP_TIMEOUT_S = 30.0  # a service drains within its own SHUTDOWN_DEADLINE_S, which is shorter
HEALTH_TIMEOUT_S = 3.0
JWT_ISSUER = "weelo"
JWT_AUDIENCE = "weelo-apps"

# Names that the stack itself gives to services. From the caller's environment they reach nobody: there
# POSTGRES_DSN is an admin's, and a private key would reach a service that must not have it.
OWNED_NAMES = frozenset(
    {
        "POSTGRES_DSN",
        "KAFKA",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_PRODUCER_IDEMPOTENCE",
        "REDIS_URL",
        "HTTP_HOST",
        "HTTP_PORT",
        "WS_PORT",
        "JWT_ALGORITHM",
        "JWT_PUBLIC_KEY_FILE",
        "JWT_PRIVATE_KEY_FILE",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "OFFER_TOKEN_JWKS_FILE",
        "OFFER_TOKEN_PRIVATE_KEY_FILE",
        "OFFER_TOKEN_KEY_ID",
    }
)
OWNED_PREFIXES = ("WEELO_", "POSTGRES_LEDGER_DSN_", "POSTGRES_DSN_", "PYTEST_")

# Tansu answers a consumer's first join only after half a session time-out, and remembers one that left for a
# whole one: the shortest session makes a start there bearable. The caller's own value wins.
TANSU_DEFAULTS = {"KAFKA_SESSION_TIMEOUT_S": "6", "KAFKA_FETCH_MAX_WAIT_MS": "20"}


def passed_through(env: Mapping[str, str]) -> dict[str, str]:
    """What of the caller's environment a service gets: tuning (ORDER_LIFETIME_S, LOG_LEVEL …), PATH and the like."""
    return {
        name: value
        for name, value in env.items()
        if name not in OWNED_NAMES and not name.startswith(OWNED_PREFIXES)
    }


def own_env(name: str, dsn: str, servers: Servers, keys: StackKeys) -> dict[str, str]:
    """The settings of one service apart from its ports. Raises StackError for a name that is no service."""
    if name not in SERVICES:
        raise StackError(f"no service {name!r}: there are {', '.join(SERVICES)}")
    env = {
        "POSTGRES_DSN": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap,
        "KAFKA_PRODUCER_IDEMPOTENCE": "true" if servers.kafka_idempotence else "false",
        "HTTP_HOST": HOST,
    }
    if name != "expiry":  # it has no users and no cache
        env |= {
            "REDIS_URL": servers.redis_url,
            "JWT_ALGORITHM": "RS256",
            "JWT_PUBLIC_KEY_FILE": str(keys.jwt_public),
            "JWT_ISSUER": JWT_ISSUER,
            "JWT_AUDIENCE": JWT_AUDIENCE,
        }
    if name == "order-api":
        env["OFFER_TOKEN_JWKS_FILE"] = str(keys.offer_jwks)
    if name == "dispatcher":
        env |= {
            "OFFER_TOKEN_PRIVATE_KEY_FILE": str(keys.offer_private),
            "OFFER_TOKEN_KEY_ID": keys.offer_key_id,
        }
    return env


@dataclass(frozen=True)
class ServicePorts:
    """A replica's ports; `ws` for the notifier alone."""

    http: int
    ws: int | None


def choose_ports(base: int, name: str, index: int, taken: frozenset[int]) -> ServicePorts:
    """The first replica has the port of the table, further ones the next free of the block.

    Raises StackError where the port is taken or the block is full.
    """
    if index == 0:
        wanted = [name, "notifier-ws"] if name == "notifier" else [name]
        check_free(base, wanted)
        ws = base + OFFSETS["notifier-ws"] if name == "notifier" else None
        return ServicePorts(base + OFFSETS[name], ws)
    free = [
        base + offset for offset in REPLICA_OFFSETS if base + offset not in taken and is_free(base + offset)
    ]
    needed = 2 if name == "notifier" else 1
    if len(free) < needed:
        raise StackError(f"no free port for another {name}: set WEELO_PORT_BASE to another base than {base}")
    return ServicePorts(free[0], free[1] if name == "notifier" else None)


class ServiceProcess(Child):
    """One replica of a service. Started again it keeps its ports and its environment."""

    def __init__(
        self,
        nursery: Nursery,
        name: str,
        index: int,
        ports: ServicePorts,
        env: Mapping[str, str],
        run_dir: Path,
    ) -> None:
        label = name if index == 0 else f"{name}-{index}"
        ports_env = {"HTTP_PORT": str(ports.http)}
        if ports.ws is not None:
            ports_env["WS_PORT"] = str(ports.ws)
        command = Command(
            name=label,
            argv=(sys.executable, "-m", MODULES[name]),
            log_path=run_dir / f"{label}.log",
            env={**env, **ports_env},
            cwd=run_dir,  # nothing of the project is importable by accident
            stop_timeout_s=STOP_TIMEOUT_S,
        )
        super().__init__(nursery, command)
        self.service = name
        self.ports = ports

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:18001`, without a slash at the end."""
        return f"http://{HOST}:{self.ports.http}"

    @property
    def ws_url(self) -> str:
        """`ws://127.0.0.1:18013/ws`. Raises StackError for a service without sockets."""
        if self.ports.ws is None:
            raise StackError(f"{self.name} has no WebSocket")
        return f"ws://{HOST}:{self.ports.ws}/ws"

    def ready(self) -> bool:
        """Whether `GET /health/ready` answers 200 now."""
        connection = http.client.HTTPConnection(HOST, self.ports.http, timeout=HEALTH_TIMEOUT_S)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once it is ready. Raises StackError with its last lines where it ends or time runs out."""
        self.wait_until(lambda: accepts(self.ports.http), timeout_s)
        self.wait_until(self.ready, timeout_s)

    def restart(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Stop it where it runs, start it again, wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_s)
