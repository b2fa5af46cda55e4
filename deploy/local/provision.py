"""Databases and roles on any PostgreSQL, from the same SQL that the container of docker-compose.yml runs.

Knows the query in deploy/postgres/sql and how to run what it returns; holds no SQL of its own but set_config.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from deploy.local.errors import StackError
from deploy.local.servers import run_async

SQL_FOLDER = Path(__file__).resolve().parents[1] / "postgres" / "sql"
SERVICES = ("order-api", "dispatcher", "notifier", "expiry")
LEDGER = "ledger"
TIMEOUT_S = 30.0  # CREATE DATABASE copies a template: some 50 ms each, more on a busy disk
# One provisioning at a time on a server: CREATE DATABASE fails while another copies the same template.
ADVISORY_LOCK = 0x7765656C6F  # "weelo"
SET_CONFIG = "SELECT set_config($1, $2, false)"
LOCK = "SELECT pg_advisory_lock($1)"


def new_passwords() -> dict[str, str]:
    """A fresh password for each role, by service name and `ledger`."""
    return {name: secrets.token_hex(16) for name in (*SERVICES, LEDGER)}


def database_name(service: str, prefix: str = "") -> str:
    """`order-api` → `weelo_order_api`; the role has the same name."""
    return f"{prefix}weelo_{service.replace('-', '_')}"


def service_dsns(admin_dsn: str, passwords: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """Each service's own DSN, by its name."""
    return {
        name: _dsn(admin_dsn, database_name(name, prefix), passwords[name], database_name(name, prefix))
        for name in SERVICES
    }


def ledger_dsns(admin_dsn: str, passwords: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """The read-only role's DSN of each service's database, by the service's name."""
    return {
        name: _dsn(admin_dsn, database_name(LEDGER, prefix), passwords[LEDGER], database_name(name, prefix))
        for name in SERVICES
    }


def provision(admin_dsn: str, passwords: Mapping[str, str], prefix: str = "") -> None:
    """Make the databases and roles; may run again. Raises StackError where the server refuses."""
    _run_file("provision.sql", admin_dsn, passwords, prefix)


def remove(admin_dsn: str, prefix: str) -> None:
    """Drop the databases and roles of `prefix` with all that is in them. Never without a prefix."""
    if not prefix:
        raise StackError("only databases with a prefix are removed")
    _run_file("remove.sql", admin_dsn, {}, prefix)


def _dsn(admin_dsn: str, role: str, password: str, database: str) -> str:
    admin = urlsplit(admin_dsn)
    host = admin.netloc.rpartition("@")[2]
    return urlunsplit(
        (admin.scheme, f"{quote(role)}:{quote(password)}@{host}", f"/{database}", admin.query, "")
    )


def _run_file(file_name: str, admin_dsn: str, passwords: Mapping[str, str], prefix: str) -> None:
    settings = {f"weelo.password_{name.replace('-', '_')}": password for name, password in passwords.items()}
    settings["weelo.prefix"] = prefix
    query = (SQL_FOLDER / file_name).read_text(encoding="utf-8").replace("\\gexec", "")
    try:
        run_async(_run_query(query, admin_dsn, settings), TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StackError(f"PostgreSQL refused {file_name}: {error}") from error


async def _run_query(query: str, admin_dsn: str, settings: Mapping[str, str]) -> None:
    connection = await asyncpg.connect(admin_dsn, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S)
    try:
        for name, value in settings.items():
            await connection.execute(SET_CONFIG, name, value)
        await connection.execute(LOCK, ADVISORY_LOCK)  # let go with the connection
        for row in await connection.fetch(query):
            await connection.execute(row["text"])
    finally:
        await connection.close(timeout=TIMEOUT_S)
