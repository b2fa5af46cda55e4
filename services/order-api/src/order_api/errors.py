"""Why a command of order-api was not granted. They carry ids and states, not HTTP; ``http.py`` maps them."""

from __future__ import annotations

from datetime import datetime

from order_api.decision import Refusal


class CommandRefused(Exception):
    """Base of all: nothing is broken, the answer is no."""


class OrderNotFound(CommandRefused):
    """There is no such order, or it is not the caller's."""


class TruckRequestNotFound(CommandRefused):
    """There is no such truck request, or it is not the caller's."""


class CreateInFlight(CommandRefused):
    """Another create of this customer is in flight; try again in a moment."""


class TooManyCreates(CommandRefused):
    """The customer is over his limit for the next ``retry_after_s`` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many creates; again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class KeyReused(CommandRefused):
    """The idempotency key belongs to another request."""


class ActiveOrderExists(CommandRefused):
    """The customer's order ``order_id`` is still searching."""

    def __init__(self, order_id: str, status: str, created_at: datetime) -> None:
        super().__init__(order_id)
        self.order_id = order_id
        self.status = status
        self.created_at = created_at


class NotCancellable(CommandRefused):
    """The order is past cancelling."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class InvalidTransition(CommandRefused):
    """The truck request is in ``status``, from where the state table has no such step."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class AcceptLost(CommandRefused):
    """The captain did not get a truck."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class OfferInvalid(CommandRefused):
    """The offer token is forged, altered, for another order, or another captain's."""
