"""The fault rig's own parts: a schedule that a seed fixes, and a proxy that cuts and slows and mends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.ports import free_block
from tools.chaos.logs import logged_errors
from tools.chaos.proxy import TcpProxy
from tools.chaos.schedule import MOST_AT_ONCE, SERVERS, Kind, fingerprint, make_schedule, replica_names

TEN_MINUTES = 600.0
PATIENCE_S = 20.0


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    assert make_schedule(1, TEN_MINUTES) == make_schedule(1, TEN_MINUTES)
    assert fingerprint(make_schedule(1, TEN_MINUTES)) == "cdab9e2831d1"  # on any machine, at any time
    assert fingerprint(make_schedule(2, TEN_MINUTES)) != fingerprint(make_schedule(1, TEN_MINUTES))


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_schedule_breaks_everything_in_every_way_and_never_all_at_once(seed: int) -> None:
    faults = make_schedule(seed, TEN_MINUTES)
    assert {fault.target for fault in faults} == {*SERVERS, *replica_names()}
    assert {fault.kind for fault in faults} == set(Kind)
    for fault in faults:
        running = [one for one in faults if one.at_s <= fault.at_s < one.ends_s]
        assert len(running) <= MOST_AT_ONCE
        assert len({one.target for one in running}) == len(running)
        assert fault.kind not in (Kind.CUT, Kind.SLOW) or fault.target in SERVERS


@contextlib.asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[tuple[TcpProxy, int]]:
    """A server that says everything again, and the port of the proxy before it."""
    base = free_block()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", base)
    try:
        async with TcpProxy(base + 1, base) as proxy:
            yield proxy, base + 1
    finally:
        server.close()


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    return await asyncio.wait_for(reader.read(1000), PATIENCE_S)


async def answers(port: int) -> bool:
    """Whether anything comes back over a new connection; a reset and an orderly end are both a no."""
    with contextlib.suppress(ConnectionResetError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await say(reader, writer, b"ping") == b"ping"
        finally:
            writer.close()
    return False


async def test_the_proxy_passes_on_what_is_said_and_its_end() -> None:
    async with echo_behind_a_proxy() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"ping") == b"ping"
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()


async def test_a_cut_resets_what_is_open_and_what_comes_until_it_is_mended() -> None:
    async with echo_behind_a_proxy() as (proxy, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"ping") == b"ping"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert not await answers(port)
        proxy.mend()
        assert await answers(port)


async def test_a_slow_connection_takes_its_time_in_both_directions() -> None:
    async with echo_behind_a_proxy() as (proxy, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        proxy.slow(0.05)
        began = time.monotonic()
        assert await say(reader, writer, b"ping") == b"ping"
        assert time.monotonic() - began >= 0.1
        proxy.mend()
        writer.close()


def test_the_report_counts_the_errors_that_services_logged_and_leaves_out_those_of_others(
    tmp_path: Path,
) -> None:
    log = tmp_path / "expiry.log"
    lines = [
        {
            "level": "ERROR",
            "service": "expiry",
            "message": "Task was destroyed\ntask: …",
            "logger": "asyncio",
        },
        {"level": "ERROR", "service": "expiry", "message": "Unable connect", "logger": "aiokafka.conn"},
        {"level": "WARNING", "service": "expiry", "message": "Firing waits", "logger": "expiry.firing"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"level": "ERR')
    assert logged_errors([log, log]) == {"expiry: Task was destroyed": 2}
