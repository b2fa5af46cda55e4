"""Taking an order in: however a phone retries and however two phones race, the customer's order exists once.

The order of checks is the contract's: replay, lock and rate limit, active order, create. A replay is looked for in
Redis first, in PostgreSQL before any 409 or 429 leaves, and once more inside the transaction that creates. Nothing here
rests on Redis: two creates that both pass the gate meet at the unique index, and the loser reads what the winner did.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta

from opentelemetry.trace import SpanKind

from order_api import store
from order_api.domain import NewOrder, create, end_if_overdue
from order_api.errors import ActiveOrderExists, CreateInFlight, KeyReused, TooManyCreates
from order_api.gate import Busy, Entered, Gate, Replay, TooMany
from order_api.intake_store import Situation, StoredAnswer, situations, stored_answer
from order_api.metrics import OrderMetrics
from order_api.model import Order
from order_api.new_orders import CreateLost, KeptAnswer, MadeOrder, insert_orders
from order_api.together import Together
from order_api.views import created_body
from weelo_common.events import Event
from weelo_common.ids import new_id
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection, Database, database_now, is_infrastructure_error
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
        self._created = metrics.creates.labels("created")
        self._entered = metrics.gate.labels("entered")
        self._unlocked = metrics.gate.labels("unlocked")
        self._creates = Together(self._write)
        self._situations = Together(self._look)

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
                self._metrics.gate.labels("replay").inc()
                return self._replayed(request, answer, source="redis")
            case Busy() | TooMany():
                self._metrics.gate.labels("busy" if isinstance(entry, Busy) else "rate_limited").inc()
                return await self._replay_or_refuse(request, entry)
            case Entered(locked=locked):
                (self._entered if locked else self._unlocked).inc()
                return await self._create_inside(request, entry)

    async def _create_inside(self, request: CreateRequest, entered: Entered) -> Answer:
        answer: StoredAnswer | None = None
        try:
            answer, fresh = await self._found_or_made(request)
        finally:
            await self._gate.leave(entered, request.wish.customer_id, request.key, answer)
        if not fresh:
            return self._replayed(request, answer, source="postgres")
        self._created.inc()
        log.info("Order created", extra={"orderId": answer.order_id, "customerId": request.wish.customer_id})
        return Answer(answer.status, answer.body, answer.order_id, replayed=False)

    async def _found_or_made(self, request: CreateRequest) -> tuple[StoredAnswer, bool]:
        """The answer kept under the key and False, or that of a new order and True.

        Nearly every create meets nothing. So the order is written first, and what could not be written looks why.
        """
        for _ in range(TRIES):
            try:
                with span("postgres transaction", kind=SpanKind.CLIENT, attributes=_DB):
                    return await self._creates((request, copy_context())), True
            except CreateLost:
                met = await self._situations(_asked_by(request))
            if met.answer is not None:
                return met.answer, False
            if met.searching is None:
                continue  # what was met is over: try again
            if not met.searching.overdue:
                self._metrics.creates.labels("active").inc()
                raise ActiveOrderExists(met.searching.id, met.searching.status, met.searching.created_at)
            with contextlib.suppress(CreateLost):  # another create of his was faster: look again
                return await self._in_place_of(met.searching.id, request), True
        self._metrics.creates.labels("concurrent").inc()
        raise CreateInFlight

    async def _in_place_of(self, overdue_id: str, request: CreateRequest) -> StoredAnswer:
        """End the search of the customer's overdue order and make the new one, in one transaction."""
        async with self._database.transaction() as connection:
            overdue, events, now = await self._end_overdue(connection, overdue_id)
            made, answer = self._made(request, now)
            await insert_orders(connection, [made], endpoint=ENDPOINT)
        self._metrics.told(events, overdue, now, noticed_by="create")
        return answer

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

    async def _write(self, asked: list[tuple[CreateRequest, Context]]) -> list[StoredAnswer | Exception]:
        """Make a group's orders, all at one time of the database's clock, and write them.

        What cannot be made is left out. Where one of the others cannot be written, none was: those in whose way nothing
        is are written again, and where that fails too, by a race, each is tried alone.
        """
        async with self._database.single_statements() as connection:
            now = await database_now(connection)
            # Each in the context of its own request, whose trace its events carry on.
            tried = [context.run(self._made_or_error, request, now) for request, context in asked]
            able = [
                (request, one)
                for (request, _), one in zip(asked, tried, strict=True)
                if not isinstance(one, Exception)
            ]
            outcomes = iter(await _write_made(connection, able))
            return [one if isinstance(one, Exception) else next(outcomes) for one in tried]

    def _made_or_error(
        self, request: CreateRequest, now: datetime
    ) -> tuple[MadeOrder, StoredAnswer] | Exception:
        """As ``_made``; an error is this request's alone, and logged where it is answered."""
        try:
            return self._made(request, now)
        except Exception as error:  # noqa: BLE001 - it is raised where its own request waits
            return error

    async def _end_overdue(
        self, connection: Connection, order_id: str
    ) -> tuple[Order, Sequence[Event], datetime]:
        """End the search of the customer's overdue order, in this transaction; the order as it was, what that tells
        (nothing, where nothing was left to end), and the time of it."""
        await store.lock_order(connection, order_id)
        loaded = await store.load_order(connection, order_id)
        assert loaded is not None  # noqa: S101 - orders are never deleted
        order, now = loaded
        decision = end_if_overdue(order, now)
        if decision.events:
            await store.save_order(connection, order, decision.order)
            await self._outbox.append(connection, decision.events, at=now)
        return order, decision.events, now

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


async def _write_made(
    connection: Connection, able: list[tuple[CreateRequest, tuple[MadeOrder, StoredAnswer]]]
) -> list[StoredAnswer | Exception]:
    """The outcome of each. Raises only where none was written, or where PostgreSQL is out of reach."""
    made = [one for _, one in able]
    if len(made) == 1:
        return [await _alone(connection, made[0])]
    if await _written(connection, made):
        return [answer for _, answer in made]
    met = await situations(connection, [_asked_by(request) for request, _ in able])
    free = [one for one, situation in zip(made, met, strict=True) if situation.free]
    if len(free) < len(made) and await _written(connection, free):
        return [one[1] if situation.free else CreateLost() for one, situation in zip(made, met, strict=True)]
    return [
        await _alone(connection, one) if situation.free else CreateLost()
        for one, situation in zip(made, met, strict=True)
    ]


async def _alone(connection: Connection, one: tuple[MadeOrder, StoredAnswer]) -> StoredAnswer | Exception:
    """Write one order; an error is its own, as long as PostgreSQL answers."""
    try:
        await insert_orders(connection, [one[0]], endpoint=ENDPOINT)
    except Exception as error:
        if is_infrastructure_error(error):
            raise
        return error
    return one[1]


async def _written(connection: Connection, made: list[tuple[MadeOrder, StoredAnswer]]) -> bool:
    """Whether all could be written; else none was."""
    try:
        await insert_orders(connection, [order for order, _ in made], endpoint=ENDPOINT)
    except CreateLost:
        return False
    return True


def _asked_by(request: CreateRequest) -> tuple[str, str, str | None]:
    return request.wish.customer_id, ENDPOINT, request.key


def _kept(request: CreateRequest, answer: StoredAnswer) -> KeptAnswer | None:
    if request.key is None:
        return None
    return KeptAnswer(request.key, answer.fingerprint, answer.status, answer.body)
