"""The dispatcher's statements keep the plan of their first use: it must be good however the tables grow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deploy.local.stack import LocalStack
from dispatcher.domain import Driving, EndReason, Offer, OfferStatus, OrderView
from dispatcher.main import SESSION
from dispatcher.store import fleet, live_captains, offers, orders, rounds
from dispatcher.store.rounds import Round
from weelo_common.ids import new_id
from weelo_common.migrate import migrate
from weelo_common.postgres import Connection, Database
from weelo_common.settings import PostgresSettings

MANY = 6_000  # captains, transporters and orders; each order has a truck, an explanation and two offers
ASKED = 5  # captains
FEW_BLOCKS = 150  # read by one use: some of each index for each captain. One that is read whole has more
TABLES = "transporters, captains, orders, truck_requests, offers, match_rounds"
READ = "SELECT sum(pg_stat_get_xact_blocks_fetched(oid))::int FROM pg_class WHERE relnamespace = 'public'::regnamespace"
NOW = datetime.now(UTC).replace(microsecond=0)
ADD_TRANSPORTERS = """
INSERT INTO transporters (transporter_id, name, active, verified)
SELECT 't-' || n, 'T', true, true FROM generate_series($1::int, $2::int) AS n
"""
ADD_CAPTAINS = """
INSERT INTO captains (captain_id, transporter_id, name, vehicle_type, vehicle_subtype, vehicle_number, confirmed,
                      available)
SELECT 'k-' || n, 't-' || n, 'K', 'TRUCK', 'ACE', 'DL1', true, true FROM generate_series($1::int, $2::int) AS n
"""
ADD_ORDERS = """
INSERT INTO orders (order_id, customer_id, version, status, searching, wave)
SELECT 'o-' || n, 'c', 1, 'active', true, 1 FROM generate_series($1::int, $2::int) AS n
"""
ADD_TRUCKS = """
INSERT INTO truck_requests (truck_request_id, order_id, vehicle_type, vehicle_subtype, price_per_truck, state, version)
SELECT 'r-' || n, 'o-' || n, 'TRUCK', 'ACE', 1, 'open', 1 FROM generate_series($1::int, $2::int) AS n
"""
ADD_OFFERS = """
INSERT INTO offers (offer_id, order_id, captain_id, transporter_id, vehicle_type, vehicle_subtype, vehicle_number, wave,
                    distance_m, price_per_truck, open_trucks, made_at, expires_at)
SELECT 'f-' || n || '-' || m, 'o-' || n, 'k-' || n + m, 't', 'TRUCK', 'ACE', 'DL1', 1, 1, 1, 1,
       clock_timestamp(), 'infinity'
  FROM generate_series($1::int, $2::int) AS n, generate_series(1, 2) AS m
"""
ADD_ROUNDS = """
INSERT INTO match_rounds (order_id, round, wave, cause, radius_m, at, report)
SELECT 'o-' || n, 8, 1, 'wave', 1, clock_timestamp(), '[]' FROM generate_series($1::int, $2::int) AS n
"""
DRIVING = Driving(transporter_id="t-1", vehicle_type="TRUCK", vehicle_subtype="ACE", vehicle_number="DL1")


@pytest.fixture
async def connection(stack: LocalStack, dsn: str) -> AsyncIterator[Connection]:
    settings = PostgresSettings(postgres_dsn=dsn)
    async with (
        Database.open(settings, application_name="test", session=SESSION) as database,
        database.transaction() as connection,
    ):
        await migrate(connection, ["weelo_common", "dispatcher"])
        yield connection


@pytest.fixture
def dsn(stack: LocalStack) -> Iterator[str]:
    prefix = f"t{uuid4().hex[:8]}_"
    yield stack.provision(prefix)["dispatcher"]
    stack.remove(prefix)


Use = Callable[[Connection, int], Awaitable[object]]


def _order(number: int) -> OrderView:
    return OrderView(
        order_id=f"o-{number}",
        customer_id="c",
        version=1,
        status="active",
        searching=True,
        plan=None,
        wave=2,
        timer_version=1,
        exhausted=False,
    )


def _round(number: int) -> Round:
    offer = Offer(
        offer_id=new_id(),
        order_id=f"o-{number}",
        captain_id=new_id(),
        transporter_id="t-1",
        vehicle_type="TRUCK",
        vehicle_subtype="ACE",
        vehicle_number="DL1",
        wave=2,
        distance_m=1,
        price_per_truck=1,
        open_trucks=1,
        status=OfferStatus.LIVE,
        expires_at=NOW,
    )
    return Round(
        order=_order(number),
        offers=[offer],
        cause="wave",
        radius_m=1,
        at=NOW,
        expires_at=NOW + timedelta(seconds=60),
        report=[],
        most=8,
    )


def _captains(number: int) -> list[str]:
    return [f"k-{number + offset}" for offset in range(ASKED)]


# What matching, following orders and people's requests ask, each of a captain or an order near a number.
USES: dict[str, Use] = {
    "standings": lambda c, n: fleet.standings(c, _captains(n)),
    "lock captains": lambda c, n: fleet.lock_captains(c, _captains(n)),
    "lock free captains": lambda c, n: fleet.lock_captains(c, _captains(n), wait=False),
    "refresh busy": lambda c, n: fleet.refresh_busy(c, _captains(n)),
    "captain": lambda c, n: fleet.get_captain(c, f"k-{n}"),
    "captains of a transporter": lambda c, n: fleet.touch_captains_of(c, f"t-{n}"),
    "lock orders": lambda c, n: orders.lock_orders(c, [f"o-{n}", f"o-{n + 1}"]),
    "lines": lambda c, n: orders.lines_of(c, [f"o-{n}", f"o-{n + 1}"]),
    "holders": lambda c, n: orders.holders_of(c, f"o-{n}"),
    "save order": lambda c, n: orders.save_order(c, _order(n)),
    "truck": lambda c, n: orders.get_truck(c, f"r-{n}"),
    "offered": lambda c, n: offers.captains_offered(c, [f"o-{n}", f"o-{n + 1}"]),
    "orders offered to": lambda c, n: offers.orders_offered_to(c, f"k-{n}"),
    "live offers": lambda c, n: offers.live_offers_of(c, f"k-{n}"),
    "live offers unlike": lambda c, n: offers.live_offers_unlike(c, f"k-{n}", DRIVING),
    "outcomes": lambda c, n: offers.outcomes_of(c, f"o-{n}"),
    "rounds": lambda c, n: rounds.rounds_of(c, f"o-{n}"),
    "wave": lambda c, n: rounds.add_wave(c, _round(n), ([], [], [], [], [])),
    "replacement": lambda c, n: rounds.add_round(c, _round(n)),
    "accept": lambda c, n: offers.accept_offer(c, f"o-{n}", f"k-{n + 2}"),
    "end a captain's": lambda c, n: offers.end_captains_offers(c, f"k-{n + 2}", [f"o-{n}"], EndReason.BUSY),
    "end a line's": lambda c, n: offers.end_line_offers(c, f"o-{n}", ("TRUCK", "ACE"), EndReason.FILLED),
    "end an order's": lambda c, n: offers.end_offers(c, f"o-{n}", EndReason.EXPIRED),
}


@pytest.mark.parametrize("at_first", [1, 50])
async def test_no_statement_reads_more_for_having_been_planned_while_the_tables_were_small(
    connection: Connection, at_first: int
) -> None:
    """So they are after a migration, of which the planner knows nothing; and soon after, when it knows a little."""
    await _grow(connection, 1, at_first)
    if at_first > 1:
        await connection.execute(f"ANALYZE {TABLES}")
    for use in USES.values():
        await use(connection, 1)
    await _grow(connection, at_first + 1, MANY)
    read: dict[str, int] = {}
    for number, (name, use) in enumerate(USES.items(), 10):
        before = await connection.fetchval(READ)
        await use(connection, number * 2 * ASKED)
        read[name] = await connection.fetchval(READ) - before
    assert min(read.values()) > 0
    assert max(read.values()) < FEW_BLOCKS, read


async def test_the_index_is_loaded_without_looking_up_each_captains_transporter(
    connection: Connection,
) -> None:
    await _grow(connection, 1, MANY)
    before = await connection.fetchval(READ)
    page = await live_captains.live_captains_page(connection, after="", most=MANY)
    assert page is not None
    assert all(page.free)
    assert (
        await connection.fetchval(READ) - before < 3 * MANY
    )  # a row of each; a look into an index is three blocks


async def _grow(connection: Connection, first: int, last: int) -> None:
    for statement in (ADD_TRANSPORTERS, ADD_CAPTAINS, ADD_ORDERS, ADD_TRUCKS, ADD_OFFERS, ADD_ROUNDS):
        await connection.execute(statement, first, last)
