"""A database whose clock is wrong, to show whose clock decides: PostgreSQL's, never the process's.

A function of our own stands before PostgreSQL's `clock_timestamp()` in the search path of the connections that ask
for it; all other connections of the same database keep the true clock.
"""

from __future__ import annotations

from datetime import timedelta

import asyncpg

CREATE_CLOCK = """
CREATE SCHEMA IF NOT EXISTS wrong_clock;
CREATE OR REPLACE FUNCTION wrong_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$SELECT pg_catalog.clock_timestamp() + interval '{seconds} seconds'$$;
"""


async def with_wrong_clock(dsn: str, ahead: timedelta) -> str:
    """A DSN of the same database in which the clock is ahead by so much (behind, where negative)."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(CREATE_CLOCK.format(seconds=ahead.total_seconds()))
    finally:
        await connection.close()
    return f"{dsn}{'&' if '?' in dsn else '?'}search_path=wrong_clock,pg_catalog,public"
