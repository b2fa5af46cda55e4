"""An outage gives two lines, whatever happens in it."""

from __future__ import annotations

import logging

import pytest

from weelo_common.outage_log import OutageLog


@pytest.fixture
def outages() -> OutageLog:
    return OutageLog(logging.getLogger("weelo_test"), begins="It waits", ends="It goes on")


def test_an_outage_is_told_when_it_begins_and_when_it_ends_and_so_is_the_next(
    outages: OutageLog, caplog: pytest.LogCaptureFixture
) -> None:
    outages.goes_on()
    for _ in range(2):
        for _ in range(3):
            outages.waits("gone")
        for _ in range(3):
            outages.goes_on()
    assert caplog.messages == ["It waits", "It goes on"] * 2
    assert getattr(caplog.records[0], "reason", None) == "gone"


def test_an_outage_lasts_until_the_last_goes_on(outages: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    outages.waits("gone", "first")
    outages.waits("gone", "second")
    outages.goes_on("first")
    outages.goes_on("somebody else")
    assert caplog.messages == ["It waits"]
    outages.goes_on("second")
    assert caplog.messages == ["It waits", "It goes on"]


def test_who_gives_up_ends_no_outage_and_leaves_none_behind(
    outages: OutageLog, caplog: pytest.LogCaptureFixture
) -> None:
    outages.waits("gone", "first")
    outages.gives_up("first")
    outages.goes_on("second")
    outages.waits("gone", "second")
    assert caplog.messages == ["It waits", "It waits"]
