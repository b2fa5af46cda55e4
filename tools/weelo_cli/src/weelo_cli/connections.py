"""Where the commands find the system: from the environment, or else from the local stack that ``make up`` left running.

What only reads uses the read-only role (``POSTGRES_LEDGER_DSN_*``) and a transaction that cannot write. What changes a
service's rows uses that service's own role (``POSTGRES_DSN_*``), which nothing else here asks for.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast, get_args

import asyncpg
import typer
from pydantic import ValidationError

from weelo_cli.conventions import BadInput
from weelo_common.events.topics import DISPATCHER, EXPIRY, NOTIFIER, ORDER_API
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import tls_option
from weelo_common.settings import KafkaSettings, PostgresTls

SERVICES = (ORDER_API, DISPATCHER, NOTIFIER, EXPIRY)
DEFAULT_RUN_DIR = ".run/local"  # where `make up` records its stack, unless WEELO_RUN_DIR says otherwise
CONNECT_DEADLINE_S = 5.0
STATEMENT_DEADLINE_S = 30.0
TLS_FILES = ("KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE")
DSN_SCHEMES = ("postgresql://", "postgres://")
# Any of these says that a system is meant, and which: then nothing is taken from a local stack beside it.
TELLING_PREFIXES = ("KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DSN", "POSTGRES_LEDGER_DSN_", "WEELO_ORDER_API_URL")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The system that a command is about."""

    env: Mapping[str, str]
    local_stack: Path | None = None
    """The record that the addresses come from, where the environment names none."""

    @classmethod
    def found(cls) -> Surroundings:
        """From the process's environment; says on stderr where it is a local stack instead.

        Raises:
            BadInput: the local stack's record cannot be read.
        """
        surroundings = cls.of_environment()
        if surroundings.local_stack is not None:
            typer.echo(f"weelo: on the local stack of {surroundings.local_stack.parent}", err=True)
        return surroundings

    @classmethod
    def of_environment(cls) -> Surroundings:
        """As ``found``, and says nothing: for a command whose stderr is read along."""
        return cls.of(os.environ)

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Surroundings:
        """From an environment, whole, or whole from the local stack's record: never from both.

        Raises:
            BadInput: the record cannot be read.
        """
        path = Path(
            env.get("WEELO_STACK_FILE") or Path(env.get("WEELO_RUN_DIR") or DEFAULT_RUN_DIR) / "stack.json"
        )
        if any(env[name] and name.startswith(TELLING_PREFIXES) for name in env) or not path.exists():
            return cls(dict(env))
        try:
            recorded: dict[str, str] = json.loads(path.read_text())["env"]
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"cannot read {path}: {type(error).__name__}") from None
        return cls({**env, **recorded}, path)

    def kafka_settings(self) -> KafkaSettings:
        """The ``KAFKA_*`` settings, as the services have them.

        Raises:
            BadInput: one is missing or wrong; its value is never printed.
        """
        values = {
            name.lower(): value
            for name, value in self.env.items()
            if value and name.isupper() and name.lower() in KafkaSettings.model_fields
        }
        try:
            settings = KafkaSettings(**values)  # type: ignore[arg-type]  # pydantic reads text
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(str(part) for part in problem["loc"]).upper()
            raise BadInput(f"bad setting: {name}: {problem['msg'].removeprefix('Value error, ')}") from None
        for name in TLS_FILES:
            path: Path | None = getattr(settings, name.lower())
            if path is not None and not path.is_file():
                raise BadInput(f"bad setting: {name}: there is no such file")
        return settings

    def kafka(self) -> KafkaClients:
        """Clients for the brokers.

        Raises:
            BadInput: as ``kafka_settings``.
        """
        return KafkaClients(self.kafka_settings(), client_id="weelo-cli")

    def postgres_tls(self) -> ssl.SSLContext | bool | None:
        """``POSTGRES_TLS`` and ``POSTGRES_TLS_CA_FILE``, as the services have them; None follows the DSN.

        Raises:
            BadInput: one is wrong.
        """
        mode = self.env.get("POSTGRES_TLS") or "from-dsn"
        if mode not in get_args(PostgresTls):
            raise BadInput(f"bad setting: POSTGRES_TLS: must be one of {', '.join(get_args(PostgresTls))}")
        ca_file = self.env.get("POSTGRES_TLS_CA_FILE")
        try:
            return tls_option(cast(PostgresTls, mode), Path(ca_file) if ca_file else None)
        except OSError as error:
            raise BadInput(f"bad setting: POSTGRES_TLS_CA_FILE: {type(error).__name__}") from None

    def urls(self, service: str) -> list[str]:
        """Where the replicas of a service answer HTTP, as far as the environment says; several by comma."""
        return [
            url.rstrip("/") for url in self.env.get(f"WEELO_{_suffix(service)}_URL", "").split(",") if url
        ]

    def check_databases(self) -> None:
        """Whether all is set that reading every service's database takes; asks none of them.

        Raises:
            BadInput: something is missing or wrong.
        """
        for service in SERVICES:
            self._dsn(f"POSTGRES_LEDGER_DSN_{_suffix(service)}")
        self.postgres_tls()

    @contextlib.asynccontextmanager
    async def reading(
        self, service: str, *, deadline_s: float = STATEMENT_DEADLINE_S
    ) -> AsyncIterator[Connection]:
        """One moment of a service's database, with the read-only role; ``deadline_s`` for each statement.

        Raises:
            BadInput: its DSN is not set.
            asyncpg.PostgresError, OSError, TimeoutError: PostgreSQL does not answer.
        """
        async with (
            self._connected(f"POSTGRES_LEDGER_DSN_{_suffix(service)}", deadline_s) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @contextlib.asynccontextmanager
    async def changing(self, service: str) -> AsyncIterator[Connection]:
        """One transaction in a service's database, with that service's own role; only ever behind ``--yes``.

        Raises:
            BadInput: its DSN is not set.
            asyncpg.PostgresError, OSError, TimeoutError: PostgreSQL does not answer.
        """
        async with (
            self._connected(f"POSTGRES_DSN_{_suffix(service)}", STATEMENT_DEADLINE_S) as connection,
            connection.transaction(),
        ):
            yield connection

    @contextlib.asynccontextmanager
    async def _connected(self, name: str, deadline_s: float) -> AsyncIterator[Connection]:
        dsn = self._dsn(name)
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=CONNECT_DEADLINE_S,
                command_timeout=deadline_s,
                ssl=self.postgres_tls(),
                server_settings={"application_name": "weelo-cli"},
            )
        except ssl.SSLError:
            raise  # a certificate that is not trusted is a ValueError, too
        except ValueError as error:  # asyncpg's word for a DSN that is none; it may hold the password
            raise BadInput(f"{name} is no PostgreSQL DSN ({type(error).__name__})") from None
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_DEADLINE_S)

    def _dsn(self, name: str) -> str:
        dsn = self.env.get(name)
        if not dsn:
            raise BadInput(
                f"{name} is not set: name the system in the environment, or start a local one (make up)"
            )
        if not dsn.startswith(DSN_SCHEMES):
            raise BadInput(f"{name} is no PostgreSQL DSN: it must begin with {' or '.join(DSN_SCHEMES)}")
        return dsn


def known_service(name: str) -> str:
    """The name, where it is a service's.

    Raises:
        BadInput: it is not.
    """
    if name not in SERVICES:
        raise BadInput(f"no service {name[:64]!r}: there are {', '.join(SERVICES)}")
    return name


def _suffix(service: str) -> str:
    return service.replace("-", "_").upper()
