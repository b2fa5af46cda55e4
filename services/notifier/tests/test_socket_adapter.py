"""The adapter over ``websockets``, on real connections: what it takes for granted of the library, and what it adds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os

import pytest
import uvloop
from services.notifier.tests.socket_rig import (
    CLOSE_DEADLINE_S,
    PATIENCE_S,
    bare_client,
    client,
    eventually,
    listening,
)
from websockets.exceptions import ConnectionClosed
from websockets.protocol import Event

from notifier.protocol import CloseCode
from notifier.socket_adapter import (
    MAX_UNASKED_FRAMES,
    PIECE_BYTES,
    Gate,
    Message,
    SlowClient,
    Socket,
    text_frame,
)

PING, PONG = b"\x89\x00", b"\x8a\x00"  # a server's, without a payload

LIBRARYS_OWN = {
    "protocol", "ping_interval", "ping_timeout", "close_timeout", "max_queue_high", "max_queue_low",
    "write_limit_high", "write_limit_low", "id", "logger", "debug", "request", "response", "loop", "recv_messages",
    "close_deadline", "send_in_progress", "pending_pings", "latency", "keepalive_task", "connection_exc",
    "connection_lost_waiter", "paused", "drain_waiters", "transport", "server", "request_rcvd",
}  # fmt: skip
"""What the library keeps with a connection. Where a version keeps something else, read the adapter again."""


async def echo(socket: Socket) -> None:
    """Send every message back."""
    socket.begin()
    socket.listen(lambda it, message: it.write(text_frame(str(message).encode())))
    await socket.gone


async def test_the_library_keeps_with_a_connection_what_the_adapter_reckons_with() -> None:
    kept: list[set[str]] = []

    async def look(socket: Socket) -> None:
        socket.begin()
        kept.append(set(vars(socket)))
        await socket.gone

    async with listening(look) as port, client(port):
        pass
    assert kept == [LIBRARYS_OWN]
    assert len(LIBRARYS_OWN) <= 30  # more, and CPython gives each connection a dict with keys of its own


async def test_the_headers_of_the_handshake_are_given_once_and_forgotten() -> None:
    seen: list[str | None] = []

    async def look(socket: Socket) -> None:
        seen.append(socket.begin().get("Authorization"))
        seen.append(socket.request.headers.get("Authorization") if socket.request else "")
        assert socket.response is None
        await socket.gone

    async with listening(look) as port, client(port, additional_headers={"Authorization": "Bearer x"}):
        pass
    assert seen == ["Bearer x", None]


async def test_messages_of_every_length_go_both_ways_in_order() -> None:
    async with listening(echo, write_limit=1 << 20) as port, client(port) as it:
        sent = ["x" * length for length in (0, 1, 125, 126, 127, 9_000, 65_535, 65_536)]
        for message in sent:
            await it.send(message)
        async with asyncio.timeout(PATIENCE_S):
            assert [await it.recv() for _ in sent] == sent


async def test_a_message_in_fragments_is_put_together() -> None:
    async with listening(echo) as port, client(port) as it:
        await it.send(["one ", "and ", "two"])
        async with asyncio.timeout(PATIENCE_S):
            assert await it.recv() == "one and two"


async def test_what_comes_before_anybody_listens_is_kept_and_no_more_is_read() -> None:
    heard: list[Message | None] = []
    go_on = asyncio.Event()

    async def late(socket: Socket) -> None:
        socket.begin()
        heard.append(await socket.first_message())
        await go_on.wait()
        await eventually(lambda: not socket.transport.is_reading())
        socket.listen(lambda _, message: heard.append(message))
        await socket.gone

    async with listening(late) as port, client(port) as it:
        for number in range(20):
            await it.send(str(number))
            await asyncio.sleep(0)
        await it.ping()
        go_on.set()
        await eventually(lambda: len(heard) == 20)
    assert heard == [str(number) for number in range(20)]


async def test_who_goes_away_before_his_first_message_leaves_none() -> None:
    heard: list[Message | None] = []

    async def wait(socket: Socket) -> None:
        socket.begin()
        heard.append(await socket.first_message())

    async with listening(wait) as port, bare_client(port):
        pass
    assert heard == [None]


async def test_what_the_kernel_does_not_take_waits_and_arrives_whole_behind_what_was_before_it() -> None:
    frames = [json.dumps({"number": number, "filler": "x" * 3_000}).encode() for number in range(3_000)]
    full: list[bool] = []

    async def pour(socket: Socket) -> None:
        socket.begin()
        for number, payload in enumerate(frames):
            if number % 100 == 0:
                socket.protocol.send_pong(b"in between")  # the library's own frames keep their place, too
                socket.send_data()
            socket.write(text_frame(payload))
        full.append(socket.is_full)
        await socket.drained(PATIENCE_S)
        full.append(socket.is_full)
        await socket.gone

    async with listening(pour, write_limit=(65_536, 32_768)) as port, client(port) as it:
        it.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.05, it.transport.resume_reading)
        async with asyncio.timeout(PATIENCE_S):
            assert [str(await it.recv()).encode() for _ in frames] == frames
    assert full == [True, False]


@pytest.mark.parametrize("by_library", [False, True])
def test_nothing_overtakes_a_frame_that_the_kernel_took_half_of(by_library: bool) -> None:
    payload = b"a" * 8_000_000

    async def scenario() -> bytes:
        open_sockets: list[Socket] = []

        async def hold(socket: Socket) -> None:
            socket.begin()
            open_sockets.append(socket)
            await socket.gone

        async with listening(hold, write_limit=1 << 24) as port, bare_client(port) as (reader, writer):
            await eventually(lambda: bool(open_sockets))
            (socket,) = open_sockets
            socket.write(text_frame(b"before"))
            assert await reader.readexactly(8) == b"\x81\x06before"
            if by_library:
                socket.protocol.send_text(payload)
                socket.send_data()
            else:
                socket.write(text_frame(payload))
            assert socket.queued_bytes > 0
            taken = read_at_once(writer.get_extra_info("socket").fileno())  # now there is room again
            assert taken
            socket.write(text_frame(b"behind it"))
            rest = await reader.readexactly(len(text_frame(payload)) - len(taken) + 11)
            return (taken + rest).removeprefix(text_frame(payload))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in production
        assert runner.run(scenario()) == b"\x81\x09behind it"


def read_at_once(descriptor: int) -> bytes:
    """Everything that the kernel holds, without a turn of the event loop."""
    read = b""
    with contextlib.suppress(BlockingIOError):
        while some := os.read(descriptor, 1 << 20):
            read += some
    return read


async def test_who_makes_no_room_in_time_is_too_slow() -> None:
    ended: list[BaseException | None] = []

    async def pour(socket: Socket) -> None:
        socket.begin()
        while not socket.is_full:
            socket.write(text_frame(b"x" * 10_000))
        try:
            await socket.drained(0.05)
        except SlowClient as error:
            ended.append(error)
        socket.end(CloseCode.TOO_SLOW_OR_CHATTY, "too slow")
        await socket.ended()

    async with listening(pour, write_limit=65_536) as port, bare_client(port):
        await eventually(lambda: bool(ended))
    assert len(ended) == 1


async def test_a_close_has_its_code_and_its_reason_cut_to_size_and_happens_once() -> None:
    async def leave(socket: Socket) -> None:
        socket.begin()
        assert socket.end(CloseCode.BAD_FRAME, "ß" * 100)
        assert not socket.end(CloseCode.GOING_DOWN, "again")
        socket.write(text_frame(b"nothing goes out any more"))
        await socket.ended()

    async with listening(leave) as port, client(port) as it:
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(PATIENCE_S):
                await it.recv()
    assert (it.close_code, it.close_reason) == (4400, "ß" * 61)


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_who_does_not_hang_up_after_the_goodbye_is_cut_off(says_goodbye: bool) -> None:
    loop = asyncio.get_running_loop()
    goodbye_at: list[float] = []
    gone_at: list[float] = []

    async def leave(socket: Socket) -> None:
        socket.begin()
        if not says_goodbye:
            goodbye_at.append(loop.time())
            socket.end(CloseCode.GOING_DOWN, "go elsewhere")
        await socket.gone
        gone_at.append(loop.time())

    async with listening(leave) as port, bare_client(port) as (_, writer):
        if says_goodbye:
            goodbye_at.append(loop.time())
            writer.write(b"\x88\x80\0\0\0\0")
        await eventually(lambda: bool(gone_at))
    assert gone_at[0] - goodbye_at[0] >= CLOSE_DEADLINE_S / 2


@pytest.mark.parametrize(
    ("frame", "listens", "code"),
    [
        pytest.param(b"\x89\x80mask", True, 4429, id="pings"),
        pytest.param(b"\x8a\x80mask", True, 4429, id="pongs"),
        pytest.param(b"\x89\x80mask", False, 4429, id="pings before anybody listens"),
        pytest.param(b"\x81\x80mask", False, 4429, id="messages before anybody listens"),
        pytest.param(b"\x81\x80mask", True, 4400, id="messages behind our goodbye"),
    ],
)
async def test_who_talks_without_end_is_closed_and_heard_no_further(
    frame: bytes, listens: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0
    process_event = Socket.process_event

    def count(socket: Socket, event: Event) -> None:
        nonlocal parsed
        parsed += 1
        process_event(socket, event)

    async def converse(socket: Socket) -> None:
        socket.begin()

        def refuse(it: Socket, _: Message) -> None:
            it.end(CloseCode.BAD_FRAME, "not like this")

        if listens:
            socket.listen(refuse)
        await socket.gone

    monkeypatch.setattr(Socket, "process_event", count)
    async with listening(converse) as port, client(port) as it:
        it.transport.write(frame * 20_000)  # past the library, which would wait for answers
        async with asyncio.timeout(PATIENCE_S):
            await it.wait_closed()
    assert it.close_code == code
    last_piece = PIECE_BYTES // len(frame) + 1
    assert parsed <= 1 + MAX_UNASKED_FRAMES + last_piece  # the handshake is the first


async def test_who_talked_without_end_is_not_read_again_by_somebody_who_listens_late() -> None:
    reads: list[bool] = []

    async def late(socket: Socket) -> None:
        socket.begin()
        await eventually(lambda: not socket.is_open)
        socket.listen(lambda _, message: None)
        reads.append(socket.transport.is_reading())
        await socket.gone

    async with listening(late) as port, bare_client(port) as (_, writer):
        writer.write(b"\x89\x80mask" * 20_000)
        await eventually(lambda: bool(reads))
    assert reads == [False]


async def test_pings_that_keep_to_the_pace_are_answered_for_ever() -> None:
    async def converse(socket: Socket) -> None:
        socket.begin()

        def hear(it: Socket, _: Message) -> None:
            it.ask_for_life()  # as the heartbeat does once an interval

        socket.listen(hear)
        await socket.gone

    async with listening(converse) as port, bare_client(port) as (reader, writer):
        for _ in range(3):
            writer.write(b"\x89\x80mask" * MAX_UNASKED_FRAMES + b"\x81\x80mask")
            async with asyncio.timeout(PATIENCE_S):
                answers = await reader.readexactly(2 * MAX_UNASKED_FRAMES + 2)
            assert answers == PONG * MAX_UNASKED_FRAMES + PING


async def test_the_gate_counts_who_is_there_and_who_has_shown_a_token_however_they_leave() -> None:
    gate = Gate(most=2, most_unauthenticated=1)
    at_the_door = asyncio.Event()
    there: list[Socket] = []

    async def converse(socket: Socket) -> None:
        there.append(socket)
        socket.begin()
        if await socket.first_message() == "token":
            socket.show_token()
        at_the_door.set()
        await socket.gone
        socket.show_token()  # the token was checked while he went: it counts no more

    async with listening(converse, gate=gate) as port:
        async with client(port) as one:
            assert (gate.unauthenticated, gate.refusal()) == (1, None)
            await one.send("token")
            await asyncio.wait_for(at_the_door.wait(), PATIENCE_S)
            assert gate.unauthenticated == 0
            async with bare_client(port), bare_client(port):
                assert (gate.unauthenticated, gate.refusal()) == (2, "sockets")
        await eventually(lambda: gate.unauthenticated == 0 and all(socket.gone.done() for socket in there))
        async with bare_client(port), bare_client(port):
            assert (gate.unauthenticated, gate.refusal()) == (2, "unauthenticated")
