"""What ops and customers may see of an order's dispatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.domain import OrderView
from dispatcher.live_fleet import LastPosition, LiveFleet
from dispatcher.store import offers as offer_store
from dispatcher.store import orders as order_store
from dispatcher.store import rounds as round_store
from dispatcher.store.offers import OfferOutcome
from weelo_common.postgres import Database


class OrderNotFound(Exception):
    """No such order was seen here, or it is not the caller's."""

    def __init__(self, order_id: str) -> None:
        super().__init__(order_id)
        self.order_id = order_id


@dataclass(frozen=True, slots=True)
class Explanation:
    """An order, what each wave and replacement considered, and how each offer stands, by captain."""

    order: OrderView
    rounds: list[dict[str, Any]]
    outcomes: Mapping[str, OfferOutcome]


@dataclass(frozen=True, slots=True)
class AssignedCaptain:
    """Who comes: personal data, for the order's customer and ops alone."""

    truck_request_id: str
    captain_id: str
    name: str
    phone: str | None
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    last_position: LastPosition | None


class Views:
    """Reads, each from one look at the database."""

    def __init__(self, database: Database, fleet: LiveFleet) -> None:
        self._database = database
        self._fleet = fleet

    async def explain(self, order_id: str) -> Explanation:
        """An order's view, and what each wave and replacement considered; locks nothing.

        Raises:
            OrderNotFound: it was never seen here, or is forgotten.
        """
        async with self._database.connection() as connection:
            order = await order_store.get_order(connection, order_id)
            if order is None:
                raise OrderNotFound(order_id)
            rounds = await round_store.rounds_of(connection, order_id)
            return Explanation(order, rounds, await offer_store.outcomes_of(connection, order_id))

    async def assigned_captains(self, order_id: str, *, customer_id: str | None) -> list[AssignedCaptain]:
        """The captains who hold a truck of an order; ``customer_id`` None asks for ops.

        Raises:
            OrderNotFound: it was never seen here, or is another customer's.
        """
        async with self._database.connection() as connection:
            order = await order_store.get_order(connection, order_id)
            if order is None or (customer_id is not None and order.customer_id != customer_id):
                raise OrderNotFound(order_id)
            holders = await order_store.holders_of(connection, order_id)
        return [
            AssignedCaptain(**holder, last_position=self._fleet.last_position(holder["captain_id"]))
            for holder in holders
        ]
