"""Times in text: what RFC 3339 allows is read, and what it means is kept."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from weelo_common.clock import format_time, parse_time

MOMENT = datetime(2026, 2, 3, 10, 8, 28, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-03T10:08:28.123Z",
        "2026-02-03t10:08:28.123z",
        "2026-02-03 10:08:28.123+00:00",
        "2026-02-03T15:38:28.123+05:30",
        "2026-02-03T10:08:28.123000999Z",
    ],
)
def test_one_moment_may_be_written_in_every_way_of_rfc_3339(text: str) -> None:
    assert parse_time(text) == MOMENT
    assert format_time(parse_time(text)) == "2026-02-03T10:08:28.123Z"


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-02-03", "2026-02-03T10:08:28", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:00"],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
