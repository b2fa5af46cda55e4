"""What a timer command does: schedule, move, cancel. Each runs in the consumer's transaction.

The table alone decides; memory is told after the commit, only so that the timer is claimed in time.
"""

from __future__ import annotations

from collections.abc import Callable

from expiry.domain import TimerRefused, check_cancel, check_horizon, payload_text
from expiry.metrics import ExpiryMetrics
from expiry.store import TimerStore
from weelo_common.clock import epoch_ms
from weelo_common.delivery import Delivery, Outcome, PoisonMessage
from weelo_common.events.timers import TimerCancelled, TimerScheduled
from weelo_common.postgres import Connection

Note = Callable[[int, int, int, int], None]


class Handlers:
    """``note(partition, timer id, due ms, delay ms)`` hears of every timer that was committed."""

    def __init__(self, *, store: TimerStore, note: Note, metrics: ExpiryMetrics) -> None:
        self._store = store
        self._note = note
        self._metrics = metrics

    async def schedule(self, conn: Connection, delivery: Delivery[TimerScheduled]) -> Outcome:
        """Schedule a timer, or move it by a higher version.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        command, partition = delivery.event, delivery.partition
        try:
            saved = await self._store.schedule(
                conn,
                key=command.timer_key,
                version=command.version,
                partition=partition,
                owner=command.owner,
                due_at=command.due_at,
                payload=payload_text(command),
                order_id=command.order_id,
                traceparent=delivery.envelope.traceparent,
            )
            # After the statement that reads the clock; the refusal undoes what it wrote.
            check_horizon(command.due_at, saved.now)
        except TimerRefused as refusal:
            self._metrics.commands.labels("schedule", "refused").inc()
            raise PoisonMessage(str(refusal)) from refusal
        if saved.id is None:
            self._metrics.commands.labels("schedule", "ignored").inc()
            return Outcome.IGNORED
        timer_id, due_ms = saved.id, epoch_ms(command.due_at)
        # By the sender's own clock: what it schedules again and again has one delay.
        delay_ms = due_ms - epoch_ms(delivery.envelope.time)
        delivery.after_commit(lambda: self._note(partition, timer_id, due_ms, delay_ms))
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
