"""What a timer command does: schedule, move, cancel. Each runs in the consumer's transaction.

The table alone decides; memory is told after the commit, only so that the loop looks in time.
"""

from __future__ import annotations

from collections.abc import Callable

from expiry.domain import TimerRefused, check_cancel, payload_text
from expiry.metrics import ExpiryMetrics
from expiry.store import TimerStore
from weelo_common.delivery import Delivery, Outcome, PoisonMessage
from weelo_common.events.timers import TimerCancelled, TimerScheduled
from weelo_common.postgres import Connection, database_now


class Handlers:
    """``note(partition, moment)`` hears of every timer that was committed; ``moment`` is of the monotonic clock."""

    def __init__(
        self,
        *,
        store: TimerStore,
        note: Callable[[int, float], None],
        metrics: ExpiryMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._note = note
        self._metrics = metrics
        self._monotonic = monotonic

    async def schedule(self, conn: Connection, delivery: Delivery[TimerScheduled]) -> Outcome:
        """Schedule a timer, or move it by a higher version.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        command, partition = delivery.event, delivery.partition
        asked_at = self._monotonic()
        now = await database_now(conn)
        try:
            payload = payload_text(command, now)
        except TimerRefused as refusal:
            self._metrics.commands.labels("schedule", "refused").inc()
            raise PoisonMessage(str(refusal)) from refusal
        is_new = await self._store.schedule(
            conn,
            key=command.timer_key,
            version=command.version,
            partition=partition,
            owner=command.owner,
            due_at=command.due_at,
            payload=payload,
            order_id=command.order_id,
            traceparent=delivery.envelope.traceparent,
        )
        if not is_new:
            self._metrics.commands.labels("schedule", "ignored").inc()
            return Outcome.IGNORED
        due_moment = asked_at + (command.due_at - now).total_seconds()
        delivery.after_commit(lambda: self._note(partition, due_moment))
        self._metrics.commands.labels("schedule", "applied").inc()
        return Outcome.APPLIED

    async def cancel(self, conn: Connection, delivery: Delivery[TimerCancelled]) -> Outcome:
        """Cancel a timer up to a version; what has fired, or has moved on, stays as it is.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        command = delivery.event
        try:
            check_cancel(command)
        except TimerRefused as refusal:
            self._metrics.commands.labels("cancel", "refused").inc()
            raise PoisonMessage(str(refusal)) from refusal
        is_cancelled = await self._store.cancel(
            conn,
            key=command.timer_key,
            version=command.version,
            partition=delivery.partition,
            order_id=command.order_id,
            traceparent=delivery.envelope.traceparent,
        )
        outcome = Outcome.APPLIED if is_cancelled else Outcome.IGNORED
        self._metrics.commands.labels("cancel", outcome.name.lower()).inc()
        return outcome
