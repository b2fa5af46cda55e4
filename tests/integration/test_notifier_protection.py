"""``/ws`` on real servers: what one client may take of the process, and the going down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio
from services.notifier.tests.events import offers_made, withdrawn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from notifier.hub import MAX_CONCURRENT_READS
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
    soon,
    token,
    until,
    user,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
LARGEST_FRAME_BYTES = 2048  # of those that these tests send


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    """One replica for all tests of this file; each test has users of its own."""
    async with replica(here.settings()) as notifier:
        yield notifier


async def test_ping_gets_pong_and_ack_gets_nothing(notifier: Replica) -> None:
    async with phone(notifier) as it:
        await it.enter(user())
        await it.say({"type": "ack", "offset": 0})
        await it.say({"type": "ping"})
        assert (await it.hear())["type"] == "pong"


@pytest.mark.parametrize(
    "frame",
    [b"\x00", "", "no json", "[]", '{"type":"dance"}', '{"type":"ack","offset":-1}', "[" * 60_000],
    ids=["binary", "empty", "text", "list", "unknown", "negative", "deep"],
)
@pytest.mark.parametrize("authenticated", [True, False])
async def test_a_bad_frame_is_closed_with_4400(
    notifier: Replica, frame: str | bytes, authenticated: bool
) -> None:
    async with phone(notifier) as it:
        if authenticated:
            await it.enter(user())
        await it.say(frame)
        assert await it.close_code() == 4400


async def test_a_second_auth_is_closed_with_4400(notifier: Replica) -> None:
    captain = user()
    async with phone(notifier) as it:
        await it.enter(captain)
        await it.say({"type": "auth", "token": token(captain)})
        assert await it.close_code() == 4400


async def test_a_frame_over_64_kib_is_closed_with_1009(notifier: Replica) -> None:
    async with phone(notifier) as it:
        await it.enter(user())
        await it.say(json.dumps({"type": "ping", "filler": "x" * 65_536}))
        assert await it.close_code() == 1009


async def test_a_chatty_client_is_closed_with_4429_but_acks_of_what_was_sent_are_free(
    here: Ground, publish: Publish
) -> None:
    captain = user()
    settings = here.settings(ws_messages_burst=5, ws_messages_per_s=0.001)
    async with replica(settings) as notifier, phone(notifier) as it:
        await it.enter(captain)
        await publish(*(withdrawn("filled", captain, order_id=order_id()) for _ in range(20)))
        for frame in await it.hear_upto(20):
            await it.say({"type": "ack", "offset": frame["offset"]})
        await it.say({"type": "ping"})
        assert (await it.hear())["type"] == "pong"
        for _ in range(5):
            await it.say({"type": "ack", "offset": 20})
        assert await it.close_code() == 4429


async def test_a_browser_on_a_page_not_listed_is_closed_with_4403(here: Ground) -> None:
    async with replica(here.settings(ws_allowed_origins="https://app.example.com")) as notifier:
        async with phone(notifier, origin="https://evil.example.com") as it:
            assert await it.close_code() == 4403
        async with phone(notifier, origin="https://app.example.com") as it:
            await it.enter(user())


async def test_the_oldest_of_too_many_sockets_of_a_user_goes_with_4409(here: Ground) -> None:
    captain = user()
    async with (
        replica(here.settings(ws_max_per_user=2)) as notifier,
        phone(notifier) as one,
        phone(notifier) as two,
        phone(notifier) as three,
    ):
        for it in (one, two, three):
            await it.enter(captain)
        assert await one.close_code() == 4409
        for it in (two, three):
            await it.say({"type": "ping"})
            assert (await it.hear())["type"] == "pong"


async def test_sockets_that_show_no_token_leave_room_only_for_so_many(here: Ground) -> None:
    settings = here.settings(ws_max_unauthenticated=2)
    async with replica(settings) as notifier, phone(notifier) as one, phone(notifier):
        with pytest.raises(InvalidStatus) as refused:
            await connect(notifier.ws_url, proxy=None)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "2"
        await one.enter(user())
        async with phone(notifier) as three:
            await three.enter(user())


async def test_another_path_is_404(notifier: Replica) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(notifier.ws_url + "x", proxy=None)
    assert refused.value.response.status_code == 404


async def test_a_client_that_stops_reading_is_closed_with_4429_and_made_whole_when_it_comes_back(
    here: Ground, notifier: Replica, publish: Publish
) -> None:
    slow, quick = user(), user()
    hasty = here.settings(
        ws_queue_bytes=8192, ws_send_buffer_bytes=8192, ws_slow_deadline_s=0.3, ws_close_deadline_s=0.3
    )
    # Only the slow one is judged by so short a deadline: who reads must manage it on a machine that stalls.
    async with replica(hasty) as strict, deaf_phone(strict) as it, phone(notifier) as other:
        epoch = (await it.enter(slow))["epoch"]
        await other.enter(quick)
        it.connection.transport.pause_reading()
        sending = asyncio.gather(
            *(
                publish(offers_made(slow, quick, order_id=order_id(), expires_at=soon(3600)))
                for _ in range(200)
            )
        )
        heard = await other.hear_upto(200)
        await sending
        assert len(heard) == 200
        await until(lambda: strict.metric("weelo_notifier_closed_total", code="4429") == 1, "4429")
    async with phone(notifier) as it:
        ready = await it.enter(slow, resume={"epoch": epoch, "offset": 0})
        assert (ready["recovered"], ready["offset"]) == (True, 200)
        frames = await it.hear_upto(200)
        assert [frame["offset"] for frame in frames] == list(range(1, 201))


async def test_what_waits_for_a_client_that_stops_reading_stays_bounded(
    here: Ground, publish: Publish
) -> None:
    slow, quick = user(), user()
    queue_bytes, looks = 8192, 50
    settings = here.settings(
        ws_queue_bytes=queue_bytes, ws_send_buffer_bytes=8192, ws_slow_deadline_s=30, heads_check_s=0.05
    )
    async with replica(settings) as notifier, deaf_phone(notifier) as it, phone(notifier) as other:
        await it.enter(slow)
        await other.enter(quick)
        it.connection.transport.pause_reading()
        await asyncio.gather(*(publish(offers_made(slow, quick, order_id=order_id())) for _ in range(200)))
        await other.hear_upto(200)

        def queued() -> float:
            return notifier.metric("weelo_notifier_queued_bytes")

        await until(lambda: queued() >= queue_bytes, "a full queue")
        highest = 0.0
        for _ in range(looks):
            highest = max(highest, queued())
            await asyncio.sleep(0.01)
        assert highest <= queue_bytes + LARGEST_FRAME_BYTES


@contextlib.asynccontextmanager
async def deaf_phone(notifier: Replica) -> AsyncIterator[Phone]:
    """A phone whose kernel takes little when it does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", notifier.sockets.port))
    raw.setblocking(False)
    async with connect(
        notifier.ws_url, sock=raw, compression=None, proxy=None, close_timeout=0.1, ping_interval=None
    ) as connection:
        yield Phone(connection)


async def test_who_waits_too_long_for_a_turn_to_read_is_closed_with_1012_while_others_still_read(
    here: Ground,
) -> None:
    settings = here.settings(
        ws_read_wait_s=0.2,
        postgres_lock_timeout_s=2 * PATIENCE_S,
        postgres_statement_timeout_s=2 * PATIENCE_S,
    )
    async with contextlib.AsyncExitStack() as opened:
        notifier = await opened.enter_async_context(replica(settings))
        phones = [await opened.enter_async_context(phone(notifier)) for _ in range(MAX_CONCURRENT_READS + 1)]
        holder = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
        opened.push_async_callback(holder.close)
        async with holder.transaction():
            await holder.execute("LOCK TABLE streams IN ACCESS EXCLUSIVE MODE")
            for it in phones:
                await it.say({"type": "auth", "token": token(user())})
            ended = [asyncio.create_task(it.close_code()) for it in phones]
            done, waiting = await asyncio.wait(ended, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert [one.result() for one in done] == [1012]
            assert len(waiting) == MAX_CONCURRENT_READS
            for one in waiting:
                one.cancel()


# --- going down ---


async def test_going_down_closes_every_socket_with_1012_while_http_says_not_ready(here: Ground) -> None:
    settings = here.settings(ws_drain_wait_s=0.3, ws_drain_spread_s=0.3, ws_close_deadline_s=2 * PATIENCE_S)
    async with (
        contextlib.AsyncExitStack() as running,
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http,
    ):
        notifier = await running.enter_async_context(replica(settings))
        phones = [Phone(await connect(notifier.ws_url, proxy=None, compression=None)) for _ in range(6)]
        for it in phones:
            await it.enter(user())
        last = phones[-1].connection.transport
        last.pause_reading()  # as long as it does not say goodbye the notifier waits for it
        stopping = asyncio.create_task(running.aclose())
        await until(lambda: bool(notifier.life.health.not_ready()), "not ready")
        assert [await it.close_code() for it in phones[:-1]] == [1012] * 5
        assert (await http.get(f"{notifier.http_url}/health/ready")).status_code == 503
        last.resume_reading()
        assert await phones[-1].close_code() == 1012
        await stopping
        with pytest.raises((OSError, ConnectionClosed)):
            await connect(notifier.ws_url, proxy=None)
