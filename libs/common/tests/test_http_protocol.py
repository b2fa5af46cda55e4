"""The services' HTTP protocol: an answer leaves in one piece, what is no HTTP or has a head without end is refused, and
nothing else is other than uvicorn's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from weelo_common.http_middleware import MAX_BODY_BYTES
from weelo_common.lifecycle import Lifecycle

PATIENCE_S = 20.0
REQUEST = b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n"
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the application, as every service serves its own."""
    life = Lifecycle(shutdown_deadline_s=PATIENCE_S)
    life.serve_http(app, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", life.http_port)
            try:
                yield reader, writer
            finally:
                writer.close()
                await writer.wait_closed()
    finally:
        await life.shutdown()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while not body:
        body = (await receive()).get("body", b"") or scope["path"].encode().ljust(5)
    await send(HEAD)
    await send({"type": "http.response.body", "body": body})


async def test_an_answers_head_and_body_arrive_in_one_piece() -> None:
    async with served(echo) as (reader, writer):
        for number in range(50):
            writer.write(REQUEST % number)
            piece = await reader.read(65_536)
            assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
            assert piece.endswith(b"\r\n\r\n" + (b"/%d" % number).ljust(5))


async def test_requests_sent_at_once_are_answered_in_order() -> None:
    async with served(echo) as (reader, writer):
        writer.write(b"".join(REQUEST % number for number in range(20)))
        for number in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            assert await reader.readexactly(5) == (b"/%d" % number).ljust(5)


async def test_a_body_that_comes_in_time_is_not_held_back_until_its_end() -> None:
    go_on = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD)
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"12", "more_body": True})
        go_on.clear()
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"345"})

    async with served(slow) as (reader, writer):
        writer.write(REQUEST % 1)
        await reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert await reader.readexactly(2) == b"12"
        go_on.set()
        assert await reader.readexactly(3) == b"345"


async def test_an_answer_before_a_close_arrives_whole() -> None:
    async with served(echo) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n/    ")


async def test_a_caller_who_asks_whether_to_go_on_is_told_so() -> None:
    async with served(echo) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"


@pytest.mark.parametrize(
    "line",
    [
        b"FOO / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"\x00" * 500,
    ],
    ids=lambda line: repr(line[:20]),
)
async def test_what_is_no_http_is_a_validation_error_with_an_id_and_the_end_of_the_connection(
    line: bytes,
) -> None:
    async with served(echo) as (reader, writer):
        writer.write(line)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    status, *headers = head.decode().lower().split("\r\n")
    named = dict(header.split(": ", 1) for header in headers)
    assert status == "http/1.1 400 bad request"
    assert len(named["x-request-id"]) == 36
    assert (named["connection"], named["content-type"]) == ("close", "application/json")
    assert int(named["content-length"]) == len(body)
    assert json.loads(body)["error"]["code"] == "VALIDATION_ERROR"


async def test_a_head_without_end_is_not_read_on() -> None:
    with contextlib.suppress(ConnectionError):  # the connection may end before all was written
        async with served(echo) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nX-Long: ")
            for _ in range(64):
                writer.write(b"a" * 32_768)
                await writer.drain()
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")  # else it waits for the head's end


async def test_a_head_of_many_kilobytes_in_pieces_is_read() -> None:
    async with served(echo) as (reader, writer):
        for _ in range(2):  # each request's head counts for itself
            writer.write(b"GET /1 HTTP/1.1\r\nHost: test\r\n")
            for number in range(10):
                await writer.drain()
                writer.write(b"X-%d: %b\r\n" % (number, b"a" * 4000))
            writer.write(b"\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"/1   "


async def test_a_head_in_two_pieces_may_have_a_large_body_behind_it() -> None:
    body = b"b" * MAX_BODY_BYTES
    request = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    taken = 0

    async def take_all(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal taken
        is_more = True
        while is_more:
            message = await receive()
            taken += len(message["body"])
            is_more = message["more_body"]
        await send(HEAD)
        await send({"type": "http.response.body", "body": b"taken"})

    async with served(take_all) as (reader, writer):
        writer.write(request[:20])
        await asyncio.sleep(0.05)  # so that the head's beginning is read by itself
        writer.write(request[20:])
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert taken == len(body)


async def test_trailers_without_end_are_not_read_on() -> None:
    async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    with contextlib.suppress(ConnectionError):  # the connection may end before all was written
        async with served(read_all) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            for _ in range(64):
                writer.write(b"X-Trailer: %b\r\n" % (b"a" * 32_000))
                await writer.drain()
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")  # else it waits for the trailers' end
