"""Taking an order in: however a phone retries and however two phones race, the customer's order exists once.

The order of checks is the contract's: replay, lock and rate limit, active order, create. A replay is looked for in
Redis first, in PostgreSQL before any 409 or 429 leaves, and once more inside the transaction that creates. Nothing here
rests on Redis: two creates that both pass the gate meet at the unique index, and the loser reads what the winner did.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from order_api import store
from order_api.domain import NewOrder, create, end_if_overdue
from order_api.errors import ActiveOrderExists, CreateInFlight, KeyReused, TooManyCreates
from order_api.gate import Busy, Entered, Gate, Replay, TooMany
from order_api.intake_store import Situation, StoredAnswer, situation, stored_answer
from order_api.metrics import OrderMetrics
from order_api.store import CustomerHasSearchingOrder, KeptAnswer
from order_api.views import created_body
from weelo_common.ids import new_id
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database

log = logging.getLogger(__name__)

ENDPOINT = "POST /orders"  # the scope of a key, together with the customer
CREATED = 201
TRIES = 3  # of a create that loses against another of the same customer; each try sees what won


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a customer wants, with his idempotency key and the fingerprint (32 bytes) of what was understood."""

    wish: NewOrder
    key: str | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer: ``body`` is sent as it is."""

    status: int
    body: bytes
    order_id: str
    replayed: bool


class Intake:
    """Creates orders."""

    def __init__(
        self, database: Database, outbox: Outbox, gate: Gate, metrics: OrderMetrics, *, lifetime: timedelta
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._gate = gate
        self._metrics = metrics
        self._lifetime = lifetime

    async def create(self, request: CreateRequest) -> Answer:
        """Make the order, or give again what an earlier try under the same key was given.

        Raises:
            KeyReused: the key belongs to another request.
            CreateInFlight: another create of this customer is under way.
            TooManyCreates: over the rate limit.
            ActiveOrderExists: the customer's last order is still searching.
            DatabaseUnavailable: unknown whether it was made; a retry under the same key finds out.
        """
        customer = request.wish.customer_id
        if request.key is not None:
            log.info("Idempotency key received", extra={"customerId": customer})
        entry = await self._gate.enter(customer, ENDPOINT, request.key)
        match entry:
            case Replay(answer):
                return self._replayed(request, answer, source="redis")
            case Busy() | TooMany():
                return await self._replay_or_refuse(request, entry)
            case Entered():
                return await self._create_inside(request, entry)

    async def _create_inside(self, request: CreateRequest, entered: Entered) -> Answer:
        answer: StoredAnswer | None = None
        try:
            answer, fresh = await self._found_or_made(request)
        finally:
            await self._gate.leave(entered, request.wish.customer_id, ENDPOINT, request.key, answer)
        if not fresh:
            return self._replayed(request, answer, source="postgres")
        self._metrics.creates.labels("created").inc()
        log.info("Order created", extra={"orderId": answer.order_id, "customerId": request.wish.customer_id})
        return Answer(answer.status, answer.body, answer.order_id, replayed=False)

    async def _found_or_made(self, request: CreateRequest) -> tuple[StoredAnswer, bool]:
        """The answer kept under the key and False, or that of a new order and True."""
        for _ in range(TRIES):
            try:
                async with self._database.transaction() as connection:
                    return await self._in_transaction(connection, request)
            except CustomerHasSearchingOrder:
                continue  # another create committed first: look again at what there is
        self._metrics.creates.labels("concurrent").inc()
        raise CreateInFlight

    async def _in_transaction(
        self, connection: Connection, request: CreateRequest
    ) -> tuple[StoredAnswer, bool]:
        wish = request.wish
        met = await situation(connection, wish.customer_id, ENDPOINT, request.key)
        if met.answer is not None:
            return met.answer, False
        now = met.now
        if met.searching is not None:
            now = await self._make_way(connection, met)
        decision = create(wish, now=now, lifetime=self._lifetime, new_id=new_id)
        order = decision.order
        answer = StoredAnswer(request.fingerprint, CREATED, created_body(order, now), order.id)
        # The answer, the order and its events commit together or not at all. A crash after the commit leaves all
        # three, and the retry gets these bytes; a crash before it leaves nothing, and the retry makes the order.
        await store.insert_order(connection, order, _kept(request, answer))
        await self._outbox.append(connection, decision.events, at=now)
        return answer, True

    async def _make_way(self, connection: Connection, met: Situation) -> datetime:
        """End the search of the customer's overdue order, in this transaction; returns the time of that.

        Raises:
            ActiveOrderExists: it is not overdue.
        """
        searching = met.searching
        assert searching is not None  # noqa: S101 - asked for only then
        if searching.overdue:
            await store.lock_order(connection, searching.id)
            loaded = await store.load_order(connection, searching.id)
            assert loaded is not None  # noqa: S101 - orders are never deleted
            order, now = loaded
            decision = end_if_overdue(order, now)
            if decision.events:
                await store.save_order(connection, order, decision.order)
                await self._outbox.append(connection, decision.events, at=now)
            return now
        self._metrics.creates.labels("active").inc()
        raise ActiveOrderExists(searching.id, searching.status, searching.created_at)

    async def _replay_or_refuse(self, request: CreateRequest, refusal: Busy | TooMany) -> Answer:
        """An honest retry never gets an error that its first try did not get."""
        if request.key is not None:
            async with self._database.connection() as connection:
                answer = await stored_answer(connection, request.wish.customer_id, ENDPOINT, request.key)
            if answer is not None:
                return self._replayed(request, answer, source="postgres")
        match refusal:
            case TooMany(retry_after_s):
                self._metrics.creates.labels("rate_limited").inc()
                raise TooManyCreates(retry_after_s)
            case Busy():
                self._metrics.creates.labels("concurrent").inc()
                raise CreateInFlight

    def _replayed(self, request: CreateRequest, answer: StoredAnswer, *, source: str) -> Answer:
        if answer.fingerprint != request.fingerprint:
            self._metrics.creates.labels("key_reused").inc()
            raise KeyReused
        self._metrics.creates.labels("replayed").inc()
        log.info(
            "Idempotency HIT",
            extra={"orderId": answer.order_id, "customerId": request.wish.customer_id, "source": source},
        )
        return Answer(answer.status, answer.body, answer.order_id, replayed=True)


def _kept(request: CreateRequest, answer: StoredAnswer) -> KeptAnswer | None:
    if request.key is None:
        return None
    return KeptAnswer(ENDPOINT, request.key, answer.fingerprint, answer.status, answer.body)
