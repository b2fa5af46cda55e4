"""What the environment says about the local stack: folders, ports, which broker, which servers are given.

Read once, into one value. Knows names and limits, starts nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from deploy.local.errors import StackError
from deploy.local.ports import BLOCK

KafkaKind = Literal["apache", "tansu"]

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_RUN_DIR = ".run/local"
DEFAULT_CACHE_DIR = ".run/cache"
DEFAULT_PORT_BASE = 18_000
LOWEST_PORT_BASE = 1_024  # below are the ports of root
HIGHEST_PORT_BASE = 65_535 - BLOCK
YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class StackSettings:
    """Paths are absolute. `port_base` None: a free block is looked for. A `given_…` server is used, not started."""

    run_dir: Path
    cache_dir: Path
    port_base: int | None
    kafka: KafkaKind | None  # None: Apache Kafka where the machine can, else Tansu
    given_kafka: str | None
    given_postgres: str | None  # an admin's DSN
    given_redis: str | None
    given_kafka_idempotence: bool
    postgres_fsync: bool
    docker: bool  # the three servers come from testcontainers


def read_settings(env: Mapping[str, str]) -> StackSettings:
    """Raises StackError that names the setting which is wrong."""
    kafka = env.get("KAFKA") or None
    if kafka not in (None, "apache", "tansu"):
        raise StackError(f"KAFKA is {kafka!r}: it must be `apache` or `tansu`")
    stack = env.get("TEST_STACK") or "local"
    if stack not in ("local", "docker"):
        raise StackError(f"TEST_STACK is {stack!r}: it must be `local` or `docker`")
    return StackSettings(
        run_dir=_folder(env, "WEELO_RUN_DIR", DEFAULT_RUN_DIR),
        cache_dir=_folder(env, "WEELO_CACHE_DIR", DEFAULT_CACHE_DIR),
        port_base=_port_base(env),
        kafka=cast("KafkaKind | None", kafka),
        given_kafka=env.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        given_postgres=env.get("POSTGRES_DSN") or None,
        given_redis=env.get("REDIS_URL") or None,
        given_kafka_idempotence=_switch(env, "KAFKA_PRODUCER_IDEMPOTENCE", default=True),
        postgres_fsync=_switch(env, "WEELO_PG_FSYNC", default=True),
        docker=stack == "docker",
    )


def _folder(env: Mapping[str, str], name: str, default: str) -> Path:
    """A relative folder lies in the project, wherever the command was typed."""
    folder = (PROJECT / (env.get(name) or default)).resolve()
    if "," in str(folder) or ":" in str(folder):
        # Kafka's log.dirs and Java's class path would take it for two folders.
        raise StackError(f"{name} is {folder}: a folder whose path holds `,` or `:` does not work")
    return folder


def _port_base(env: Mapping[str, str]) -> int | None:
    text = env.get("WEELO_PORT_BASE") or str(DEFAULT_PORT_BASE)
    if text == "free":
        return None
    if not text.isascii() or not text.isdigit() or not LOWEST_PORT_BASE <= int(text) <= HIGHEST_PORT_BASE:
        raise StackError(
            f"WEELO_PORT_BASE is {text!r}: it must be `free` or a number from {LOWEST_PORT_BASE} to {HIGHEST_PORT_BASE}"
        )
    return int(text)


def _switch(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = (env.get(name) or ("on" if default else "off")).lower()
    if text in YES:
        return True
    if text in NO:
        return False
    raise StackError(f"{name} is {text!r}: it must be `on` or `off`")
