"""Settings of expiry, beyond those of every service. Each has a default."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from weelo_common.settings import Seconds, ServiceSettings


class Settings(ServiceSettings):
    """Expiry has no users and no Redis: a database, the brokers, and how it fires."""

    kafka_session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 6.0
    """As short as brokers allow by default: a killed replica's timers are late by this and a rebalance."""
    fire_batch_timers: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Claimed by one statement, which takes some 10 ms for so many."""
    fire_fresh_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """What is later than this is backlog, which gives way to timers that are due now."""
    fire_pace_s: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Between two claims while there is no backlog: timers that come due meanwhile share the next one."""
    fire_look_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """The tables are looked at this often: what memory does not know of is as late as this and ``fire_overdue_s``."""
    fire_overdue_s: Annotated[float, Field(ge=0, le=60)] = 0.25
    """A look takes a timer that is pending for longer than this after its time for one that memory does not know of."""
    fire_abandoned_s: Annotated[float, Field(ge=0, le=60)] = 7.0
    """A firing that nobody has worked on for this long belongs to whoever finds it: its owner died.
    Above ``kafka_request_deadline_s`` + ``fire_retry_s``, or it would be taken from an owner who still publishes it."""
    fire_rebalance_s: Seconds = 15.0
    """Longer than a rebalance may take; so long a replica that was told "no partitions" goes on with those it had."""
    fire_retry_s: Seconds = 0.5
    """The pause after the brokers or PostgreSQL did not answer."""
    hold_ahead_s: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """Timers due within this are held in memory, 16 bytes each."""
    hold_max_timers: Annotated[int, Field(ge=1000, le=100_000_000)] = 2_000_000
    """Held at most, some 32 MiB; what is more fires by looks, a second late."""
    count_pending_s: Seconds = 30.0
    """All pending timers are counted this often; a million takes PostgreSQL some 100 ms."""
    clock_warn_s: Seconds = 1.0
    """A warning is logged where the clocks of this machine and of PostgreSQL differ by more."""

    @model_validator(mode="after")
    def _a_firing_is_renewed_before_it_counts_as_abandoned(self) -> Self:
        # An owner says that it works on a firing before each try, and a try lasts as long as the brokers may take.
        if self.fire_abandoned_s <= self.kafka_request_deadline_s + self.fire_retry_s:
            raise ValueError("FIRE_ABANDONED_S must be above KAFKA_REQUEST_DEADLINE_S + FIRE_RETRY_S")
        return self
