"""Waits for quiet, reads everything, and judges.

Quiet: no group lags, no outbox holds a row, no order is overdue, and Kafka's ends did not move meanwhile. What still
moves then (an order that is searching within its time) is read again until a whole reading saw no movement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import asyncpg

from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.conventions import BadInput
from weelo_cli.ledger import statements
from weelo_cli.ledger.counters import read_counters
from weelo_cli.ledger.facts import Facts
from weelo_cli.ledger.report import LedgerReport
from weelo_cli.ledger.tables import Tables
from weelo_cli.ledger.topics import Topics
from weelo_common.kafka import KafkaClients, KafkaUnavailable

QUIET_DEADLINE_S = 60.0  # half a sweep: what hangs for longer is worth a look
READ_DEADLINE_S = 60.0
LOOK_PERIOD_S = 0.25


class LedgerError(Exception):
    """The ledger cannot be read at all; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """What to judge; ``answered_201`` holds the order ids that clients were given."""

    surroundings: Surroundings
    answered_201: frozenset[str] = field(default_factory=frozenset)
    quiet_deadline_s: float = QUIET_DEADLINE_S

    @classmethod
    def from_env(cls, env: Mapping[str, str], answered_201: Iterable[str] = ()) -> LedgerConfig:
        """From ``POSTGRES_LEDGER_DSN_*``, ``WEELO_*_URL`` (several by comma: every replica), and the settings of Kafka
        and of PostgreSQL's TLS.

        Raises:
            LedgerError: one that is needed is missing or wrong.
        """
        surroundings = Surroundings(env)
        try:
            surroundings.check_databases()
            surroundings.kafka_settings()
        except BadInput as error:
            raise LedgerError(str(error)) from None
        return cls(surroundings, frozenset(answered_201))


async def verify(config: LedgerConfig) -> LedgerReport:
    """Judge every statement, once all is quiet or the deadline for that has passed.

    Raises:
        LedgerError: PostgreSQL or Kafka cannot be read.
    """
    tables = Tables(config.surroundings)
    kafka = KafkaClients(config.surroundings.kafka_settings(), client_id="weelo-ledger")
    give_up_at = time.monotonic() + config.quiet_deadline_s
    try:
        async with Topics(kafka) as topics:
            while True:
                await _wait_for_quiet(tables, topics, give_up_at)
                facts, moved = await _read(config, tables, topics)
                report = statements.judge(facts)
                # What moved under our eyes proves nothing, either way round.
                if (report.ok and not moved) or time.monotonic() > give_up_at:
                    return report
                if not moved and not any(facts.lag.values()) and not any(facts.waiting.values()):
                    return report
                await asyncio.sleep(LOOK_PERIOD_S)
    except BadInput as error:
        raise LedgerError(str(error)) from None
    except KafkaUnavailable as error:
        raise LedgerError(f"Kafka: {error}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise LedgerError(f"PostgreSQL: {type(error).__name__}: {error}") from error


async def _wait_for_quiet(tables: Tables, topics: Topics, give_up_at: float) -> None:
    while time.monotonic() < give_up_at:
        ends = await topics.ends()
        # In this order: a group without lag has written all its effects, so an empty outbox after that is the end.
        if (
            not any((await topics.lag(ends)).values())
            and not any((await tables.waiting()).values())
            and not await tables.overdue_orders()
            and await topics.ends() == ends
        ):
            return
        await asyncio.sleep(LOOK_PERIOD_S)


async def _read(config: LedgerConfig, tables: Tables, topics: Topics) -> tuple[Facts, bool]:
    """All facts, and whether anything was published while they were read."""
    ends = await topics.ends()
    events, malformed = await topics.order_events(ends, READ_DEADLINE_S)
    orders = await tables.order_tables()
    dispatcher_orders = await tables.dispatcher_orders()
    streams = await tables.streams()
    consumers, silent = await read_counters(
        {service: config.surroundings.urls(service) for service in SERVICES}
    )
    waiting, lag = await tables.waiting(), await topics.lag(ends)
    facts = Facts(
        answered_201=config.answered_201,
        orders=orders.orders,
        trucks=orders.trucks,
        answers=orders.answers,
        dispatcher_orders=dispatcher_orders,
        events=events,
        streams=streams,
        waiting=waiting,
        lag=lag,
        consumers=consumers,
        unreadable={
            statements.versions_of_each_order_run_1_2_3.__name__: malformed,
            statements.consumed_adds_up_for_every_consumer.__name__: silent,
        },
    )
    return facts, await topics.ends() != ends or any(waiting.values())
