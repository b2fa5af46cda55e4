"""Where order-api is put together. Nothing happens at import."""

from __future__ import annotations

from datetime import timedelta

from order_api.consumers import at_once, handlers
from order_api.create_path import CreatePath
from order_api.event_handlers import EventHandlers, concerns_order_api
from order_api.gate import Gate
from order_api.handlers import Orders
from order_api.http import answer_refusals, order_routes, truck_request_routes
from order_api.intake import Intake
from order_api.intake_store import delete_old_answers
from order_api.metrics import OrderMetrics
from order_api.queries import Queries
from order_api.settings import Settings
from weelo_common.auth import TokenVerifier
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.events.topics import ORDER_API
from weelo_common.http import create_app
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, run
from weelo_common.offer_tokens import OfferTokenVerifier
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database
from weelo_common.redis_client import RedisClient
from weelo_common.relay import Relay
from weelo_common.relay_metrics import RelayMetrics
from weelo_common.settings import secret_text
from weelo_common.sweep import Sweep, SweepJob

SWEEP_BATCH_ROWS = 1000  # kept answers deleted in one transaction
# Each statement here has one good plan, whatever its values are: to plan the insert of a small group anew each time, as
# PostgreSQL would, costs more than to run it.
SESSION = {"plan_cache_mode": "force_generic_plan"}


async def build(settings: Settings, life: Lifecycle) -> None:
    """Make the service's parts and start its loops."""
    verifier = TokenVerifier.from_settings(settings)
    offer_tokens = OfferTokenVerifier(
        secret_text(settings.offer_token_jwks, settings.offer_token_jwks_file, "OFFER_TOKEN_JWKS")
    )
    database = await life.enter(Database.open(settings, application_name=ORDER_API, session=SESSION))
    redis = await life.enter(RedisClient.open(settings))
    kafka = KafkaClients(settings, client_id=ORDER_API)
    metrics = OrderMetrics(life.registry)

    outbox = Outbox(ORDER_API)
    gate = Gate(
        redis,
        lock_ms=settings.lock_ms,
        replay_s=settings.replay_cache_s,
        creates_per_minute=settings.creates_per_minute,
    )
    intake = Intake(database, outbox, gate, metrics, lifetime=timedelta(seconds=settings.order_lifetime_s))
    orders = Orders(database, outbox, offer_tokens, metrics)
    queries = Queries(database, orders)

    events = EventHandlers(outbox, metrics)
    consumer = Consumer(
        group=ORDER_API,
        handlers=handlers(events),
        at_once=at_once(events),
        database=database,
        kafka=kafka,
        settings=settings,
        metrics=ConsumerMetrics(life.registry),
        relevant=concerns_order_api,
    )
    relay_database = await life.enter(Relay.database(settings, ORDER_API))
    database.watch_also(relay_database)
    relay = Relay(relay_database, kafka, settings, RelayMetrics(life.registry))
    database.on_commit(relay.wake)

    async def drop_old_answers(connection: Connection) -> int:
        return await delete_old_answers(
            connection, keep_h=settings.idempotency_keep_h, limit=SWEEP_BATCH_ROWS
        )

    sweep = Sweep(
        ORDER_API,
        database,
        [
            SweepJob("overdueOrders", orders.end_overdue_batch),
            SweepJob("idempotencyRecords", drop_old_answers),
        ],
        period_s=settings.sweep_period_s,
    )

    # Kafka and Redis do not gate readiness: without them orders are still taken.
    life.health.check("postgres", lambda: database.trouble)
    life.health.check("token keys", lambda: verifier.trouble)
    life.health.check("kafka", consumer.trouble, gates_ready=False)
    life.health.check(
        "redis", lambda: None if redis.available else "spared after failures", gates_ready=False
    )

    app = create_app(
        ORDER_API,
        routers=[order_routes(intake, orders, queries), truck_request_routes(orders, queries)],
        verifier=verifier,
        health=life.health,
        registry=life.registry,
        request_deadline_s=settings.http_request_deadline_s,
    )
    answer_refusals(app)

    life.spawn("database watch", database.watch)
    life.spawn("token keys", verifier.run)
    life.spawn("relay", relay.run)
    life.spawn("sweep", sweep.run)
    life.spawn("consumer", consumer.run)
    door = CreatePath(app, intake, verifier, app.state.request_rules)
    life.serve_http(door, settings.http_host, settings.http_port)


def main() -> None:
    """``order-api`` serves, ``order-api migrate`` migrates."""
    run(ORDER_API, Settings, build, migrations=["weelo_common", "order_api"])
