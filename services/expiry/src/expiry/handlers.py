"""What a timer command does: schedule, move, cancel. Each is one statement, inbox row and all.

Only a repeat, a parked key or what may have to be refused needs the consumer's transaction.
The table alone decides; memory is told after the commit, only so that the timer is claimed in time.
"""

from __future__ import annotations

from collections.abc import Callable

from expiry.domain import TimerRefused, check_cancel, check_horizon, payload_text
from expiry.metrics import ExpiryMetrics
from expiry.store import Cancel, Schedule, Scheduled, TimerStore
from weelo_common.clock import epoch_ms
from weelo_common.delivery import Delivery, Outcome, PoisonMessage
from weelo_common.events.timers import TimerCancelled, TimerScheduled
from weelo_common.inbox import InboxNote
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
        timer = self._timer(delivery)
        saved = await self._store.schedule(conn, timer)
        try:
            # After the statement that reads the clock; the refusal undoes what it wrote.
            check_horizon(timer.due_at, saved.now)
        except TimerRefused as refusal:
            raise self._refused("schedule", refusal) from refusal
        return self._scheduled(delivery, saved)

    async def schedule_at_once(
        self, conn: Connection, delivery: Delivery[TimerScheduled], note: InboxNote
    ) -> Outcome | None:
        """The same by one statement that is the whole transaction; what is due too far ahead is left to the other.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        saved = await self._store.schedule_at_once(conn, self._timer(delivery), note)
        return None if saved is None else self._scheduled(delivery, saved)

    async def cancel(self, conn: Connection, delivery: Delivery[TimerCancelled]) -> Outcome:
        """Cancel a timer up to a version; what has fired, or has moved on, stays as it is.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        return self._cancelled(is_cancelled=await self._store.cancel(conn, self._cancel(delivery)))

    async def cancel_at_once(
        self, conn: Connection, delivery: Delivery[TimerCancelled], note: InboxNote
    ) -> Outcome | None:
        """The same by one statement that is the whole transaction.

        Raises:
            PoisonMessage: a command that can never be obeyed.
        """
        is_cancelled = await self._store.cancel_at_once(conn, self._cancel(delivery), note)
        return None if is_cancelled is None else self._cancelled(is_cancelled=is_cancelled)

    def _timer(self, delivery: Delivery[TimerScheduled]) -> Schedule:
        command = delivery.event
        try:
            payload = payload_text(command)
        except TimerRefused as refusal:
            raise self._refused("schedule", refusal) from refusal
        return Schedule(
            key=command.timer_key,
            version=command.version,
            partition=delivery.partition,
            owner=command.owner,
            due_at=command.due_at,
            payload=payload,
            order_id=command.order_id,
            traceparent=delivery.envelope.traceparent,
        )

    def _cancel(self, delivery: Delivery[TimerCancelled]) -> Cancel:
        command = delivery.event
        try:
            check_cancel(command)
        except TimerRefused as refusal:
            raise self._refused("cancel", refusal) from refusal
        return Cancel(
            key=command.timer_key,
            version=command.version,
            partition=delivery.partition,
            order_id=command.order_id,
            traceparent=delivery.envelope.traceparent,
        )

    def _scheduled(self, delivery: Delivery[TimerScheduled], saved: Scheduled) -> Outcome:
        if saved.id is None:
            self._metrics.commands.labels("schedule", "ignored").inc()
            return Outcome.IGNORED
        timer_id, due_ms = saved.id, epoch_ms(delivery.event.due_at)
        # By the sender's own clock: what it schedules again and again has one delay.
        delay_ms = due_ms - epoch_ms(delivery.envelope.time)
        delivery.after_commit(lambda: self._note(delivery.partition, timer_id, due_ms, delay_ms))
        self._metrics.commands.labels("schedule", "applied").inc()
        return Outcome.APPLIED

    def _cancelled(self, *, is_cancelled: bool) -> Outcome:
        outcome = Outcome.APPLIED if is_cancelled else Outcome.IGNORED
        self._metrics.commands.labels("cancel", outcome.name.lower()).inc()
        return outcome

    def _refused(self, command: str, refusal: TimerRefused) -> PoisonMessage:
        self._metrics.commands.labels(command, "refused").inc()
        return PoisonMessage(str(refusal))
