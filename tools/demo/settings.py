"""What the demo is told: by its arguments how long and how large, by the environment where the stack is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.demo.phone import Addresses


class DemoError(Exception):
    """Why the demo cannot run, in one line."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the evening is. `seconds` after its beginning no more customers come in; what goes on then ends."""

    seconds: float
    captains: int
    customers: int
    orders_per_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The stack that the demo runs on."""

    addresses: Addresses
    keys_dir: Path
    kafka_name: str
    postgres_name: str
    redis_name: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Surroundings:
        """As `python -m deploy.local run` passes it to a command.

        Raises:
            DemoError: something is missing; the line names it.
        """

        def wanted(name: str) -> str:
            value = environment.get(name)
            if not value:
                raise DemoError(f"{name} is not set: run the demo by make demo, or on the stack of make up")
            return value

        names = _server_names(Path(wanted("WEELO_STACK_FILE")))
        gateway = environment.get("WEELO_GATEWAY_URL")  # where there is one, the phones come through it
        return cls(
            addresses=Addresses(
                order_api=(gateway or wanted("WEELO_ORDER_API_URL")).rstrip("/"),
                dispatcher=(gateway or wanted("WEELO_DISPATCHER_URL")).rstrip("/"),
                notifier=(gateway or wanted("WEELO_NOTIFIER_URL")).rstrip("/"),
                socket=wanted("WEELO_WS_URL"),
            ),
            keys_dir=Path(wanted("WEELO_KEYS_DIR")),
            kafka_name=names["kafka_name"],
            postgres_name=names["postgres_name"],
            redis_name=names["redis_name"],
        )


def _server_names(stack_file: Path) -> dict[str, str]:
    try:
        servers = json.loads(stack_file.read_text())["servers"]
        return {name: str(servers[name]) for name in ("kafka_name", "postgres_name", "redis_name")}
    except (OSError, ValueError, KeyError) as error:
        raise DemoError(f"{stack_file} does not tell the servers: {type(error).__name__}") from error
