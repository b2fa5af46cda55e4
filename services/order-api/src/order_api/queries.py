"""What callers may read. A read of an overdue order first ends its search, so nobody sees one that should be over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from order_api import store
from order_api.errors import OrderNotFound
from order_api.handlers import Orders, Touched
from order_api.intake_store import DispatchProgress, dispatch_progress
from order_api.model import WON, Order, OrderStatus, TruckRequest, TruckStatus
from order_api.store import OrderPage, SearchingOrder
from weelo_common.auth import Principal, Role
from weelo_common.postgres import Connection, Database, database_now

MAX_TRUCK_REQUESTS = 100  # of one captain in one answer, the latest


@dataclass(frozen=True, slots=True)
class StatusOf:
    """An order with how far its dispatch is, at the database's time ``now``."""

    order: Order
    progress: DispatchProgress | None
    now: datetime


class Queries:
    """Reads of orders and truck requests."""

    def __init__(self, database: Database, orders: Orders) -> None:
        self._database = database
        self._orders = orders

    async def order(self, order_id: str, caller: Principal) -> Touched:
        """One order, for its customer, a captain who holds or has done one of its trips, or ops.

        Raises:
            OrderNotFound, DatabaseUnavailable
        """
        found = await self._current(order_id)
        if not _may_read(found.order, caller):
            raise OrderNotFound(order_id)
        return found

    async def status(self, order_id: str, customer_id: str) -> StatusOf:
        """How an order stands, for its customer.

        Raises:
            OrderNotFound, DatabaseUnavailable
        """
        found = await self._current(order_id)
        if found.order.customer_id != customer_id:
            raise OrderNotFound(order_id)
        async with self._database.connection() as connection:
            progress = await dispatch_progress(connection, order_id)
        return StatusOf(found.order, progress, found.now)

    async def page(
        self, customer_id: str, *, status: OrderStatus | None, page: int, limit: int
    ) -> tuple[OrderPage, datetime]:
        """A page of the customer's orders, newest first, and the database's time."""
        await self._end_customers_overdue(customer_id)
        async with self._snapshot() as connection:
            found = await store.orders_of_customer(
                connection,
                customer_id,
                status=status.value if status else None,
                limit=limit,
                offset=(page - 1) * limit,
            )
            return found, await database_now(connection)

    async def searching(self, customer_id: str) -> SearchingOrder | None:
        """The customer's order that is searching."""
        return await self._end_customers_overdue(customer_id)

    async def truck_requests(
        self, captain_id: str, *, status: TruckStatus | None
    ) -> list[tuple[str, TruckRequest]]:
        """The captain's own truck requests with their order ids, the latest first, at most 100."""
        async with self._database.connection() as connection:
            return await store.trucks_of_captain(
                connection, captain_id, status=status.value if status else None, limit=MAX_TRUCK_REQUESTS
            )

    async def _current(self, order_id: str) -> Touched:
        async with self._snapshot() as connection:
            loaded = await store.load_order(connection, order_id)
        if loaded is None:
            raise OrderNotFound(order_id)
        order, now = loaded
        if order.overdue(now):
            return await self._orders.end_if_overdue(order_id)
        return Touched(order, now)

    async def _end_customers_overdue(self, customer_id: str) -> SearchingOrder | None:
        """The customer's searching order, once an overdue one has been ended."""
        async with self._database.connection() as connection:
            found = await store.searching_order(connection, customer_id)
        if found is None or not found.overdue:
            return found
        await self._orders.end_if_overdue(found.id)
        async with self._database.connection() as connection:
            return await store.searching_order(connection, customer_id)

    @contextlib.asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """A connection whose statements all see the same moment."""
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection


def _may_read(order: Order, caller: Principal) -> bool:
    match caller.role:
        case Role.OPS:
            return True
        case Role.CUSTOMER:
            return order.customer_id == caller.user_id
        case Role.CAPTAIN:
            return any(truck.captain_id == caller.user_id and truck.status in WON for truck in order.trucks)
        case _:
            return False
