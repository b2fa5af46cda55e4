"""Wrong frames of every kind, by hand and by chance: each is closed with its code, and nobody else feels it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Phone,
    Replica,
    processes,
    replica,
    token,
    until,
    user,
)
from tools.chaos.logs import logged_errors

pytestmark = pytest.mark.asyncio(loop_scope="module")
here = notifier_rig.here
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CUT_OFF = 1006
QUESTIONS_BEFORE_AN_ERROR = 100  # in one piece each, and the client hangs up: some are gone before the answer
CODES = {1000, 1002, 1005, 1007, 1009, 4400, 4401, 4429, CUT_OFF}
"""How a conversation with rubbish in it may end; never with 1011, which is a defect of ours.

Cut off is only who hangs up in the middle of a frame.
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground) -> AsyncIterator[Replica]:
    limits = here.settings(ws_close_deadline_s=0.5, ws_messages_burst=20)
    async with replica(limits) as notifier:
        yield notifier


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A client's frame, with whatever is wrong with it."""
    mask = b"mask" if masked else b""
    head = bytes(((0x80 if fin else 0) | (rsv << 4) | opcode,))
    flag = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes((flag | len(payload),))
    elif len(payload) < 65_536:
        head += bytes((flag | 126,)) + len(payload).to_bytes(2, "big")
    else:
        head += bytes((flag | 127,)) + len(payload).to_bytes(8, "big")
    if masked:
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return head + mask + payload


class Wire:
    """A bare TCP connection after the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> bool:
        """Send; False where the connection is gone."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return False
        return not self._writer.is_closing()

    async def enter(self) -> None:
        """Authenticate as somebody."""
        await self.send(frame(TEXT, json.dumps({"type": "auth", "token": token(user())}).encode()))
        opcode, payload = await self.hear()
        assert (opcode, json.loads(payload)["type"]) == (TEXT, "ready")

    async def hear(self) -> tuple[int, bytes]:
        """The server's next frame."""
        first, length = await self._reader.readexactly(2)
        assert length < 128, "a server's frames are not masked"
        if length == 126:
            length = int.from_bytes(await self._reader.readexactly(2), "big")
        return first & 0x0F, await self._reader.readexactly(length)

    async def close_code(self) -> int:
        """Read to the close frame and return its code; 1006 where the connection ends without one."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    opcode, payload = await self.hear()
                    if opcode == CLOSE:
                        return int.from_bytes(payload[:2], "big") if payload else 1005
            except (asyncio.IncompleteReadError, ConnectionError):
                return CUT_OFF


@contextlib.asynccontextmanager
async def wire(notifier: Replica) -> AsyncIterator[Wire]:
    """A connection that has shaken hands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", notifier.sockets.port)
    try:
        writer.write(HANDSHAKE)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param(frame(TEXT, b'{"type":"ping"}', masked=False), 1002, id="unmasked"),
        pytest.param(frame(TEXT, b"{}", rsv=4), 1002, id="compressed though nobody agreed to it"),
        pytest.param(frame(3, b"{}"), 1002, id="reserved opcode"),
        pytest.param(frame(11), 1002, id="reserved control opcode"),
        pytest.param(frame(CONT, b"{}"), 1002, id="a continuation of nothing"),
        pytest.param(frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002, id="text within text"),
        pytest.param(frame(PING, b"x", fin=False), 1002, id="a ping in fragments"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="a long ping"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="half a close code"),
        pytest.param(frame(CLOSE, (999).to_bytes(2, "big")), 1002, id="a close code that is none"),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, id="a close reason that is no text"),
        pytest.param(frame(CLOSE, (1000).to_bytes(2, "big")), 1000, id="goodbye"),
        pytest.param(frame(CLOSE), 1005, id="goodbye without a word"),
        pytest.param(frame(TEXT, b"\xff\xfe"), 1007, id="no UTF-8"),
        pytest.param(frame(TEXT, "ß".encode()[:1]), 1007, id="half a character"),
        pytest.param(frame(TEXT, b"x" * 65_537), 1009, id="too long"),
        pytest.param(
            frame(TEXT, b"x" * 40_000, fin=False) + frame(CONT, b"x" * 40_000), 1009, id="too long in two"
        ),
        pytest.param(
            frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 100, 1009, id="a hundred fragments"
        ),
        pytest.param(frame(BINARY, b"{}"), 4400, id="binary"),
        pytest.param(frame(TEXT, b"{", fin=False) + frame(CONT, b"no"), 4400, id="no JSON, in two"),
        pytest.param(frame(TEXT, b"NaN"), 4400, id="no JSON that anybody else reads"),
    ],
)
async def test_each_wrong_frame_is_closed_with_its_code(
    notifier: Replica, wrong: bytes, code: int, authenticated: bool
) -> None:
    async with wire(notifier) as it:
        if authenticated:
            await it.enter()
        await it.send(wrong)
        assert await it.close_code() == code


async def test_a_message_in_fragments_with_a_ping_between_them_is_understood(notifier: Replica) -> None:
    async with wire(notifier) as it:
        await it.enter()
        await it.send(frame(TEXT, b'{"type":', fin=False) + frame(PING, b"now") + frame(CONT, b'"ping"}'))
        assert await it.hear() == (PONG, b"now")
        opcode, payload = await it.hear()
        assert (opcode, json.loads(payload)["type"]) == (TEXT, "pong")


async def test_what_is_said_together_with_auth_is_heard_after_it(notifier: Replica) -> None:
    async with wire(notifier) as it:
        auth = json.dumps({"type": "auth", "token": token(user())}).encode()
        await it.send(frame(TEXT, auth) + frame(TEXT, b'{"type":"ping"}') * 5)
        kinds = [json.loads((await it.hear())[1])["type"] for _ in range(6)]
    assert kinds == ["ready"] + ["pong"] * 5


async def test_a_flood_of_pings_whose_pongs_nobody_reads_is_cut_off(notifier: Replica) -> None:
    async with wire(notifier) as it:
        await it.enter()
        flood = frame(PING, b"x" * 125) * 500
        # The kernel takes some megabytes of pongs; then they pile up, and the connection goes.
        async with asyncio.timeout(PATIENCE_S):
            while await it.send(flood):
                pass


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
nearly_right = st.fixed_dictionaries(
    {"type": st.sampled_from(["auth", "ack", "ping", "event", ""])},
    optional={"token": json_like, "resume": json_like, "offset": json_like | st.integers()},
)
payloads = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=60).map(str.encode),
    json_like.map(lambda value: json.dumps(value).encode()),
    nearly_right.map(lambda value: json.dumps(value).encode()),
)
frames = st.builds(
    frame,
    st.sampled_from([CONT, TEXT, TEXT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11, 15]),
    payloads,
    fin=st.sampled_from([True, True, True, False]),
    masked=st.sampled_from([True, True, True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 1, 4]),
)
rubbish = st.lists(frames | st.binary(min_size=1, max_size=40), min_size=1, max_size=6).map(b"".join)


@pytest.mark.parametrize(
    "examples",
    [60, pytest.param(1500, marks=[pytest.mark.faults, pytest.mark.timeout(240)])],
)
async def test_whatever_comes_over_the_wire_ends_one_conversation_and_no_other(
    here: Ground, tmp_path: Path, examples: int
) -> None:
    # A process of its own: hypothesis minds that anybody else in this one draws random numbers.
    limits = {"ws_close_deadline_s": 0.5, "ws_messages_burst": 20}
    quiet = {"ws_ping_interval_s": 600}  # the bystander answers no ping while hypothesis has the thread
    async with processes(here, tmp_path, 1, **limits, **quiet) as (notifier,):

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(rubbish, st.booleans())
        def say(data: bytes, authenticated: bool) -> None:
            code = conversation(notifier.ws_port, data, authenticated)
            assert code in CODES, code

        async with connect(notifier.ws_url, compression=None, proxy=None) as connection:
            bystander = Phone(connection)
            await bystander.enter(user())
            for _ in range(QUESTIONS_BEFORE_AN_ERROR):
                conversation(notifier.ws_port, frame(TEXT, b'{"type":"ping"}') * 5 + frame(15), True)
            say()
            await bystander.say({"type": "ping"})
            assert (await bystander.hear())["type"] == "pong"
        sockets = ("weelo_notifier_sockets", "weelo_notifier_unauthenticated_sockets")
        await until(lambda: [notifier.metric(name) for name in sockets] == [0, 0], "all of them gone")
        assert notifier.metric('weelo_notifier_closed_total{code="1011"}') == 0
        assert logged_errors([tmp_path / "notifier-0.log"]) == {}


def conversation(port: int, data: bytes, authenticated: bool) -> int:
    """Say something, then goodbye, and hang up; returns how it ended."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as wire, wire.makefile("rb") as heard:
        wire.sendall(HANDSHAKE)
        while heard.readline() != b"\r\n":
            pass
        with contextlib.suppress(ConnectionError):
            if authenticated:
                wire.sendall(frame(TEXT, json.dumps({"type": "auth", "token": token("d-fuzz")}).encode()))
                assert heard.read(2)[0] == 0x80 | TEXT
                heard.read(int.from_bytes(heard.read(2), "big"))
            wire.sendall(data)
            wire.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
            # What is left over of the rubbish may swallow the goodbye, as the head of a longer frame would.
            with contextlib.suppress(OSError):  # the other side was first
                wire.shutdown(socket.SHUT_WR)
            while head := heard.read(2):
                length = int.from_bytes(heard.read(2), "big") if head[1] == 126 else head[1]
                payload = heard.read(length)
                if head[0] & 0x0F == CLOSE:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
    return CUT_OFF
