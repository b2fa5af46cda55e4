"""The one place where expiry is put together. Nothing happens at import."""

from __future__ import annotations

import time

from expiry.consumers import at_once, handlers
from expiry.domain import TOMBSTONE_S
from expiry.firing import Firer
from expiry.handlers import Handlers
from expiry.keeper import Keeper
from expiry.metrics import ExpiryMetrics
from expiry.publisher import Publisher
from expiry.settings import Settings
from expiry.store import TimerStore
from expiry.work import Work
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.events.topics import EXPIRY, TIMERS_COMMANDS
from weelo_common.http import create_app
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, run
from weelo_common.postgres import Connection, Database
from weelo_common.sweep import Sweep, SweepJob

TOMBSTONE_BATCH = 2000  # rows of one delete: some tens of ms


async def build(settings: Settings, life: Lifecycle) -> None:
    """Start expiry: commands in, timers out, tombstones swept. It has no users, so HTTP serves health alone."""
    database = await life.enter(Database.open(settings, application_name=EXPIRY))
    kafka = KafkaClients(settings, client_id=f"weelo-{EXPIRY}")
    metrics = ExpiryMetrics(life.registry)
    store = TimerStore()
    work = Work(max_timers=settings.hold_max_timers, monotonic=time.monotonic)
    keeper = Keeper(work=work, database=database, store=store, metrics=metrics, settings=settings)
    firer = Firer(
        work=work,
        database=database,
        store=store,
        publisher=Publisher(kafka),
        metrics=metrics,
        settings=settings,
    )
    commands = Handlers(store=store, note=work.note, metrics=metrics)

    def on_assignment(owned: frozenset[tuple[str, int]]) -> None:
        keeper.own([partition for topic, partition in owned if topic == TIMERS_COMMANDS.name])

    consumer = Consumer(
        group=EXPIRY,
        handlers=handlers(commands),
        at_once=at_once(commands),
        database=database,
        kafka=kafka,
        settings=settings,
        metrics=ConsumerMetrics(life.registry),
        on_assignment=on_assignment,
    )

    async def drop_tombstones(conn: Connection) -> int:
        return await store.drop_tombstones(conn, older_than_s=TOMBSTONE_S, limit=TOMBSTONE_BATCH)

    sweep = Sweep(
        EXPIRY, database, [SweepJob("timerTombstones", drop_tombstones)], period_s=settings.sweep_period_s
    )
    life.health.check("postgres", lambda: database.trouble)
    life.health.check("kafka", consumer.trouble)
    life.health.check("firing", lambda: firer.trouble)

    life.spawn("postgres-watch", database.watch)
    life.spawn("sweep", sweep.run)
    # The consumer stops first and leaves its group, so that the next owner of its partitions loses no time;
    # the firer finishes what it claimed.
    life.spawn("firing", firer.run)
    life.spawn("keeper", keeper.run)
    life.spawn("consumer", consumer.run)
    app = create_app(
        EXPIRY,
        routers=(),
        health=life.health,
        registry=life.registry,
        request_deadline_s=settings.http_request_deadline_s,
    )
    life.serve_http(app, settings.http_host, settings.http_port)


def main() -> None:
    """The command ``weelo-expiry``."""
    run(EXPIRY, Settings, build, migrations=("weelo_common", "expiry"))
