"""Migrations: numbered SQL files, each applied once in its own transaction, under one lock.

Files of ``weelo_common`` come first, then the service's. An applied file must never change: its checksum is
compared. Nothing here undoes a migration; a change that needs undoing gets a new file (expand, then contract).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from weelo_common.postgres import Connection

log = logging.getLogger(__name__)

_NAME = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
_LOCK_KEY = 7_238_401_559  # any constant, the same in all processes that migrate

CREATE_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migration (
    name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())
"""
SELECT_APPLIED = "SELECT name, checksum FROM schema_migration"
INSERT_APPLIED = "INSERT INTO schema_migration (name, checksum) VALUES ($1, $2)"
LOCK = "SELECT pg_advisory_xact_lock($1)"
NO_TIMEOUTS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"  # an index may take minutes


class MigrationChanged(Exception):
    """A file that was applied reads differently now."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: ``<package>/<file name>`` and its SQL."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations_of(package: str) -> list[Migration]:
    """The migrations that a package carries in its folder ``migrations``, in order."""
    folder: Traversable = files(package) / "migrations"
    found = [entry for entry in folder.iterdir() if _NAME.match(entry.name)]
    return [
        Migration(f"{package}/{entry.name}", entry.read_text(encoding="utf-8"))
        for entry in sorted(found, key=lambda entry: entry.name)
    ]


async def migrate(connection: Connection, packages: Sequence[str]) -> list[str]:
    """Apply what is missing and return its names.

    Raises:
        MigrationChanged: an applied file was edited.
    """
    wanted = [migration for package in packages for migration in migrations_of(package)]
    applied_now: list[str] = []
    for migration in wanted:
        async with connection.transaction():
            await connection.execute(NO_TIMEOUTS)
            await connection.execute(LOCK, _LOCK_KEY)
            await connection.execute(CREATE_LEDGER)
            applied = {row["name"]: row["checksum"] for row in await connection.fetch(SELECT_APPLIED)}
            known = applied.get(migration.name)
            if known == migration.checksum:
                continue
            if known is not None:
                raise MigrationChanged(
                    f"{migration.name} was applied with other text; add a new file instead"
                )
            await connection.execute(migration.sql)
            await connection.execute(INSERT_APPLIED, migration.name, migration.checksum)
        log.info("Migration applied", extra={"migration": migration.name})
        applied_now.append(migration.name)
    return applied_now
