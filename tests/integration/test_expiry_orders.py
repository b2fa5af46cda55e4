"""The end of an order's search: by its timer, through order-api and expiry; and without it, where it never fires."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from deploy.local.stack import LocalStack
from expiry.main import build
from expiry.settings import Settings
from tests.integration.expiry_rig import empty_tables
from tests.integration.order_api_rig import Home, Rig, data, order_api, order_api_home
from weelo_common.clock import parse_time
from weelo_common.events import OrderExpired
from weelo_common.events.topics import ORDERS_EVENTS
from weelo_common.lifecycle import running
from weelo_common.postgres import Database

LIFETIME_S = 1
SWEEP_S = 0.5
NEVER_S = 3600.0  # no sweep in this test
ORDERS = 20
# Of a timer on a machine that may stall; how soon it is under load the fault tests measure.
SOON = timedelta(seconds=5)
DELETE_TIMERS = """
CREATE FUNCTION delete_timer() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN DELETE FROM timers WHERE id = NEW.id; RETURN NULL; END';
CREATE TRIGGER delete_timer AFTER INSERT OR UPDATE ON timers
    FOR EACH ROW WHEN (NEW.state = 'pending') EXECUTE FUNCTION delete_timer();
"""
KEEP_TIMERS = "DROP FUNCTION delete_timer CASCADE"


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as home:
        yield home


@pytest.fixture(scope="module")
def expiry_dsn(stack: LocalStack, home: Home) -> str:
    return stack.provision(home.prefix)["expiry"]


@pytest.fixture
async def expiry_settings(home: Home, expiry_dsn: str) -> Settings:
    shared = ("kafka_bootstrap_servers", "kafka_producer_idempotence", "kafka_topic_prefix", "http_port")
    settings = Settings.model_validate(
        {name: home.values[name] for name in shared} | {"postgres_dsn": expiry_dsn}
    )
    await empty_tables(settings)
    return settings


@contextlib.asynccontextmanager
async def without_timers(settings: Settings) -> AsyncIterator[None]:
    """Every timer is deleted the moment it is written, so that none fires, however late expiry hears of it."""
    async with Database.open(settings, application_name="test") as database, database.connection() as conn:
        await conn.execute(DELETE_TIMERS)
        try:
            yield
        finally:
            await conn.execute(KEEP_TIMERS)


@contextlib.asynccontextmanager
async def timers_that_never_fire(settings: Settings, why: str) -> AsyncIterator[None]:
    """Expiry is stopped, or runs and finds no timer."""
    async with contextlib.AsyncExitStack() as running_parts:
        if why == "deleted":
            await running_parts.enter_async_context(without_timers(settings))
            await running_parts.enter_async_context(running(build, settings))
        yield


async def ends_noticed_by(rig: Rig, whom: str) -> float:
    text = (await rig.http.get("/metrics")).text
    name = f'weelo_order_api_searches_ended_total{{noticed_by="{whom}"}}'
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


async def expired(rig: Rig, order_id: str) -> OrderExpired:
    """The event of an order's end, once it is there."""
    last = (await rig.events(ORDERS_EVENTS, order_id, "OrderExpired"))[-1].event
    assert isinstance(last, OrderExpired)
    return last


async def test_orders_are_ended_by_their_timers_soon_after_their_end_and_never_before(
    home: Home, expiry_settings: Settings
) -> None:
    async with (
        running(build, expiry_settings),
        order_api(home, order_lifetime_s=2, sweep_period_s=NEVER_S) as rig,
    ):
        answers = await asyncio.gather(*(rig.customer().create() for _ in range(ORDERS)))
        orders = [data(answer)["order"] for answer in answers]
        for order in orders:
            ended_at = (await expired(rig, order["id"])).occurred_at
            late = ended_at - parse_time(order["expiresAt"])
            assert timedelta(0) <= late < SOON
        assert await ends_noticed_by(rig, "timer") == ORDERS


@pytest.mark.parametrize("why", ["stopped", "deleted"])
async def test_without_its_timer_an_order_that_nobody_touches_is_ended_by_the_sweep(
    home: Home, expiry_settings: Settings, why: str
) -> None:
    async with (
        timers_that_never_fire(expiry_settings, why),
        order_api(home, order_lifetime_s=LIFETIME_S, sweep_period_s=SWEEP_S) as rig,
    ):
        order = data(await rig.customer().create())["order"]
        await expired(rig, order["id"])
        assert await ends_noticed_by(rig, "sweep") == 1
        assert await ends_noticed_by(rig, "timer") == 0


@pytest.mark.parametrize("why", ["stopped", "deleted"])
async def test_without_its_timer_an_order_ends_when_somebody_touches_it(
    home: Home, expiry_settings: Settings, why: str
) -> None:
    async with (
        timers_that_never_fire(expiry_settings, why),
        order_api(home, order_lifetime_s=LIFETIME_S, sweep_period_s=NEVER_S) as rig,
    ):
        customer = rig.customer()
        first = data(await customer.create())["order"]
        await asyncio.sleep(LIFETIME_S + 0.1)  # the order's own length
        assert await rig.value("SELECT searching FROM orders WHERE id = $1", first["id"])
        assert (await customer.create()).status_code == 201
        await expired(rig, first["id"])
        assert await ends_noticed_by(rig, "timer") == 0
