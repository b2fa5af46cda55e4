"""The one place where the notifier is put together; nothing happens at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from notifier import consumers, http, retention
from notifier.file_limit import raise_file_limit
from notifier.handlers import Handlers
from notifier.heartbeat import Heartbeat
from notifier.hub import Hub
from notifier.metrics import Metrics
from notifier.routing import Router
from notifier.settings import Settings
from notifier.socket_server import SocketServer, listen
from notifier.store import Appended
from weelo_common.auth import TokenVerifier
from weelo_common.clock import SystemClock
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.http import create_app
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, run
from weelo_common.postgres import Database
from weelo_common.redis_client import RedisClient
from weelo_common.sweep import Sweep, SweepJob

SERVICE = "notifier"
# Each statement has one good plan, by an index. To plan the append of some frames anew each time, as PostgreSQL would,
# costs nearly as much as to run it; and a plan that is kept may have been made while the tables were empty.
SESSION = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}


@dataclass(frozen=True)
class Notifier:
    """What tests and benchmarks ask of a notifier that runs."""

    sockets: SocketServer
    hub: Hub


async def build(settings: Settings, life: Lifecycle) -> None:
    """Put the service together and start it."""
    await assemble(settings, life)


async def assemble(settings: Settings, life: Lifecycle) -> Notifier:
    """Put the service together, start it, and return its parts."""
    verifier = TokenVerifier.from_settings(settings)
    raise_file_limit(settings.ws_max_sockets)
    listener = listen(settings.ws_host, settings.ws_port, send_buffer_bytes=settings.ws_send_buffer_bytes)
    clock = SystemClock()
    metrics = Metrics(life.registry)
    metrics.sockets_limit.set(settings.ws_max_sockets)
    kafka = KafkaClients(settings, client_id=SERVICE)
    database = await life.enter(Database.open(settings, application_name=SERVICE, session=SESSION))
    redis = await life.enter(RedisClient.open(settings))
    hub = Hub(
        database,
        metrics,
        clock,
        most_per_user=settings.ws_max_per_user,
        read_wait_s=settings.ws_read_wait_s,
    )
    router = Router(
        redis, metrics, namespace=settings.kafka_topic_prefix, push=hub.push, caught_up=hub.check_soon
    )

    def push(appended: Sequence[Appended]) -> None:
        metrics.appended.inc(len(appended))
        hub.push(appended)
        router.publish(appended)

    consumer = Consumer(
        group=SERVICE,
        handlers=consumers.handlers(Handlers(push)),
        database=database,
        kafka=kafka,
        settings=settings,
        metrics=ConsumerMetrics(life.registry),
    )
    sweep = Sweep(
        SERVICE,
        database,
        [
            SweepJob("agedFrames", retention.drop_aged_frames),
            SweepJob("surplusFrames", retention.drop_surplus_frames),
            SweepJob("oldFacts", retention.drop_old_facts),
        ],
        period_s=settings.sweep_period_s,
    )
    heartbeat = Heartbeat(settings, clock)
    sockets = SocketServer(
        listener,
        hub=hub,
        heartbeat=heartbeat,
        verifier=verifier,
        settings=settings,
        metrics=metrics,
        clock=clock,
    )

    life.health.check("postgres", lambda: database.trouble)
    life.health.check("token keys", lambda: verifier.trouble)
    life.health.check("kafka", consumer.trouble)
    life.health.check("redis", lambda: router.trouble, gates_ready=False)

    # The sockets are started last, so they go first: while they are asked to leave, HTTP still says "not ready" and
    # what is consumed is still pushed.
    life.spawn("postgres watch", database.watch)
    life.spawn("token keys", verifier.run)
    life.spawn("sweep", sweep.run)
    life.spawn("publisher", router.run_publisher)
    life.spawn("consumer", consumer.run)
    life.spawn("subscriber", router.run_subscriber)
    life.spawn("heartbeat", heartbeat.run)
    life.spawn("heads check", lambda stop: hub.run(stop, settings.heads_check_s))
    app = create_app(
        SERVICE,
        routers=[http.router(database)],
        verifier=verifier,
        health=life.health,
        registry=life.registry,
        request_deadline_s=settings.http_request_deadline_s,
    )
    life.serve_http(app, settings.http_host, settings.http_port)
    life.spawn("sockets", sockets.run)
    return Notifier(sockets, hub)


def main() -> None:
    """``python -m notifier`` serves, ``python -m notifier migrate`` migrates."""
    run(SERVICE, Settings, build, migrations=["weelo_common", "notifier"])
