"""``/ws`` on real servers: authentication, live push, resume, and the same by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from services.notifier.tests.events import assigned, offer_id, offers_made, order_event, withdrawn

from notifier.store import Stream
from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Publish,
    Replica,
    events_of,
    order_id,
    phone,
    replica,
    token,
    until,
    user,
)
from weelo_common.events import OrderCancelled, OrderFullyFilled
from weelo_common.postgres import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
END_OFFERS = "UPDATE notifications SET expires_at = clock_timestamp() WHERE user_id = $1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    """One replica for all tests of this file; each test has users of its own."""
    async with replica(here.settings()) as notifier:
        yield notifier


# --- authentication ---


async def test_a_first_frame_with_a_token_is_answered_with_ready(notifier: Replica) -> None:
    captain = user()
    async with phone(notifier) as it:
        ready = await it.enter(captain)
    assert ready["userId"] == captain
    assert ready["role"] == "captain"
    assert (ready["offset"], ready["recovered"]) == (0, False)
    assert len(ready["epoch"]) == 36
    assert ready["serverTimeMs"] > 1_700_000_000_000


async def test_an_authorization_header_may_replace_the_token_of_the_first_frame(notifier: Replica) -> None:
    captain = user()
    header = {"Authorization": f"Bearer {token(captain)}"}
    async with phone(notifier, additional_headers=header) as it:
        await it.say({"type": "auth"})
        assert (await it.hear())["userId"] == captain


async def test_silence_after_the_handshake_is_closed_with_4401_in_time(here: Ground) -> None:
    async with replica(here.settings(ws_auth_deadline_s=0.5)) as hasty, phone(hasty) as it:
        assert await it.close_code() == 4401


@pytest.mark.parametrize(
    "first",
    [
        {"type": "ping"},
        {"type": "auth"},
        {"type": "auth", "token": ""},
        {"type": "auth", "token": "not.a.token"},
        {"type": "auth", "token": token("d-1", lifetime_s=-60)},
        {"type": "auth", "token": token("d-1", role="king")},
        {"type": "auth", "token": token("d-1", aud="others")},
        {"type": "auth", "token": "x" * 10_000},
    ],
)
async def test_without_a_token_that_holds_the_socket_is_closed_with_4401(
    notifier: Replica, first: dict[str, Any]
) -> None:
    async with phone(notifier) as it:
        await it.say(first)
        assert await it.close_code() == 4401


async def test_the_socket_is_closed_with_4408_when_its_token_ends(notifier: Replica) -> None:
    async with phone(notifier) as it:
        await it.say({"type": "auth", "token": token(user(), lifetime_s=4)})  # long enough to be let in
        assert (await it.hear())["type"] == "ready"
        assert await it.close_code() == 4408


# --- live push ---


async def test_an_offer_reaches_its_captain_live_with_the_id_of_its_event(
    notifier: Replica, publish: Publish
) -> None:
    captain, order = user(), order_id()
    async with phone(notifier) as it:
        await it.enter(captain)
        (event_id,) = await publish(offers_made(captain, order_id=order))
        frame = await it.hear()
    assert (frame["type"], frame["offset"], frame["event"]) == ("event", 1, "new_broadcast")
    assert frame["id"] == f"{event_id}:new_broadcast"
    assert frame["data"]["orderId"] == order
    assert frame["data"]["offerToken"] == "header.claims.signature"
    assert frame["expiresAt"] == frame["data"]["expiresAt"]


async def test_an_assignment_reaches_captain_and_customer_in_the_order_of_events(
    notifier: Replica, publish: Publish
) -> None:
    captain, customer, order = user(), user("c"), order_id()
    async with phone(notifier) as captains, phone(notifier) as customers:
        await captains.enter(captain)
        await customers.enter(customer, "customer")
        await publish(
            assigned(order, 2, captain=captain, customer_id=customer),
            order_event(OrderFullyFilled, order, 3, customer_id=customer, searching=False),
        )
        assert events_of(await captains.hear_upto(1)) == ["trip_assigned"]
        assert events_of(await customers.hear_upto(4)) == [
            "truck_assigned", "order_status_update", "order_fully_filled", "order_status_update",
        ]  # fmt: skip


async def test_all_sockets_of_a_user_get_the_same_frames(notifier: Replica, publish: Publish) -> None:
    captain = user()
    async with phone(notifier) as one, phone(notifier) as two:
        await one.enter(captain)
        await two.enter(captain)
        await publish(offers_made(captain, order_id=order_id()))
        assert await one.hear() == await two.hear()


async def test_hundreds_of_events_come_in_order_without_gap_or_repeat(
    notifier: Replica, publish: Publish
) -> None:
    captain = user()
    async with phone(notifier) as it:
        await it.enter(captain)
        sending = asyncio.gather(
            *(publish(withdrawn("filled", captain, order_id=order_id())) for _ in range(300))
        )
        heard = await it.hear_upto(300)
        await sending
    assert [frame["offset"] for frame in heard] == list(range(1, 301))
    assert len({frame["id"] for frame in heard}) == 300


async def test_what_is_committed_while_a_stream_is_opened_is_pushed_without_a_check(
    here: Ground, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(here.settings(heads_check_s=600)) as notifier:
        await until(lambda: notifier.hears_redis, "it hears the other replica of this file")
        open_stream = notifier.hub.open_stream

        def frames_heard_of() -> float:
            """Committed here, or by the other replica of this file."""
            return notifier.metric("weelo_notifier_appended_total") + notifier.metric(
                "weelo_notifier_routed_total", direction="in"
            )

        async def open_then_commit(user_id: str) -> Stream:
            stream = await open_stream(user_id)
            before = frames_heard_of()
            await publish(offers_made(user_id, order_id=order_id()))
            await until(lambda: frames_heard_of() > before, "the frame")
            return stream

        monkeypatch.setattr(notifier.hub, "open_stream", open_then_commit)
        async with phone(notifier) as it:
            assert (await it.enter(user()))["offset"] == 0
            assert (await it.hear())["offset"] == 1


# --- resume ---


async def missed(notifier: Replica, publish: Publish, captain: str) -> dict[str, Any]:
    """Two offers that end, a dismissal, one more that ends, one that lives, and a trip; returns the first ``ready``."""
    gone, over, taken, live = (order_id() for _ in range(4))
    customer = user("c")
    async with phone(notifier) as it, phone(notifier) as theirs:
        await theirs.enter(customer, "customer")
        ready = await it.enter(captain)
        for offset, event in enumerate(
            (
                offers_made(captain, order_id=gone),
                offers_made(captain, order_id=over),
                withdrawn("filled", captain, order_id=gone),
                offers_made(captain, order_id=taken),
                offers_made(captain, order_id=live),
                assigned(taken, captain=captain),
            ),
            start=1,
        ):
            await publish(event)
            await it.hear_upto(offset)
        await publish(
            order_event(OrderCancelled, over, 2, reason="customer", searching=False, customer_id=customer)
        )
        await theirs.hear()
    return ready


async def test_a_resume_replays_what_was_missed_and_skips_offers_that_ended(
    notifier: Replica, publish: Publish
) -> None:
    captain = user()
    before = await missed(notifier, publish, captain)
    async with phone(notifier) as it:
        ready = await it.enter(captain, resume={"epoch": before["epoch"], "offset": 0})
        frames = await it.hear_upto(6)
        assert (ready["recovered"], ready["offset"]) == (True, 6)
        assert [(f["type"], f.get("event") or (f["from"], f["to"])) for f in frames] == [
            ("skip", (1, 2)),
            ("event", "broadcast_dismissed"),
            ("skip", (4, 4)),
            ("event", "new_broadcast"),
            ("event", "trip_assigned"),
        ]
        await publish(withdrawn("busy", captain, order_id=order_id()))
        assert (await it.hear())["offset"] == 7


async def test_http_gives_the_same_frames_as_a_resume(notifier: Replica, publish: Publish) -> None:
    captain = user()
    before = await missed(notifier, publish, captain)
    async with phone(notifier) as it:
        await it.enter(captain, resume={"epoch": before["epoch"], "offset": 0})
        frames = await it.hear_upto(6)
    async with httpx.AsyncClient(
        base_url=notifier.http_url,
        headers={"Authorization": f"Bearer {token(captain)}"},
        trust_env=False,
        timeout=PATIENCE_S,
    ) as http:
        whole = (await http.get("/api/v1/notifications")).json()["data"]
        page = (await http.get("/api/v1/notifications?after=2&limit=2")).json()["data"]
        bad = await http.get("/api/v1/notifications?after=-1")
        huge = await http.get("/api/v1/notifications?limit=100000")
    assert whole == {"epoch": before["epoch"], "events": frames, "hasMore": False, "recovered": True}
    assert [frame.get("from") or frame["offset"] for frame in page["events"]] == [3, 4]
    assert page["hasMore"] is True
    assert {bad.json()["error"]["code"], huge.json()["error"]["code"]} == {"VALIDATION_ERROR"}


async def test_http_wants_a_token(notifier: Replica) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.get(f"{notifier.http_url}/api/v1/notifications")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")


async def test_an_offer_past_its_time_is_skipped_on_resume(
    here: Ground, notifier: Replica, publish: Publish
) -> None:
    captain = user()
    async with phone(notifier) as it:
        epoch = (await it.enter(captain))["epoch"]
        await publish(offers_made(captain, order_id=order_id()))
        assert (await it.hear())["event"] == "new_broadcast"
    async with (
        Database.open(here.settings(), application_name="test") as database,
        database.connection() as connection,
    ):
        await connection.execute(END_OFFERS, captain)
    async with phone(notifier) as it:
        await it.enter(captain, resume={"epoch": epoch, "offset": 0})
        assert await it.hear() == {"type": "skip", "from": 1, "to": 1}


@pytest.mark.parametrize("resume", [{"epoch": "another", "offset": 0}, {"offset": 2}])
async def test_a_resume_from_a_foreign_epoch_or_from_ahead_is_not_recovered_and_replays_nothing(
    notifier: Replica, publish: Publish, resume: dict[str, Any]
) -> None:
    captain = user()
    async with phone(notifier) as it:
        epoch = (await it.enter(captain))["epoch"]
        await publish(withdrawn("filled", captain, order_id=order_id()))
        await it.hear()
    async with phone(notifier) as it:
        ready = await it.enter(captain, resume={"epoch": epoch} | resume)
        assert (ready["recovered"], ready["offset"], ready["epoch"]) == (False, 1, epoch)
        await publish(withdrawn("filled", captain, order_id=order_id()))
        assert (await it.hear())["offset"] == 2


async def test_without_resume_nothing_old_is_sent(notifier: Replica, publish: Publish) -> None:
    captain = user()
    async with phone(notifier) as it:
        await it.enter(captain)
        await publish(offers_made(captain, order_id=order_id()))
        await it.hear()
    async with phone(notifier) as it:
        assert (await it.enter(captain))["offset"] == 1
        await publish(offers_made(captain, order_id=order_id()))
        assert (await it.hear())["offset"] == 2


async def test_an_offer_not_yet_dead_is_still_live_in_another_users_stream(
    notifier: Replica, publish: Publish
) -> None:
    one, other, order = user(), user(), order_id()
    async with phone(notifier) as it:
        epoch = (await it.enter(other))["epoch"]
        await publish(offers_made(one, other, order_id=order), withdrawn("busy", one, order_id=order))
        await it.hear()
    async with phone(notifier) as it:
        await it.enter(other, resume={"epoch": epoch, "offset": 0})
        assert (await it.hear())["data"]["offerId"] == offer_id(order, other)
