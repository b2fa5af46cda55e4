"""Moments as people type them: ``10m`` (ago), ``2026-02-03T10:08:28Z``, ``beginning``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from weelo_cli.conventions import BadInput
from weelo_common.clock import parse_time

BEGINNING = datetime.fromtimestamp(0, UTC)
_AGO = re.compile(r"^([0-9]{1,6})(s|m|h|d)\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment_of(text: str, option: str, now: datetime) -> datetime:
    """The moment that a text means, in UTC.

    Raises:
        BadInput: it means none; the line names the option.
    """
    if text == "beginning":
        return BEGINNING
    if ago := _AGO.match(text):
        try:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            return BEGINNING
    try:
        return parse_time(text)
    except ValueError:
        raise BadInput(
            f"{option} must be like 10m, 2h, 3d (ago), 2026-02-03T10:08:28Z, or beginning, not {text[:40]!r}"
        ) from None
