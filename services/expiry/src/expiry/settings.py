"""Settings of expiry, beyond those of every service. Each has a default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from weelo_common.settings import Seconds, ServiceSettings


class Settings(ServiceSettings):
    """Expiry has no users and no Redis: a database, the brokers, and how it fires."""

    fire_batch_timers: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Of one partition in one round: as many that are due now, and as many of a backlog."""
    fire_fresh_s: Seconds = 1.0
    """What is later than this is backlog, which gives way to timers that are due now."""
    fire_look_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A partition is looked at this often at least: what memory does not know of is this late at most."""
    fire_retry_s: Seconds = 0.5
    """The pause after the brokers or PostgreSQL did not answer."""
