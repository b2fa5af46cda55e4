"""Clients that no one here wrote: Node's ``ws``, and a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from services.notifier.tests.events import offers_made, withdrawn

from tests.integration import notifier_rig
from tests.integration.notifier_rig import (
    PATIENCE_S,
    Ground,
    Publish,
    Replica,
    order_id,
    phone,
    replica,
    token,
    user,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
here, publish = notifier_rig.here, notifier_rig.publish
NODE = Path(__file__).parents[2] / "services/notifier/tests/node"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_PATIENCE_S = 60.0  # a browser takes its time to start

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules").is_dir()),
    reason="needs node, and `make contract-tools` to have installed services/notifier/tests/node",
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium (Debian: apt-get install chromium)"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(here: Ground) -> AsyncIterator[Page]:
    async with serving() as page:
        yield page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notifier(here: Ground, page: Page) -> AsyncIterator[Replica]:
    async with replica(here.settings(ws_allowed_origins=page.origin)) as notifier:
        yield notifier


# --- Node's ws ---


class NodePhone:
    """A phone on Node's ``ws`` that does as it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def do(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def enter(self, **auth: Any) -> dict[str, Any]:
        """Connect and authenticate; returns ``ready``."""
        self.do(open=auth)
        ready: dict[str, Any] = (await self.hear())["frame"]
        assert ready["type"] == "ready"
        return ready


@contextlib.asynccontextmanager
async def node_phone(notifier: Replica, user_id: str) -> AsyncIterator[NodePhone]:
    process = await asyncio.create_subprocess_exec(
        "node", str(NODE / "phone.mjs"), notifier.ws_url, token(user_id),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )  # fmt: skip
    try:
        yield NodePhone(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE_S)


@needs_node
async def test_node_ws_authenticates_hears_resumes_and_is_told_what_it_did_wrong(
    notifier: Replica, publish: Publish
) -> None:
    captain, gone = user(), order_id()
    async with node_phone(notifier, captain) as it:
        ready = await it.enter()
        await publish(offers_made(captain, order_id=gone))
        assert (await it.hear())["frame"]["offset"] == 1
        it.do(ping="are you there")
        assert await it.hear() == {"pong": "are you there"}
        it.do(say='{"type":"ping"}')
        assert (await it.hear())["frame"]["type"] == "pong"
        it.do(close=1000)
        assert await it.hear() == {"closed": 1000}

        async with phone(notifier) as other:
            await other.enter(captain)
            await publish(withdrawn("filled", captain, order_id=gone))
            await other.hear()
        again = await it.enter(resume={"epoch": ready["epoch"], "offset": 0})
        assert again["recovered"] is True
        assert (await it.hear())["frame"] == {"type": "skip", "from": 1, "to": 1}
        frame = (await it.hear())["frame"]
        assert (frame["offset"], frame["event"]) == (2, "broadcast_dismissed")
        it.do(sayBinary="what")
        assert await it.hear() == {"closed": 4400}


@needs_node
async def test_node_ws_reads_frames_of_every_length(notifier: Replica, publish: Publish) -> None:
    captain = user()
    async with node_phone(notifier, captain) as it:
        await it.enter()
        for offset, length in enumerate(
            (10, 9_000, 60_000, 70_000), start=1
        ):  # 1, 2, 2 and 8 bytes of length
            event = offers_made(captain, order_id=order_id())
            (offer,) = event.offers
            long = event.model_copy(
                update={"offers": (offer.model_copy(update={"offer_token": "x" * length}),)}
            )
            await publish(long)
            frame = (await it.hear())["frame"]
            assert (frame["offset"], len(frame["data"]["offerToken"])) == (offset, length)


# --- a browser ---


@dataclass
class Page:
    """A page on a web server of its own, and what it has told."""

    port: int
    signals: dict[str, asyncio.Future[bytes]] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, host: str, **wanted: str) -> str:
        return f"http://{host}:{self.port}/page#{urlencode(wanted)}"

    def expect(self) -> None:
        """Forget what an earlier browser told."""
        loop = asyncio.get_running_loop()
        self.signals = {path: loop.create_future() for path in ("/ready", "/gone", "/seen")}

    async def told(self, path: str) -> bytes:
        return await asyncio.wait_for(self.signals[path], BROWSER_PATIENCE_S)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Page]:
    """A web server with the one page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            sent = await reader.readexactly(length)
            body = (NODE / "page.html").read_bytes() if path == "/page" else b""
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            await writer.drain()
            if method == "POST" and not served.signals[path].done():
                served.signals[path].set_result(sent)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    served = Page(server.sockets[0].getsockname()[1])
    async with server:
        yield served


@contextlib.asynccontextmanager
async def browsing(url: str, profile: Path) -> AsyncIterator[None]:
    """A headless browser that shows a page."""
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        f"--user-data-dir={profile}", "--remote-debugging-port=0", url,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)


@needs_browser
async def test_a_browser_authenticates_hears_resumes_and_is_told_what_it_did_wrong(
    notifier: Replica, publish: Publish, page: Page, tmp_path: Path
) -> None:
    captain = user()
    page.expect()
    async with browsing(page.url("127.0.0.1", url=notifier.ws_url, token=token(captain)), tmp_path):
        await page.told("/ready")
        await publish(withdrawn("filled", captain, order_id=order_id()))
        await page.told("/gone")
        await publish(*(withdrawn("filled", captain, order_id=order_id()) for _ in range(2)))
        seen = json.loads(await page.told("/seen"))
    assert [(one.get("type"), one.get("offset"), one.get("closed")) for one in seen] == [
        ("ready", 0, None),
        ("event", 1, None),
        (None, None, 1000),
        ("ready", seen[3]["offset"], None),
        ("event", 2, None),
        ("event", 3, None),
        (None, None, 4400),
    ]
    assert seen[3]["recovered"] is True
    assert seen[-1]["reason"] == "not JSON"


@needs_browser
async def test_a_browser_on_a_page_of_another_origin_is_closed_with_4403(
    notifier: Replica, page: Page, tmp_path: Path
) -> None:
    page.expect()
    async with browsing(page.url("localhost", url=notifier.ws_url, token=token(user())), tmp_path):
        seen = json.loads(await page.told("/seen"))
    assert [one.get("closed") for one in seen] == [4403]
