"""The one place where the dispatcher is put together; nothing happens at import."""

from __future__ import annotations

import asyncio
from functools import partial

from dispatcher.consumers import handlers, is_relevant
from dispatcher.follower import Follower
from dispatcher.handlers.dispatch import Dispatch
from dispatcher.handlers.fleet import Fleet
from dispatcher.handlers.matching import Matcher
from dispatcher.handlers.offers import Offers
from dispatcher.handlers.order_events import OrderEvents
from dispatcher.handlers.views import Views
from dispatcher.http.dispatch import dispatch_router
from dispatcher.http.fleet import fleet_router
from dispatcher.live_fleet import LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.position_sender import PositionSender
from dispatcher.settings import Settings
from dispatcher.store import orders as order_store
from dispatcher.store import rounds as round_store
from dispatcher.transporter_cache import TransporterCache
from weelo_common.auth import TokenVerifier
from weelo_common.clock import SystemClock
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.events.topics import DISPATCHER
from weelo_common.http import create_app
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, run
from weelo_common.offer_tokens import OfferTokenSigner
from weelo_common.outbox import Outbox
from weelo_common.postgres import Database
from weelo_common.redis_client import RedisClient
from weelo_common.relay import Relay
from weelo_common.relay_metrics import RelayMetrics
from weelo_common.settings import secret_text
from weelo_common.sweep import Sweep, SweepJob

SWEEP_ROWS = 500  # a batch of the sweep
# Each statement has one good plan, by an index. To plan anew for each list of captains, as PostgreSQL would, costs more
# than to ask for them; and a plan that is kept may have been made while the tables were empty.
SESSION = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}


async def build(settings: Settings, life: Lifecycle) -> None:
    """Put the service together and start its loops, in the order in which they need one another.

    Raises:
        ValueError: a key does not read; the text names the setting.
        OSError: the port is taken.
    """
    verifier = TokenVerifier.from_settings(settings)
    private_key = secret_text(
        settings.offer_token_private_key, settings.offer_token_private_key_file, "OFFER_TOKEN_PRIVATE_KEY"
    )
    try:
        signer = OfferTokenSigner(private_key, settings.offer_token_key_id)
    except ValueError as error:
        raise ValueError(f"OFFER_TOKEN_PRIVATE_KEY cannot be used: {error}") from None
    clock = SystemClock()
    metrics = DispatcherMetrics(life.registry)
    consumer_metrics = ConsumerMetrics(life.registry)
    database = await life.enter(Database.open(settings, application_name=DISPATCHER, session=SESSION))
    redis = await life.enter(RedisClient.open(settings))
    kafka = KafkaClients(settings, client_id=DISPATCHER)

    outbox = Outbox(DISPATCHER)
    live_fleet = LiveFleet()
    transporters = TransporterCache(redis, keep_s=settings.transporter_cache_s)
    dispatch = Dispatch(Matcher(live_fleet, metrics), signer, outbox)
    offers = Offers(database, dispatch, outbox, metrics)
    fleet = Fleet(database, outbox, live_fleet, transporters, offers)
    positions = PositionSender(
        kafka,
        clock,
        metrics,
        batch_s=settings.position_batch_s,
        ack_deadline_s=settings.position_ack_deadline_s,
    )
    follower = Follower(live_fleet, database, kafka, settings, clock, consumer_metrics, metrics)
    consumer = Consumer(
        group=DISPATCHER,
        handlers=handlers(OrderEvents(dispatch, outbox, live_fleet, metrics)),
        database=database,
        kafka=kafka,
        settings=settings,
        metrics=consumer_metrics,
        relevant=is_relevant,
    )
    relay_database = await life.enter(Relay.database(settings, DISPATCHER))
    database.watch_also(relay_database)
    relay = Relay(relay_database, kafka, settings, RelayMetrics(life.registry))
    database.on_commit(relay.wake)
    sweep = Sweep(
        DISPATCHER,
        database,
        [
            SweepJob(
                "oldOrders",
                partial(order_store.delete_old_orders, days=settings.order_keep_days, most=SWEEP_ROWS),
            ),
            SweepJob(
                "oldExplanations",
                partial(round_store.delete_old_rounds, hours=settings.explain_keep_hours, most=SWEEP_ROWS),
            ),
        ],
        period_s=settings.sweep_period_s,
    )

    life.health.check("postgres", lambda: database.trouble and f"postgres: {database.trouble}")
    life.health.check("token keys", lambda: verifier.trouble)
    life.health.check("index", follower.trouble)
    life.health.check("orders", consumer.trouble)
    life.health.check(
        "redis", lambda: None if redis.available else "redis: spared after failures", gates_ready=False
    )
    app = create_app(
        DISPATCHER,
        routers=[
            fleet_router(fleet, positions, metrics),
            dispatch_router(offers, Views(database, live_fleet)),
        ],
        health=life.health,
        registry=life.registry,
        request_deadline_s=settings.http_request_deadline_s,
        verifier=verifier,
    )

    async def consume_once_caught_up(stop: asyncio.Event) -> None:
        """An order matched against half an index would go to the wrong captains."""
        waits = [asyncio.create_task(follower.caught_up.wait()), asyncio.create_task(stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        if not stop.is_set():
            await consumer.run(stop)

    life.spawn("database watch", database.watch)
    life.spawn("token keys", verifier.run)
    life.spawn("relay", relay.run)
    life.spawn("sweep", sweep.run)
    life.spawn("index", follower.run)
    life.spawn("positions", positions.run)
    life.spawn("orders", consume_once_caught_up)
    life.serve_http(app, settings.http_host, settings.http_port)


def main() -> None:
    """``python -m dispatcher`` serves, ``python -m dispatcher migrate`` migrates."""
    run(DISPATCHER, Settings, build, migrations=("weelo_common", "dispatcher"))
