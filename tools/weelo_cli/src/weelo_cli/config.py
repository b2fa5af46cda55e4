"""``weelo config check``: whether a service would start with an environment, and whether the system can be reached.

A service names its settings class by an entry point in the group ``weelo.settings``; values of settings are never
printed where they are secret, nor where they are wrong.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, get_args

import asyncpg
import httpx
import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from weelo_cli.connections import SERVICES, Surroundings, known_service
from weelo_cli.conventions import EXIT_NOT_WELL, Answer, BadInput, Json, run
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.topics import differences, look, wanted_topics

GROUP = "weelo.settings"
DEADLINE_S = 5.0
SECRET = "(set, not shown)"  # noqa: S105 - what stands in a secret's place
LINE = re.compile(r"^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z")
COUNT_MIGRATIONS = "SELECT count(*) FROM schema_migration"

app = typer.Typer(help="Settings, before they hurt.", no_args_is_help=True)
ServiceArgument = Annotated[
    str | None,
    typer.Argument(metavar="SERVICE", help=f"One of {', '.join(SERVICES)}; without it: what can be reached."),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", help="NAME=value lines to check instead of the environment, as docker takes them."
    ),
]


@app.callback()
def _group() -> None:
    """Keeps ``weelo config check`` although there is one command."""


@app.command()
def check(service: ServiceArgument = None, env_file: EnvFile = None, as_json: Json = False) -> None:
    """With SERVICE: every setting it would start with, or everything that is wrong with them. Starts nothing.

    Without: whether PostgreSQL, Kafka with its topics, Redis and the services answer where the environment says.
    Exits 1 where something is wrong. Reads only.

    Example: weelo config check order-api --env-file order-api.env
    """
    run(_settings(service, env_file) if service else _reach(env_file), as_json)


async def _settings(service: str, env_file: Path | None) -> Answer:
    settings_class = _settings_class(known_service(service))
    env = dict(os.environ) if env_file is None else read_env_file(env_file)
    with _only(env):
        try:
            settings = settings_class()
        except ValidationError as error:
            problems = [_problem(one) for one in error.errors(include_input=False, include_url=False)]
            return Answer({"ok": False, "problems": problems}, problems, EXIT_NOT_WELL)
    rows = [
        {
            "name": name.upper(),
            "value": _shown(field, getattr(settings, name)),
            "isDefault": name not in settings.model_fields_set,
        }
        for name, field in sorted(settings_class.model_fields.items())
    ]
    lines = [f"{row['name']}={row['value']}{'' if row['isDefault'] else '   (set)'}" for row in rows]
    return Answer({"ok": True, "settings": rows}, [*lines, f"{service} would start with these"])


async def _reach(env_file: Path | None) -> Answer:
    surroundings = Surroundings.found() if env_file is None else Surroundings(read_env_file(env_file))
    rows: list[dict[str, Any]] = []

    def note(what: str, trouble: str | None, found: str = "answers") -> None:
        rows.append({"what": what, "ok": trouble is None, "found": trouble or found})

    for service in SERVICES:
        try:
            async with surroundings.reading(service) as connection:
                count = await connection.fetchval(COUNT_MIGRATIONS)
            note(f"PostgreSQL of {service}", None, f"answers; {count} migrations applied")
        except (BadInput, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            note(f"PostgreSQL of {service}", f"{type(error).__name__}: {error}")
    try:
        note("Kafka", *await _topics(surroundings.kafka()))
    except (BadInput, KafkaUnavailable) as error:
        note("Kafka", str(error))
    if url := surroundings.env.get("REDIS_URL"):
        note("Redis", await _redis_trouble(url))
    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        for service in SERVICES:
            for address in surroundings.urls(service):
                note(f"{service} at {address}", await _not_ready(client, address), "ready")
    well = all(row["ok"] for row in rows)
    lines = [f"{'ok  ' if row['ok'] else 'FAIL'} {row['what']}: {row['found']}" for row in rows]
    return Answer({"ok": well, "checks": rows}, lines, 0 if well else EXIT_NOT_WELL)


async def _topics(kafka: KafkaClients) -> tuple[str | None, str]:
    wanted = wanted_topics(kafka)
    found = differences(wanted, (await look(kafka)).topics)
    trouble = f"answers, but {len(found)} things differ: {found[0]} … (weelo topics check)" if found else None
    return trouble, f"answers; {len(wanted)} topics are as declared"


async def _redis_trouble(url: str) -> str | None:
    try:
        async with Redis.from_url(url, socket_timeout=DEADLINE_S, socket_connect_timeout=DEADLINE_S) as redis:
            await redis.ping()
    except (RedisError, OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    except ValueError as error:  # it may quote the URL, and with it the password
        return f"REDIS_URL is no URL of Redis ({type(error).__name__})"
    return None


async def _not_ready(client: httpx.AsyncClient, address: str) -> str | None:
    try:
        answer = await client.get(f"{address}/health/ready")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"no answer ({type(error).__name__})"
    return None if answer.status_code == httpx.codes.OK else f"not ready ({answer.status_code})"


def _settings_class(service: str) -> type[BaseSettings]:
    for found in entry_points(group=GROUP):
        if found.name == service:
            loaded: type[BaseSettings] = found.load()
            return loaded
    raise BadInput(f"{service} is not installed here: its package names its settings in the group {GROUP}")


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file of ``NAME=value`` lines; comments and empty lines pass, quotes around a value go.

    Raises:
        BadInput: it cannot be read, or a line is none; the line's number is named and nothing of it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {type(error).__name__}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (match := LINE.match(line.strip())) is None:
            raise BadInput(f"{path} line {number} is not NAME=value")
        value = match[2].strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[match[1]] = value
    return found


@contextlib.contextmanager
def _only(env: Mapping[str, str]) -> Iterator[None]:
    """This environment and no other, for settings classes read the process's own."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _problem(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    return f"{name + ': ' if name else ''}{error['msg'].removeprefix('Value error, ')}"


def _shown(field: FieldInfo, value: object) -> object:
    if value is None:
        return None
    secret = isinstance(value, SecretStr) or SecretStr in get_args(field.annotation)
    return SECRET if secret else str(value) if isinstance(value, Path) else value
