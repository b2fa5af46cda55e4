"""Where a part of a user's stream is gone, by retention or with a database that lost commits, its client hears so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from services.notifier.tests.events import withdrawn

from notifier import retention, store
from notifier.store import Stream
from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Phone,
    Publish,
    Replica,
    order_id,
    phone,
    replica,
    token,
    user,
)
from weelo_common.postgres import Connection, Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
LOSE_COMMITS = """
WITH gone AS (DELETE FROM notifications WHERE user_id = $1 AND stream_offset > $2)
UPDATE streams SET head = $2 WHERE user_id = $1
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    """One replica for all tests of this file; each test has users of its own."""
    async with replica(here.settings()) as notifier:
        yield notifier


async def told(it: Phone, publish: Publish, captain: str, frames: int) -> None:
    """So many frames for the captain who listens."""
    for _ in range(frames):
        await publish(withdrawn("filled", captain, order_id=order_id()))
    await it.hear_upto(frames)


async def page(notifier: Replica, captain: str, after: int) -> dict[str, Any]:
    """What ``GET /notifications`` answers."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.get(
            f"{notifier.http_url}/api/v1/notifications",
            params={"after": after},
            headers={"Authorization": f"Bearer {token(captain)}"},
        )
    found: dict[str, Any] = answer.json()["data"]
    return found


@pytest.mark.parametrize(("after", "recovered"), [(0, True), (2, True), (3, False), (500, False)])
async def test_a_page_is_whole_only_for_an_offset_that_the_stream_has_given(
    notifier: Replica, publish: Publish, after: int, recovered: bool
) -> None:
    captain = user()
    async with phone(notifier) as it:
        await it.enter(captain)
        await told(it, publish, captain, 2)
    found = await page(notifier, captain, after)
    assert (found["recovered"], [frame["offset"] for frame in found["events"]]) == (
        recovered,
        [1, 2][after:],
    )


async def test_a_page_whose_beginning_retention_takes_meanwhile_is_not_whole(
    here: Ground, notifier: Replica, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    captain = user()
    async with phone(notifier) as it:
        await it.enter(captain)
        await told(it, publish, captain, 5)
    open_stream = store.open_stream
    async with (
        Database.open(here.settings(), application_name="test") as database,
        database.connection() as sweeping,
    ):

        async def open_then_cut(connection: Connection, user_id: str) -> Stream:
            stream = await open_stream(connection, user_id)
            async with sweeping.transaction():
                await retention.drop_surplus_frames(sweeping, most=2)
            return stream

        monkeypatch.setattr(store, "open_stream", open_then_cut)
        found = await page(notifier, captain, 0)
    assert (found["recovered"], [frame["offset"] for frame in found["events"]]) == (False, [4, 5])


async def test_who_was_sent_frames_that_the_database_has_lost_is_closed_and_not_recovered(
    here: Ground, notifier: Replica, publish: Publish
) -> None:
    captain = user()
    async with phone(notifier) as it:
        epoch = (await it.enter(captain))["epoch"]
        await told(it, publish, captain, 5)
        async with (
            Database.open(here.settings(), application_name="test") as database,
            database.connection() as connection,
        ):
            await connection.execute(LOSE_COMMITS, captain, 2)  # as a standby that was behind does
        assert await it.close_code() == 1012
    async with phone(notifier) as it:
        ready = await it.enter(captain, resume={"epoch": epoch, "offset": 5})
        assert (ready["recovered"], ready["offset"]) == (False, 2)
        await publish(withdrawn("filled", captain, order_id=order_id()))
        assert (await it.hear())["offset"] == 3
