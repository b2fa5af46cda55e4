"""The 503 of the contract: who raises what gets it, and what the log says of it.

An outage refuses thousands of requests. It must never get a line for each, nor one that quotes what a server said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from weelo_common.api_errors import UNAVAILABLE_RETRY_S, ApiError, ErrorCode
from weelo_common.jwks import KeysUnavailable
from weelo_common.postgres import DatabaseUnavailable

log = logging.getLogger(__name__)

TELL_EVERY_S = 10.0  # one line for all 503s of one reason and route within this

UNAVAILABLE = (DatabaseUnavailable, KeysUnavailable)
"""The errors that a caller is told of as ``SERVICE_UNAVAILABLE``."""


def unavailable(message: str) -> ApiError:
    """The answer; the same request may succeed later."""
    return ApiError(ErrorCode.SERVICE_UNAVAILABLE, message, retry_after_s=UNAVAILABLE_RETRY_S)


def unavailable_for(error: Exception) -> ApiError:
    """The answer to one of ``UNAVAILABLE``."""
    if isinstance(error, KeysUnavailable):
        return unavailable("Tokens cannot be checked yet. Try again.")
    return unavailable("The service cannot reach its database. Try again.")


def reason_of(error: Exception) -> str:
    """What was the matter, without what a server said: that may quote a value."""
    return error.kind if isinstance(error, DatabaseUnavailable) else type(error).__name__


class UnavailableLog:
    """Tells of 503s: the first of a reason and route at once, those that follow soon in one line together."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        # When, and how many since. Reasons and routes are few.
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, reason: str, route: str) -> None:
        """One request was refused; ``route`` is its template."""
        now = self._monotonic()
        told_at, untold = self._told.get((reason, route), (float("-inf"), 0))
        if now - told_at < TELL_EVERY_S:
            self._told[reason, route] = (told_at, untold + 1)
            return
        self._told[reason, route] = (now, 0)
        log.warning(
            "Requests are answered 503", extra={"reason": reason, "route": route, "requests": untold + 1}
        )
