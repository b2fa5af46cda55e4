"""Taking an order in: however a phone retries and however two phones race, the customer's order exists once.

The order of checks is the contract's: replay, lock and rate limit, active order, create. A replay is looked for in
Redis first, in PostgreSQL before any 409 or 429 leaves, and once more inside the transaction that creates. Nothing here
rests on Redis: two creates that both pass the gate meet at the unique index, and the loser reads what the winner did.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from opentelemetry.trace import SpanKind

from order_api import store
from order_api.domain import NewOrder, create, end_if_overdue
from order_api.errors import ActiveOrderExists, CreateInFlight, KeyReused, TooManyCreates
from order_api.gate import Busy, Entered, Gate, Replay, TooMany
from order_api.intake_store import Situation, StoredAnswer, situations, stored_answer
from order_api.metrics import OrderMetrics
from order_api.store import CustomerHasSearchingOrder, KeptAnswer, MadeOrder
from order_api.together import Together
from order_api.views import created_body
from weelo_common.ids import new_id
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database
from weelo_common.telemetry import span

log = logging.getLogger(__name__)

ENDPOINT = "POST /orders"  # the scope of a key, together with the customer
CREATED = 201
_DB = {"db.system.name": "postgresql"}
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
        self._situations = Together(self._look)
        self._inserts = Together(self._insert)

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
                met = await self._situations((request.wish.customer_id, ENDPOINT, request.key))
                if met.answer is not None:
                    return met.answer, False
                if met.searching is None:
                    with span("postgres transaction", kind=SpanKind.CLIENT, attributes=_DB):
                        made, answer = self._made(request, met.now)
                        await self._inserts(made)
                    return answer, True
                if not met.searching.overdue:
                    self._metrics.creates.labels("active").inc()
                    raise ActiveOrderExists(met.searching.id, met.searching.status, met.searching.created_at)
                # Ending the old search and making the new order is more than one statement.
                async with self._database.transaction() as connection:
                    now = await self._end_overdue(connection, met.searching.id)
                    made, answer = self._made(request, now)
                    await store.insert_orders(connection, [made])
                return answer, True
            except CustomerHasSearchingOrder:
                continue  # another create committed first: look again at what there is
        self._metrics.creates.labels("concurrent").inc()
        raise CreateInFlight

    def _made(self, request: CreateRequest, now: datetime) -> tuple[MadeOrder, StoredAnswer]:
        """The order with all that is written together with it, and its answer.

        The answer, the order and its events commit together or not at all: they are one statement. A crash after it
        leaves all three, and the retry gets these bytes; a crash before it leaves nothing, and the retry makes the
        order. The unique indexes look for the key and for a searching order once more.
        """
        decision = create(request.wish, now=now, lifetime=self._lifetime, new_id=new_id)
        order = decision.order
        answer = StoredAnswer(request.fingerprint, CREATED, created_body(order, now), order.id)
        events = self._outbox.columns(decision.events, at=now)
        return MadeOrder(order, _kept(request, answer), events), answer

    async def _look(self, asked: list[tuple[str, str, str | None]]) -> list[Situation]:
        async with self._database.connection() as connection:
            return await situations(connection, asked)

    async def _insert(self, made: list[MadeOrder]) -> list[CustomerHasSearchingOrder | None]:
        """Write a group of orders; where one of them cannot be, the group was undone, and each is tried alone."""
        try:
            async with self._database.single_statements() as connection:
                await store.insert_orders(connection, made)
        except CustomerHasSearchingOrder as error:
            if len(made) == 1:
                return [error]
            return [outcome for one in made for outcome in await self._insert([one])]
        return [None] * len(made)

    async def _end_overdue(self, connection: Connection, order_id: str) -> datetime:
        """End the search of the customer's overdue order, in this transaction; returns the time of that."""
        await store.lock_order(connection, order_id)
        loaded = await store.load_order(connection, order_id)
        assert loaded is not None  # noqa: S101 - orders are never deleted
        order, now = loaded
        decision = end_if_overdue(order, now)
        if decision.events:
            await store.save_order(connection, order, decision.order)
            await self._outbox.append(connection, decision.events, at=now)
        return now

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
